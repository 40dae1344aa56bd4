// From probabilities and a verdict to what a person is told: dogbreeds/answers.py. `model` is model.json.

// { verdict, breeds, candidates, group }: breeds are { label, name, probability }, best first.
export function answer(probabilities, verdict, model) {
  const { top_k: topK, max_candidates: maxCandidates, num_resembled: numResembled } = model.answers;
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const ranked = order
    .slice(0, Math.max(topK, maxCandidates))
    .map((label) => ({ label, name: model.labels[label], probability: probabilities[label] }));
  let candidates = [], group = null;
  if (verdict === "unsure") {
    candidates = ranked.slice(0, Math.min(numCandidates(ranked, model.calibration), maxCandidates));
    group = sureGroup(probabilities, model.groups, model.calibration.confident_threshold);
  } else if (verdict === "unknown_breed") {
    candidates = ranked.slice(0, numResembled);
  }
  return { verdict, breeds: ranked.slice(0, topK), candidates, group };
}

// As many as have the wanted probability in sum.
function numCandidates(ranked, { candidates_probability: wanted }) {
  let num = 1, held = 0;
  for (const { probability } of ranked) {
    held += probability;
    if (held < wanted - 1e-9) num += 1;
  }
  return num;
}

// The most probable breed group, if it is this probable.
function sureGroup(probabilities, groups, threshold) {
  const totals = new Map();
  groups.forEach((group, label) => {
    if (group) totals.set(group, (totals.get(group) ?? 0) + probabilities[label]);
  });
  const [best, total] = [...totals].reduce((a, b) => (b[1] > a[1] ? b : a), [null, -1]);
  return total >= threshold ? best : null;
}
