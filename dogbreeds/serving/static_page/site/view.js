// What a model sees of a photo: dogbreeds/preprocessing.py, without the steps that few models have. `view` is that of
// model.json.
import { resize } from "./resize.js";

// The part that a first look takes: [left, top, right, bottom], in the photo's pixels.
export function region(view, width, height) {
  if (view.fit === "squash") return [0, 0, width, height];
  const [[left, right], [top, bottom]] = [width, height].map((side) => {
    const scaled = Math.trunc((view.shortest_edge * side) / Math.min(width, height));
    const start = Math.floor((scaled - view.size) / 2);
    return [(start * side) / scaled, ((start + view.size) * side) / scaled];
  });
  return [left, top, right, bottom];
}

// A part of a photo as the network takes it: float32, three planes, normalised.
export function pixelValues(view, photo, box) {
  const bytes = resize(photo, box, view.size, view.size);
  const plane = view.size ** 2;
  const pixels = new Float32Array(3 * plane);
  view.scale.forEach((scale, channel) => {
    const values = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte * scale) - view.shift[channel]);
    for (let i = 0; i < plane; i++) pixels[channel * plane + i] = values[bytes[3 * i + channel]];
  });
  return pixels;
}
