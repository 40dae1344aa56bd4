// The answers to many photos as cards. They can be found and sorted (review_order.js), said to be right or not
// (review_labels.js) and opened (review_dialog.js); the browser keeps the photos for that (review_files.js).
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
const find = (selector) => document.querySelector(`#review .review ${selector}`);
const fill = (element, ...values) => values.reduce((text, value) => text.replace("{}", () => value), element.dataset.text);
const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);

let first = ""; // the line that began this review
let numRead = 0; // characters
let header = "";
let cards = [];

// The answers arrive as lines of JSON, of which the last ones are new, with the pictures of the last ones. Of values that
// follow each other closely only the last is read here: pictures that were missed come at the end, with all others.
const read = () => {
  const { lines, pictures } = props.value || { lines: "", pictures: [] };
  if (!first || !lines.startsWith(first)) begin(lines.slice(0, lines.indexOf("\n") + 1));
  if (!first) return;
  const added = lines.slice(numRead).split("\n").slice(0, -1).map((line) => JSON.parse(line));
  numRead = lines.length;
  const newCards = added.filter((line) => line.file !== undefined).map(add);
  const missed = cards.filter((card) => !card.picture);
  cards.slice(cards.length - pictures.length).forEach((card, place) => { card.picture = pictures[place]; });
  for (const card of missed.filter((each) => each.picture || newCards.includes(each))) {
    showFirst(card.element.querySelector("img"), card.picture, card.file);
  }
  show();
  if (added.some((line) => line.ended)) find("a.download").hidden = !cards.length;
};

const begin = (line) => {
  first = line;
  numRead = first.length;
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
  const card = { row, element, picture: "", label: "", ...chosen.get(row.file)?.shift() };
  element.dataset.number = cards.length;
  for (const part of ["answer", "remark", "file"]) element.querySelector(`.${part}`).textContent = row[part];
  const right = element.querySelector(".right");
  right.setAttribute("aria-label", `${right.textContent}: ${row.file}`);
  right.hidden = !row.label;
  card.text = plain(`${row.file} ${row.answer} ${row.remark}`);
  cards.push(card);
  return card;
};

// The first of these, addresses or files, that the browser can show.
const showFirst = (picture, ...sources) => {
  const [source, ...others] = sources.filter(Boolean);
  picture.hidden = !source;
  if (!source) return picture.removeAttribute("src");
  const address = source instanceof File ? URL.createObjectURL(source) : source;
  picture.onload = () => URL.revokeObjectURL(address);
  picture.onerror = () => {
    URL.revokeObjectURL(address);
    showFirst(picture, ...others);
  };
  picture.src = address;
};

watch("value", read);
