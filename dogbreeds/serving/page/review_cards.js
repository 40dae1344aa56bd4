// The answers to many photos as cards. They can be found and sorted (review_order.js), said to be right or not
// (review_labels.js) and opened (review_dialog.js). The pictures are those that the person chose, which the browser still
// has; the server sends small ones of the formats that browsers lack.
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
const find = (selector) => document.querySelector(`#review .review ${selector}`);
const fill = (element, ...values) => values.reduce((text, value) => text.replace("{}", () => value), element.dataset.text);
const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);

let first = ""; // the line that began this review
let numRead = 0; // lines
let header = "";
let cards = [];
let chosen = new Map(); // the files of each name

// The answers arrive as lines of JSON, of which the last ones are new.
const read = () => {
  const lines = (props.value || "").split("\n").slice(0, -1);
  if ((lines[0] ?? "") !== first) begin(lines[0] ?? "");
  const added = lines.slice(numRead).map(JSON.parse);
  numRead = lines.length;
  for (const line of added) if (line.file !== undefined) add(line);
  if (!first) return;
  show();
  if (added.some((line) => line.ended)) find("a.download").hidden = !cards.length;
};

const begin = (line) => {
  first = line;
  numRead = first ? 1 : 0;
  cards = [];
  opened = null;
  unsaved.clear();
  find("dialog").close();
  document.querySelectorAll("#review section ul").forEach((list) => list.replaceChildren());
  document.querySelector("#review .review").hidden = !first;
  find(".checked").hidden = find("a.download").hidden = true;
  if (!first) return;
  const { model, header: columns } = JSON.parse(first);
  header = columns;
  find(".model").textContent = fill(find(".model"), model);
};

const add = (row) => {
  const element = find("template").content.firstElementChild.cloneNode(true);
  const card = { row, element, number: cards.length, file: chosen.get(row.file)?.shift(), label: "" };
  element.dataset.number = card.number;
  for (const part of ["answer", "remark", "file"]) element.querySelector(`.${part}`).textContent = row[part];
  const right = element.querySelector(".right");
  right.setAttribute("aria-label", `${right.textContent}: ${row.file}`);
  right.hidden = !row.label;
  card.text = plain(`${row.file} ${row.answer} ${row.remark}`);
  cards.push(card);
  appearing.observe(element);
};

// A picture is made small when its card is seen for the first time, one at a time: photos of phones are large.
let drawing = Promise.resolve();
const appearing = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    appearing.unobserve(target);
    drawing = drawing.then(() => draw(cards[target.dataset.number])).catch(() => {}); // one without a picture
  }
});
const draw = async ({ row, file, element }) => {
  const picture = row.thumbnail ? await (await fetch(row.thumbnail)).blob() : file;
  const small = await createImageBitmap(picture, { resizeHeight: 240, resizeQuality: "medium" });
  const canvas = element.querySelector("canvas");
  [canvas.width, canvas.height] = [small.width, small.height]; // else its shape stays 2 to 1
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(small);
};

// Of files that are chosen, the photos are kept for when their answers come, unless labels would be lost with the old.
const choose = (event, files) => {
  if (!event.target.closest?.("#files, #folder") || !files?.length) return;
  if (unsaved.size && !confirm(document.querySelector("#review .review").dataset.replace)) {
    event.stopImmediatePropagation();
    event.preventDefault();
    event.target.value = ""; // so that the same files can be chosen again
    return;
  }
  chosen = new Map();
  for (const file of files) chosen.set(file.name, [...(chosen.get(file.name) ?? []), file]);
};
window.addEventListener("change", (event) => choose(event, event.target.files), true);
window.addEventListener("drop", (event) => choose(event, event.dataTransfer.files), true);

watch("value", read);
