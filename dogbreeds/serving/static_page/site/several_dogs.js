// The answer to a photo of several dogs as elements of the page: a box around each, and the answer to the one that is
// chosen: dogbreeds/serving/page/several_dogs.py, with whose script choose_dog.js it shows the chosen one.
import "./choose_dog.js";
import { baseLayer, details as detailsOf, heatCaption, heatLayer, heatSwitch, headline as headlineOf, inShort, putOver } from "./cards.js";
import { area } from "./looks.js";
import { element, fill } from "./texts.js";

// The verdict on each dog, and which dog it is.
export const headline = (dogs, words, model) =>
  element("div", {}, ...ofEach(dogs, "div", (dog, number) => [
    element("p", { className: "which-dog" }, fill(words.dog_of, number, dogs.length)),
    headlineOf(dog, words, model),
  ]));

// The photo with a box around each dog, the heat map of the one that is chosen, and the dogs to choose from.
export function picture(dogs, source, words, model) {
  const heatMaps = ofEach(dogs, "div", (dog) => (dog.heatMap ? [heatLayer(dog, words, model)] : []));
  // A small dog before a large one can be pressed too: it is drawn above.
  const boxes = dogs.map((dog, i) => [area(dog.box), boxOf(dog, i + 1)]).sort((a, b) => b[0] - a[0]).map(([, box]) => box);
  const layers = element("div", { className: "layers" }, baseLayer(source, words), ...heatMaps, ...boxes);
  const choices = element("fieldset", { className: "dogs" }, element("legend", {}, fill(words.choose_dog, dogs.length)));
  choices.append(...dogs.map((dog, i) => choiceOf(dog, i + 1, words)));
  const figure = element("figure", { className: "photo" }, layers, choices);
  const captions = ofEach(dogs, "span", (dog) => [heatCaption(dog, words)]);
  if (dogs.some(({ heatMap }) => heatMap)) figure.append(heatSwitch(captions));
  return figure;
}

// What cards.js says in detail, of each dog.
export const details = (dogs, words, model) => ofEach(dogs, "div", (dog) => detailsOf(dog, words, model));

// What is said of each dog, in an element of its own, of which that of the chosen one is shown: the first, at first.
const ofEach = (dogs, tag, say) =>
  dogs.map((dog, i) => {
    const own = element(tag, { hidden: i > 0 }, ...say(dog, i + 1));
    own.dataset.dog = i + 1;
    return own;
  });

// What is drawn around a dog. It is for the mouse and the finger: there are radio buttons for all others.
function boxOf({ box }, number) {
  const drawn = element("span", { className: "box" }, element("span", {}, String(number)));
  drawn.dataset.box = number;
  drawn.toggleAttribute("data-chosen", number === 1);
  return putOver(drawn, box);
}

function choiceOf(dog, number, words) {
  const radio = element("input", { type: "radio", name: "dog", value: number, checked: number === 1 });
  return element("label", {}, radio, element("span", {}, String(number)), ` ${inShort(dog, words)}`);
}
