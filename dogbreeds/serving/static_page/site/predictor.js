// A photo -> its answer: the same looks, calibration and words as dogbreeds/serving/predictor.py.
import { answer } from "./answers.js";
import { mean, probabilities, verdict } from "./calibration.js";
import { likeliestDog } from "./dog_detector.js";
import { evidence } from "./heat_map.js";
import { combined, firstBox, nextBox } from "./looks.js";
import { pixelValues, region } from "./view.js";

// `network` takes the pixels of one look and promises { logits, features, heatMap }; `findDogs` is from dog_detector.js.
// The answer is that of answers.js with the heat map of the best look, the region of the photo that it saw, in shares,
// and the number of looks.
export async function predict(photo, model, network, findDogs) {
  const { calibration, looks: constants } = model;
  const centre = region(model.view, photo.width, photo.height);
  const looksCloser = calibration.sure_margin !== null && model.has_heat_map;
  let box = looksCloser ? firstBox(photo, centre, constants) : centre;
  const looks = [];
  while (box) {
    const look = await network(pixelValues(model.view, photo, box));
    looks.push({ ...look, box, logits: look.logits.map((logit) => logit * model.logit_scale) });
    box = await nextBox(looks, photo, calibration, constants, async () => likeliestDog(await findDogs(photo)));
  }
  const outputs = combined(looks, constants);
  const answered = answer(probabilities(outputs.logits, calibration), verdict(outputs, calibration), model);
  const { label } = answered.breeds[0];
  const standsOut = ({ logits }) => logits[label] - mean(logits);
  const best = looks.reduce((a, b) => (standsOut(b) > standsOut(a) ? b : a));
  const [left, top, right, bottom] = best.box;
  return {
    ...answered,
    heatMap: best.heatMap ? evidence(best.heatMap, label) : null,
    region: [left / photo.width, top / photo.height, right / photo.width, bottom / photo.height],
    numLooks: looks.length,
  };
}
