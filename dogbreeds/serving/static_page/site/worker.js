// Answers photos beside the page, which stays usable meanwhile. It is sent { id, file }, and sends { progress }, then
// { ready } or { failed }, and for each photo { id, prediction } or { id, problem }.
import * as ort from "./ort.wasm.bundle.min.mjs";
import { DamagedFile, keptFile } from "./kept_files.js";
import { BadPhoto, openPhoto } from "./photos.js";
import { predict } from "./predictor.js";

const INPUT = "pixel_values";
const MOST_THREADS = 4; // phones have slow cores besides the fast ones

let isAsked = false;
const loaded = load();
loaded.catch(() => {}); // told below

addEventListener("message", async ({ data: { id, file } }) => {
  isAsked = true;
  try {
    const { model, network } = await loaded;
    const started = performance.now();
    const prediction = await predict(await openPhoto(file, model.photo), model, network);
    postMessage({ id, prediction: { ...prediction, milliseconds: performance.now() - started } });
  } catch (error) {
    if (!(error instanceof BadPhoto)) console.error(error);
    postMessage({ id, problem: error.problem ?? "failed" });
  }
});

async function load() {
  try {
    const model = await (await fetch("model.json")).json();
    const come = [0, 0];
    const files = [model.network, model.runtime];
    const [network, runtime] = await Promise.all(
      files.map((file, i) =>
        keptFile(file, (length) => {
          come[i] = length;
          postMessage({ progress: come[0] + come[1] });
        }),
      ),
    );
    ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    ort.env.wasm.wasmBinary = await unpacked(runtime.content);
    const session = await ort.InferenceSession.create(new Uint8Array(network.content), { executionProviders: ["wasm"] });
    const run = (pixels) => outputs(session, pixels, model.view.size);
    if (!isAsked) await run(new Float32Array(3 * model.view.size ** 2)); // the first pass takes longer than later ones
    postMessage({ ready: true, isKept: network.isKept && runtime.isKept });
    return { model, network: run };
  } catch (error) {
    console.error(error);
    postMessage({ failed: error instanceof DamagedFile ? "model_damaged" : "not_loaded" });
    throw error;
  }
}

async function outputs(session, pixels, size) {
  const input = new ort.Tensor("float32", pixels, [1, 3, size, size]);
  const found = await session.run({ [INPUT]: input });
  const heat = found.heat_map;
  return {
    logits: found.logits.data,
    features: found.features?.data,
    heatMap: heat && { height: heat.dims[2], width: heat.dims[3], data: heat.data },
  };
}

// The runtime comes compressed, a quarter of its size.
const unpacked = (content) =>
  new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
