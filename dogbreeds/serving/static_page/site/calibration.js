// From a network's outputs to calibrated probabilities and a verdict: dogbreeds/calibration.py and dog_probe.py.
// `calibration` is that of model.json.

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

// How far the largest logit stands out.
export const dogScore = (logits) => Math.max(...logits) - mean(logits);

export function probabilities(logits, calibration) {
  const largest = Math.max(...logits);
  const exponentials = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / calibration.temperature));
  const sum = exponentials.reduce((total, value) => total + value, 0);
  return exponentials.map((value) => value / sum);
}

// confident, unsure, unknown_breed or not_a_dog.
export function verdict({ logits, features }, calibration) {
  const score = dogScore(logits);
  if (score < calibration.not_a_dog_threshold || !isDogByProbe(features, calibration)) return "not_a_dog";
  if (score < (calibration.unknown_breed_threshold ?? -Infinity)) return "unknown_breed";
  const isSure = score >= (calibration.confident_score ?? -Infinity);
  const confidence = Math.max(...probabilities(logits, calibration));
  return isSure && confidence >= calibration.confident_threshold ? "confident" : "unsure";
}

function isDogByProbe(features, { dog_probe: probe, dog_probe_threshold: threshold }) {
  if (!probe || !features) return true;
  return features.reduce((sum, feature, i) => sum + feature * probe.weights[i], probe.bias) >= threshold;
}
