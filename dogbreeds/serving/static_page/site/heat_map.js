// Where a photo speaks for a breed, as a picture to lay over it: `evidence` of dogbreeds/serving/predictor.py and
// `colours` of serving/heat_map.py.
import { mean } from "./calibration.js";
import { resizeNumbers } from "./resize.js";

// 0..1 for each place: above the average, where it speaks for this label rather than for the others.
export function evidence({ width, height, data }, label) {
  const plane = width * height, numClasses = data.length / plane;
  const relative = Float32Array.from({ length: plane }, (_, place) => {
    let sum = 0;
    for (let other = 0; other < numClasses; other++) sum += data[other * plane + place];
    return data[label * plane + place] - sum / numClasses;
  });
  const average = mean(relative);
  const above = relative.map((value) => Math.max(value - average, 0));
  const strongest = Math.max(...above, 1e-12);
  return { width, height, data: above.map((value) => value / strongest) };
}

// A square picture of this side, pixels R, G, B, A, which lets the photo below it through.
export function colours(heatMap, side, { colours: stops, opacity: [lowest, highest] }) {
  const heat = resizeNumbers(heatMap.data, heatMap.width, heatMap.height, side, side);
  const picture = new Uint8ClampedArray(4 * side * side);
  heat.forEach((value, i) => {
    const share = Math.min(Math.max(value, 0), 1);
    const place = share * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [low, high] = [stops[below][channel], stops[below + 1][channel]];
      picture[4 * i + channel] = low + (place - below) * (high - low);
    }
    picture[4 * i + 3] = 255 * (lowest + share * (highest - lowest));
  });
  return picture;
}
