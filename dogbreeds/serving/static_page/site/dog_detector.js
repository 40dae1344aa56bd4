// Where the dogs of a photo are: dogbreeds/serving/dog_detector.py. `constants` are those of model.json.
import { area } from "./looks.js";
import { resize } from "./resize.js";

// A function from a photo to its dogs, from left to right: { box, isSure, score }. It searches each photo once.
// `network` takes what detectorView gives and promises { scores, dogScores, distances }.
export function dogFinder(network, constants) {
  const known = new WeakMap();
  const search = async (photo) => {
    const view = detectorView(photo, constants);
    return dogsOf(await network(view), view, photo, constants);
  };
  return (photo) => {
    if (!known.has(photo)) known.set(photo, search(photo));
    return known.get(photo);
  };
}

// The box with the highest score; null where no dog is found.
export const likeliestDog = (found) =>
  found.reduce((best, each) => (best && best.score >= each.score ? best : each), null)?.box ?? null;

// What the network sees of a photo: { width, height, pixels }, float32, three planes, blue first.
export function detectorView(photo, { num_pixels: numPixels, strides, mean, std }) {
  const scale = Math.sqrt(numPixels / (photo.width * photo.height)), stride = strides.at(-1);
  const [width, height] = [photo.width, photo.height].map((side) =>
    Math.min(Math.max(stride, Math.round((side * scale) / stride) * stride), Math.floor(numPixels / stride)));
  const bytes = resize(photo, [0, 0, photo.width, photo.height], width, height);
  const plane = width * height;
  const pixels = new Float32Array(3 * plane);
  for (let channel = 0; channel < 3; channel++) {
    const values = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte - mean[channel]) / std[channel]);
    for (let i = 0; i < plane; i++) pixels[channel * plane + i] = values[bytes[3 * i + 2 - channel]];
  }
  return { width, height, pixels };
}

// From what the network says of each cell to dogs, in the photo's pixels.
export function dogsOf({ scores, dogScores, distances }, { width, height }, photo, constants) {
  const { strides, min_score: minScore, sure_score: sureScore } = constants;
  const cells = cellsOf(width, height, strides);
  const numBins = distances.length / (4 * cells.length);
  const sides = [width, height, width, height];
  const likely = [];
  scores.forEach((score, cell) => {
    if (score < minScore) return;
    const logits = distances.subarray(4 * numBins * cell, 4 * numBins * (cell + 1));
    const box = boxOf(logits, cells[cell]).map((edge, i) => Math.min(Math.max(edge, 0), sides[i]));
    const isLarge = Math.min(box[2] - box[0], box[3] - box[1]) >= strides[0];
    if (isLarge) likely.push({ box, isSure: dogScores[cell] >= sureScore, score });
  });
  const [across, down] = [photo.width / width, photo.height / height];
  return distinct(likely, constants)
    .map((each) => ({ ...each, box: each.box.map((edge, i) => edge * (i % 2 ? down : across)) }))
    .sort((a, b) => a.box[0] + a.box[2] - (b.box[0] + b.box[2]));
}

// The centre of each cell and its stride, in the order of the network's outputs.
function cellsOf(width, height, strides) {
  const cells = [];
  for (const stride of strides)
    for (let y = 0; y < Math.floor(height / stride); y++)
      for (let x = 0; x < Math.floor(width / stride); x++)
        cells.push({ x: (x + 0.5) * stride, y: (y + 0.5) * stride, stride });
  return cells;
}

// `logits` are those of the distance to each side, in strides: 0, 1, 2 and so on.
function boxOf(logits, { x, y, stride }) {
  const numBins = logits.length / 4;
  const [left, top, right, bottom] = [0, 1, 2, 3].map((side) => {
    const own = logits.subarray(numBins * side, numBins * (side + 1));
    const largest = Math.max(...own);
    let total = 0, sum = 0;
    own.forEach((logit, bin) => {
      const weight = Math.exp(logit - largest);
      total += weight;
      sum += weight * bin;
    });
    return (sum / total) * stride;
  });
  return [x - left, y - top, x + right, y + bottom];
}

// One of the boxes for each dog, the best first: the more of a box is in a better one, the higher its score has to be.
export function distinct(found, { min_score: minScore, max_dogs: maxDogs }) {
  const scores = found.map(({ score }) => score);
  const kept = [];
  while (kept.length < maxDogs) {
    const highest = Math.max(...scores);
    if (!(highest >= minScore)) break;
    const best = found[scores.indexOf(highest)];
    kept.push(best);
    found.forEach(({ box }, i) => { scores[i] *= (1 - Math.min(shareInside(box, best.box), 1)) ** 2; });
  }
  return kept;
}

// The share of the smaller of two boxes that lies in the other.
function shareInside(one, other) {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  return (Math.max(width, 0) * Math.max(height, 0)) / Math.min(area(one), area(other));
}
