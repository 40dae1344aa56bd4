// Pillow's resampling (its Resample.c and Reduce.c, read in 12.3), so that the model sees the pixels that it sees on a
// server: browsers scale differently. An image is { width, height, data }, with the bytes R, G, B, A of each pixel.

const BILINEAR = { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };
const BICUBIC = {
  support: 2,
  weight(x) {
    const a = -0.5;
    x = Math.abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  },
};
const PRECISION = 22; // bits of the weights of 8-bit pixels

// Of each of `size` places between `low` and `high`: which of the `whole` old places it is made of, and how they weigh.
function contributions(whole, low, high, size, filter) {
  low = Math.fround(low);
  const scale = Math.fround(Math.fround(high) - low) / size;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: size }, (_, place) => {
    const centre = low + (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(whole, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let old = start; old < end; old++) weights.push(filter.weight((old - centre + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

const inWholeNumbers = ({ start, weights }) => ({
  start,
  weights: Int32Array.from(weights, (weight) => Math.trunc(0.5 + weight * 2 ** PRECISION)),
});

// A part of an image, scaled with the bilinear filter: the bytes R, G, B of each pixel. The box is [left, top, right,
// bottom], in pixels.
export function resize(image, [left, top, right, bottom], width, height) {
  const columns = contributions(image.width, left, right, width, BILINEAR).map(inWholeNumbers);
  const rows = contributions(image.height, top, bottom, height, BILINEAR).map(inWholeNumbers);
  const first = rows[0].start;
  const last = rows[height - 1].start + rows[height - 1].weights.length;
  return scaledDown(scaledAcross(image, columns, first, last), rows, first, 3 * width);
}

// The loops count by hand, and `| 0` keeps the sums whole numbers for the compiler: this is most of what a look costs
// besides the network.
const HALF = 2 ** (PRECISION - 1);

function scaledAcross({ width, data }, columns, first, last) {
  const narrow = new Uint8Array(3 * columns.length * (last - first));
  for (let y = first, to = 0; y < last; y++) {
    for (let x = 0; x < columns.length; x++, to += 3) {
      const { start, weights } = columns[x];
      let red = HALF, green = HALF, blue = HALF;
      for (let i = 0, from = 4 * (y * width + start); i < weights.length; i++, from += 4) {
        red = (red + weights[i] * data[from]) | 0;
        green = (green + weights[i] * data[from + 1]) | 0;
        blue = (blue + weights[i] * data[from + 2]) | 0;
      }
      narrow[to] = red >> PRECISION;
      narrow[to + 1] = green >> PRECISION;
      narrow[to + 2] = blue >> PRECISION;
    }
  }
  return narrow;
}

function scaledDown(narrow, rows, first, rowLength) {
  const scaled = new Uint8Array(rowLength * rows.length);
  const sums = new Int32Array(rowLength);
  for (let y = 0; y < rows.length; y++) {
    const { start, weights } = rows[y];
    sums.fill(HALF);
    for (let i = 0; i < weights.length; i++) {
      const weight = weights[i], from = rowLength * (start - first + i);
      for (let x = 0; x < rowLength; x++) sums[x] += weight * narrow[from + x];
    }
    for (let x = 0; x < rowLength; x++) scaled[rowLength * y + x] = sums[x] >> PRECISION;
  }
  return scaled;
}

// A table of numbers, row by row, scaled with the bicubic filter.
export function resizeNumbers(values, width, height, newWidth, newHeight) {
  const columns = contributions(width, 0, width, newWidth, BICUBIC);
  const rows = contributions(height, 0, height, newHeight, BICUBIC);
  const narrow = new Float32Array(newWidth * height);
  for (let y = 0; y < height; y++) {
    columns.forEach(({ start, weights }, x) => {
      narrow[y * newWidth + x] = weights.reduce((sum, weight, i) => sum + weight * values[y * width + start + i], 0);
    });
  }
  const scaled = new Float32Array(newWidth * newHeight);
  rows.forEach(({ start, weights }, y) => {
    for (let x = 0; x < newWidth; x++) {
      const sum = weights.reduce((total, weight, i) => total + weight * narrow[(start + i) * newWidth + x], 0);
      scaled[y * newWidth + x] = sum;
    }
  });
  return scaled;
}

// Half as wide and as high, rounded up: each pixel is the mean of four, at an odd edge of two.
export function halve(image) {
  const width = Math.ceil(image.width / 2), height = Math.ceil(image.height / 2);
  const data = new Uint8Array(4 * width * height);
  for (let y = 0, to = 0; y < height; y++) {
    const below = 2 * y + 1 < image.height ? 4 * image.width : 0;
    for (let x = 0; x < width; x++) {
      const beside = 2 * x + 1 < image.width ? 4 : 0;
      let from = 4 * (2 * y * image.width + 2 * x);
      for (let channel = 0; channel < 4; channel++, from++, to++) {
        const sum = image.data[from] + image.data[from + beside] + image.data[from + below] + image.data[from + below + beside];
        data[to] = (sum + 2) >> 2;
      }
    }
  }
  return { width, height, data };
}

// How often an image is halved that is needed this wide and high.
export function numHalvings(width, height, atLeast) {
  let num = 0;
  for (; Math.min(width, height) >= 2 * atLeast; num++) [width, height] = [Math.ceil(width / 2), Math.ceil(height / 2)];
  return num;
}
