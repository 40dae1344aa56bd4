// Answers as elements of the page: dogbreeds/serving/page/cards.py, whose style sheet they share. `words` are those of
// words.json in one language, `model` is model.json.
import { colours } from "./heat_map.js";
import { element, fill, percent } from "./texts.js";

// The verdict in one to three sentences.
export function headline({ verdict, breeds, candidates, group }, words, model) {
  const banner = (...sentences) => bannerOf(verdict, words[verdict], model.cards.signs[verdict], ...sentences);
  const name = words.names[breeds[0].name];
  const numBreeds = model.labels.length;
  switch (verdict) {
    case "confident": {
      const numRight = Math.min(Math.round(100 * breeds[0].probability), 99); // none is certain
      return banner(name, fill(words.sure, numRight));
    }
    case "unknown_breed": {
      const resembled = candidates.map((each) => words.names[each.name]).join(", ");
      return banner(fill(words.another_breed, numBreeds), fill(words.resembles, resembled));
    }
    case "not_a_dog":
      return banner(fill(words.none_of_mine, numBreeds), words.hard_to_see);
    default: {
      const perhaps = fill(words.perhaps, `${name} (${percent(breeds[0].probability)})`);
      return banner(group ? fill(words.is_a, words.group_names[group]) : perhaps, words.try_closer);
    }
  }
}

// Why there is no answer.
export const problem = (sentence, words, model) => bannerOf("error", words.error, model.cards.signs.error, sentence);

// The photo with the heat map over it, which a press on the photo, or the space bar, takes away and brings back.
export function picture(prediction, source, words, model) {
  const figure = element("figure", { className: "photo" }), base = baseLayer(source, words);
  if (prediction.heatMap) {
    const layers = element("span", { className: "layers" }, base, heatLayer(prediction, words, model));
    figure.append(heatSwitch([heatCaption(prediction, words)], layers));
  } else figure.append(base);
  return figure;
}

// The photo itself.
export const baseLayer = (source, words) => element("img", { className: "base", src: source, alt: words.photo_alt });

// The heat map, to lie over the photo.
export function heatLayer({ heatMap, region, breeds }, words, model) {
  const side = model.heat_map.side;
  const heat = element("canvas", { className: "heat", width: side, height: side });
  heat.getContext("2d").putImageData(new ImageData(colours(heatMap, side, model.heat_map), side, side), 0, 0);
  heat.setAttribute("role", "img");
  heat.setAttribute("aria-label", fill(words.heat_map_alt, words.names[breeds[0].name]));
  return putOver(heat, region);
}

// What the heat map shows.
export const heatCaption = ({ breeds }, words) => fill(words.heat_map, words.names[breeds[0].name]);

// What takes the heat maps away and brings them back; a press on the `layers` does it too.
export function heatSwitch(caption, ...layers) {
  const toggle = element("input", { type: "checkbox", checked: true });
  toggle.setAttribute("role", "switch");
  return element("label", {}, ...layers, toggle, element("span", {}, ...caption));
}

// An element over a part of the photo, [left, top, right, bottom] in shares.
export function putOver(over, [left, top, right, bottom]) {
  const place = { left, top, width: right - left, height: bottom - top };
  for (const [edge, share] of Object.entries(place)) over.style[edge] = `${100 * share}%`;
  return over;
}

// The look-alikes as bars; and, for who opens it, which model answered, how, and how fast.
export function details(prediction, words, model) {
  const { verdict, breeds, candidates, heatMap, milliseconds } = prediction;
  const bars = (some, title) => barsOf(some, title, words, model.cards.min_shown);
  const lookAlikes = {
    confident: () => bars(breeds.slice(1), words.look_alikes),
    unsure: () => bars(candidates, words.one_of_these),
  };
  const answered = fill(words.answered_by, model.name, Math.round(milliseconds));
  const how = element("details", { className: "how" }, element("summary", {}, words.how));
  how.append(element("p", {}, `${answered} ${heatMap ? words.how_heat_map : words.no_heat_map}`));
  if (verdict !== "unknown_breed") how.append(...bars(breeds, words.most_probable)); // that is none of these breeds
  return [...(lookAlikes[verdict]?.() ?? []), how];
}

// The answer in a few words.
export function inShort({ verdict, breeds }, words) {
  if (verdict === "not_a_dog" || verdict === "unknown_breed") return words[verdict];
  const best = `${words.names[breeds[0].name]} (${percent(breeds[0].probability)})`;
  return verdict === "confident" ? best : fill(words.perhaps_short, best);
}

function bannerOf(kind, title, sign, sentence, remark) {
  const mark = element("span", { ariaHidden: "true" }, sign);
  const banner = element("div", { className: `banner ${kind}` });
  banner.append(element("p", { className: "kind" }, mark, ` ${title}`), element("p", { className: "answer" }, sentence));
  if (remark) banner.append(element("p", {}, remark));
  return banner;
}

function barsOf(breeds, title, words, minShown) {
  const likely = breeds.filter(({ probability }) => probability >= minShown);
  if (!likely.length) return [];
  const list = element("ol", { className: "breeds" });
  for (const { name, probability } of likely) {
    const filled = element("span", {});
    filled.style.width = `${100 * probability}%`;
    list.append(element("li", {},
      element("span", { className: "name" }, words.names[name]),
      element("span", { className: "share" }, percent(probability)),
      element("span", { className: "bar", ariaHidden: "true" }, filled)));
  }
  return [element("p", { className: "list" }, title), list];
}
