// A photo of several dogs: a box and an answer for each: dogbreeds/serving/every_dog.py.
import { halve, numHalvings, resize } from "./resize.js";

// Of each dog that dog_detector.js has found, from left to right, the answer that `predict` promises to a photo of it, and
// its `box`, in shares of the photo. None where there are fewer than two.
export async function everyDog(photo, found, predict, atLeast) {
  if (found.length < 2) return [];
  const dogs = [];
  for (const { box, isSure } of found) {
    const answer = await predict(closeUp(photo, box, atLeast));
    if (isSure || answer.verdict !== "not_a_dog") dogs.push(dogOf(photo, box, answer));
  }
  return dogs.length > 1 ? dogs : [];
}

// What is in a box, as a square, halved as a photo is.
function closeUp(photo, box, atLeast) {
  const side = Math.max(1, Math.round(Math.max(box[2] - box[0], box[3] - box[1])));
  const bytes = resize(photo, box, side, side);
  let image = { width: side, height: side, data: new Uint8Array(4 * side * side).fill(255) };
  for (let i = 0; i < side * side; i++) image.data.set(bytes.subarray(3 * i, 3 * i + 3), 4 * i);
  for (let i = numHalvings(side, side, atLeast); i > 0; i--) image = halve(image);
  return image;
}

function dogOf(photo, box, answer) {
  const [left, top, right, bottom] = box.map((edge, i) => edge / (i % 2 ? photo.height : photo.width));
  const region = answer.region.map((edge, i) => (i % 2 ? top + edge * (bottom - top) : left + edge * (right - left)));
  return { ...answer, box: [left, top, right, bottom], region };
}
