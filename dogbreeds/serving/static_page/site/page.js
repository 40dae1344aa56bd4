// The page: it takes a photo, has worker.js answer it, and shows the answer. Of several photos in a row, it shows the
// answer to the last one.
import * as cards from "./cards.js";
import * as severalDogs from "./several_dogs.js";
import { chosenLanguage, element, fill, paragraphs } from "./texts.js";

const [model, allWords] = await Promise.all(["model.json", "words.json"].map(async (path) => (await fetch(path)).json()));
const language = chosenLanguage(Object.keys(allWords));
const words = allWords[language];
const find = (selector) => document.querySelector(selector);
let asked = 0, address = null;

// WebAssembly with SIMD: a module that has one function, which makes and counts bits of a vector.
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

speak();
let worker = null;
if (WebAssembly.validate(SIMD)) startWorker();
else tell(words.no_simd);

function speak() {
  document.documentElement.lang = language;
  document.title = words.title;
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = words[each.dataset.text];
  for (const each of document.querySelectorAll("[data-alt]")) each.alt = words[each.dataset.alt];
  for (const each of document.querySelectorAll("[data-label]")) each.ariaLabel = words[each.dataset.label];
  for (const link of document.querySelectorAll(".languages a")) link.ariaCurrent = String(link.lang === language);
  find("#about").append(...[words.about_text, words.about_device, words.rates].flatMap(paragraphs));
  find("#breeds").innerHTML = words.breeds_html; // made by `publish`, which escapes the names
}

function startWorker() {
  worker = new Worker("worker.js", { type: "module" });
  const largeFiles = [model.network, model.weights, model.runtime, model.detector];
  const all = largeFiles.reduce((sum, { bytes }) => sum + bytes, 0);
  const loading = (bytes) => (bytes < all ? fill(words.loading, inMegabytes(bytes), inMegabytes(all)) : words.starting);
  worker.addEventListener("message", ({ data }) => {
    if (!worker) return;
    if (data.progress) setDevice(loading(data.progress), true);
    else if (data.ready) keep(data.isKept);
    else if (data.failed) fail(words[data.failed]);
    else if (data.id === asked) hear(data);
  });
  worker.addEventListener("error", () => fail(words.not_loaded));
}

const inMegabytes = (bytes) => (bytes / 1e6).toFixed(0);

// What the device is doing; screen readers wait while it is busy.
function setDevice(sentence, isBusy = false) {
  find("#device").ariaBusy = String(isBusy);
  find("#device").textContent = sentence;
}

// From now on, the page opens without a connection.
async function keep(isKept) {
  setDevice(words.ready, true);
  try {
    if (!isKept) throw new Error("the large files are not kept");
    await active(await navigator.serviceWorker.register("service_worker.js", { updateViaCache: "none" }));
    setDevice(words.kept);
  } catch {
    setDevice(words.not_kept);
  }
}

function active({ active, installing, waiting }) {
  if (active) return active;
  return new Promise((resolve, reject) => {
    (installing ?? waiting).addEventListener("statechange", ({ target }) => {
      if (target.state === "activated") resolve(target);
      if (target.state === "redundant") reject(new Error("the small files are not kept"));
    });
  });
}

// Nothing can be answered until the page is loaded again.
function fail(sentence) {
  worker = null;
  setDevice("");
  tell(sentence);
}

function tell(sentence) {
  document.body.dataset.photo = "failed";
  find("#problem").replaceChildren(cards.problem(sentence, words, model));
}

function ask(file) {
  if (!worker) return;
  find("#problem").replaceChildren();
  document.body.dataset.photo = "sending";
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(file);
  worker.postMessage({ id: ++asked, file });
}

// The photo as a whole is answered first. It takes a while until its several dogs are, if it shows them.
function hear({ prediction, isLooking, dogs, problem }) {
  if (problem) tell(words[problem]);
  else if (prediction) {
    show(cards, prediction);
    find("#verdict").scrollIntoView({ block: "nearest" });
  } else if (isLooking) find("#verdict").prepend(element("p", { className: "which-dog" }, words.looking_at_each));
  else if (dogs.length) show(severalDogs, dogs);
  else find("#verdict .which-dog")?.remove();
}

function show(say, answered) {
  document.body.dataset.photo = "answered";
  find("#verdict").replaceChildren(say.headline(answered, words, model));
  find("#picture").replaceChildren(say.picture(answered, address, words, model));
  find("#details").replaceChildren(...say.details(answered, words, model));
}

document.addEventListener("change", ({ target }) => {
  if (!target.files?.length) return;
  ask(target.files[0]);
  target.value = ""; // so that the same photo can be chosen again
});
document.addEventListener("click", async ({ target }) => {
  const example = target.closest(".examples button")?.firstElementChild;
  if (example) ask(await (await fetch(example.src)).blob());
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  ask(event.clipboardData.files[0]);
});
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  ask(event.dataTransfer.files[0]);
});
