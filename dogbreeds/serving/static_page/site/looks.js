// Several looks at one photo, each where the one before points: dogbreeds/looks.py. `constants` are those of model.json.
// A look is { box, logits, features, heatMap }; a heat map is { width, height, data }, one plane a class.
import { dogScore, mean } from "./calibration.js";

// Where the first look goes; `centre` is the part that the view takes.
export function firstBox({ width, height }, centre, constants) {
  const isLong = Math.max(width, height) > constants.max_proportion * Math.min(width, height);
  return isLong ? [0, 0, width, height] : centre;
}

// Where to look next; null where one more look is not worth it. `findDog` promises a dog's box, or null.
export async function nextBox(looks, size, calibration, constants, findDog = () => null) {
  const last = looks.at(-1);
  if (calibration.sure_margin === null || !last.heatMap || looks.length > constants.spreads.length) return null;
  const { logits } = combined(looks, constants);
  const [first, second] = logits.slice().sort((a, b) => b - a);
  const isSeen = looks.length > 1 && dogScore(logits) >= (calibration.seen_score || -Infinity);
  if (first - second >= calibration.sure_margin || isSeen) return null;
  const dog = looks.length === 1 ? await findDog() : null;
  if (dog && area(dog) <= constants.small_dog * area(last.box)) return dog;
  return closerBox(last, size, constants.spreads[looks.length - 1], constants);
}

export const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);

// A square around what speaks for any breed; `spreads` is its side, in standard deviations.
export function closerBox(look, size, spreads, constants) {
  const { width, height } = look.heatMap;
  const weights = evidenceForAny(look.heatMap);
  const [left, top, right, bottom] = look.box;
  const across = Array.from({ length: width }, (_, x) => sum(height, (y) => weights[y * width + x]));
  const down = Array.from({ length: height }, (_, y) => sum(width, (x) => weights[y * width + x]));
  const places = [centreAndSpread(across, left, right), centreAndSpread(down, top, bottom)];
  const shorter = Math.min(size.width, size.height);
  const wanted = spreads * Math.max(...places.map((place) => place.spread));
  const side = clip(wanted, constants.min_side * shorter, shorter);
  const [x, y] = [size.width, size.height].map((whole, axis) => {
    const corner = places[axis].centre - side / 2;
    return clip(Math.round(corner * constants.places_per_pixel) / constants.places_per_pixel, 0, whole - side);
  });
  return [x, y, x + side, y + side];
}

// The outputs of all looks as those of one: logits weighted by how far a breed stands out, features of the best look.
export function combined(looks, constants) {
  const scores = looks.map((look) => dogScore(look.logits));
  const best = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(constants.weight * (score - best)));
  const total = sum(weights.length, (i) => weights[i]);
  const logits = looks[0].logits.map((_, label) => sum(looks.length, (i) => (weights[i] / total) * looks[i].logits[label]));
  return { logits, features: looks[scores.indexOf(best)].features };
}

// How much each place counts: what it says for its most probable class, above the average, squared; in all 1.
function evidenceForAny({ width, height, data }) {
  const plane = width * height, numClasses = data.length / plane;
  const evidence = Float64Array.from({ length: plane }, (_, place) => {
    const ofPlace = Float64Array.from({ length: numClasses }, (_, label) => data[label * plane + place]);
    return Math.max(...ofPlace) - mean(ofPlace);
  });
  const average = mean(evidence);
  const weights = evidence.map((value) => Math.max(value - average, 0) ** 2);
  const total = sum(plane, (place) => weights[place]);
  return total > 1e-9 ? weights.map((weight) => weight / total) : weights.fill(1 / plane);
}

function centreAndSpread(shares, low, high) {
  const place = (i) => low + ((i + 0.5) / shares.length) * (high - low);
  const centre = sum(shares.length, (i) => shares[i] * place(i));
  return { centre, spread: Math.sqrt(sum(shares.length, (i) => shares[i] * (place(i) - centre) ** 2)) };
}

const clip = (value, low, high) => Math.min(Math.max(value, low), high);

function sum(length, value) {
  let total = 0;
  for (let i = 0; i < length; i++) total += value(i);
  return total;
}
