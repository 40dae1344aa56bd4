// From a file to the pixels of an upright photo in sRGB, transparent places white: dogbreeds/images.py.
import { halve, numHalvings } from "./resize.js";

const BAND = 256; // rows that are read at a time: some browsers refuse a canvas of a whole photo

// Its `problem` is the name of a sentence.
export class BadPhoto extends Error {
  constructor(problem) {
    super(problem);
    this.problem = problem;
  }
}

// A photo whose sides are twice as long as needed, or longer, is halved.
export async function openPhoto(file, { at_least: atLeast, max_pixels: maxPixels }) {
  if (!file.size) throw new BadPhoto("empty");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new BadPhoto("not_a_photo");
  }
  try {
    if (bitmap.width * bitmap.height > maxPixels) throw new BadPhoto("too_large");
    return pixelsOf(bitmap, numHalvings(bitmap.width, bitmap.height, atLeast));
  } finally {
    bitmap.close();
  }
}

function pixelsOf(bitmap, halvings) {
  const canvas = new OffscreenCanvas(bitmap.width, BAND);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const bands = [];
  for (let top = 0; top < bitmap.height; top += BAND) {
    const height = Math.min(BAND, bitmap.height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, height);
    context.drawImage(bitmap, 0, -top);
    let band = context.getImageData(0, 0, bitmap.width, height);
    for (let i = 0; i < halvings; i++) band = halve(band);
    bands.push(band);
  }
  const width = bands[0].width;
  const height = bands.reduce((sum, band) => sum + band.height, 0);
  const data = new Uint8Array(4 * width * height);
  let row = 0;
  for (const band of bands) {
    data.set(band.data, 4 * width * row);
    row += band.height;
  }
  return { width, height, data };
}
