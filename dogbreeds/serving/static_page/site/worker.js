// Answers photos beside the page, which stays usable meanwhile. It is sent { id, file }. It sends { progress } while the
// large files come, then { ready } or { failed }; and for each photo { id, prediction }, the answer to it as a whole,
// { id, isLooking } where there may be several dogs, and { id, dogs }, an answer for each of these; or { id, problem }. A
// photo that another one follows is dropped.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { dogFinder } from "./dog_detector.js";
import { everyDog } from "./every_dog.js";
import { DamagedFile, keptFile } from "./kept_files.js";
import { BadPhoto, openPhoto } from "./photos.js";
import { predict } from "./predictor.js";
import { unpackedWeights } from "./weights.js";

const MOST_THREADS = 4; // phones have slow cores besides the fast ones

class Outdated extends Error {} // another photo has come

let newest = null; // the id of the photo that was asked last
const come = new Map(); // of each large file, how many bytes have come
const areKept = []; // promises, of each large file

const description = fetch("model.json").then((reply) => reply.json());
const loaded = load();
tellWhenLoaded();

addEventListener("message", async ({ data: { id, file } }) => {
  newest = id;
  try {
    await answer(id, file);
  } catch (error) {
    if (error instanceof Outdated) return;
    if (!(error instanceof BadPhoto)) console.error(error);
    postMessage({ id, problem: error.problem ?? "failed" });
  }
});

async function answer(id, file) {
  const model = await description;
  const asked = performance.now();
  const photo = await openPhoto(file, model.photo); // while the networks come
  const openingTime = performance.now() - asked;
  const { network, findDogs } = await loaded;
  const started = performance.now() - openingTime;
  const look = async (pixels) => {
    await newMessages();
    if (id !== newest) throw new Outdated();
    return network(pixels);
  };
  const predicted = async (photo) => {
    const prediction = await predict(photo, model, look, findDogs);
    return { ...prediction, milliseconds: performance.now() - started };
  };
  postMessage({ id, prediction: await predicted(photo) });
  const found = await findDogs(photo);
  if (found.length > 1) postMessage({ id, isLooking: true });
  postMessage({ id, dogs: await everyDog(photo, found, predicted, model.photo.at_least) });
}

// Messages that have come meanwhile are heard first: a network keeps everything else waiting.
const newMessages = () => new Promise((go) => setTimeout(go));

// A photo is answered as soon as the network is there; the detector comes after it.
async function load() {
  const model = await description;
  const [network, weights, runtime] = await Promise.all([model.network, model.weights, model.runtime].map(largeFile));
  const detector = largeFile(model.detector);
  detector.catch(() => {}); // told by tellWhenLoaded
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  ort.env.wasm.wasmBinary = await unpacked(runtime);
  const { location, rows } = model.weights;
  const look = await passOf(network, [{ path: location, data: unpackedWeights(weights, rows) }]);
  const { size } = model.view;
  const view = (pixels) => ({ width: size, height: size, pixels });
  if (newest === null) await look(view(new Float32Array(3 * size ** 2))); // the first pass takes longer than later ones
  const search = detector.then((content) => passOf(content));
  return {
    network: async (pixels) => looked(await look(view(pixels))),
    findDogs: dogFinder(async (view) => searched(await (await search)(view)), model.dog_detector),
    search,
  };
}

async function tellWhenLoaded() {
  try {
    await (await loaded).search;
    postMessage({ ready: true, isKept: (await Promise.all(areKept)).every(Boolean) });
  } catch (error) {
    console.error(error);
    postMessage({ failed: error instanceof DamagedFile ? "model_damaged" : "not_loaded" });
  }
}

async function largeFile(file) {
  const { content, isKept } = await keptFile(file, (length) => {
    come.set(file, length);
    postMessage({ progress: [...come.values()].reduce((sum, each) => sum + each) });
  });
  areKept.push(isKept);
  return content;
}

// A forward pass of a network: { width, height, pixels } to its outputs.
async function passOf(content, externalData = []) {
  const options = { executionProviders: ["wasm"], externalData };
  const session = await ort.InferenceSession.create(new Uint8Array(content), options);
  return ({ width, height, pixels }) =>
    session.run({ pixel_values: new ort.Tensor("float32", pixels, [1, 3, height, width]) });
}

const looked = ({ logits, features, heat_map: heat }) => ({
  logits: logits.data,
  features: features?.data,
  heatMap: heat && { height: heat.dims[2], width: heat.dims[3], data: heat.data },
});

const searched = ({ scores, dog_scores: dogScores, distances }) => ({
  scores: scores.data,
  dogScores: dogScores.data,
  distances: distances.data,
});

// The runtime comes compressed, a quarter of its size.
const unpacked = (content) =>
  new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
