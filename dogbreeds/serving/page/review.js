// The answers to many photos as cards: to find, to sort, to open, to say whether they are right, and to save. Nothing of
// it leaves the browser. The pictures are those that the person chose, which the browser still has; the server sends
// small ones of the formats that browsers lack.
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
const find = (selector) => document.querySelector(`#review .review ${selector}`);
const fill = (element, ...values) => values.reduce((text, value) => text.replace("{}", () => value), element.dataset.text);
const press = (button, pressed) => button.setAttribute("aria-pressed", pressed);

let first = ""; // the line that began this review
let numRead = 0; // lines
let header = "";
let cards = [];
let opened = null; // a card
let chosen = new Map(); // the files of each name
const unsaved = new Set(); // the kinds of lists that were changed since they were saved

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

const nameOf = (label) => [...find("[name=label]").options].find((option) => option.value === label).text;
const isCorrected = (card) => card.label && card.label !== card.row.label;

// What the filters ask for, in the order that was chosen.
const show = () => {
  const words = plain(find("[type=search]").value.trim());
  const which = find("[name=shown]").value;
  const isShown = (card) =>
    (!words || card.text.includes(words)) &&
    (!which || (which === "unchecked" ? !card.label && card.row.label : which === "corrected" ? isCorrected(card) : card.row.verdict === which));
  const text = new Intl.Collator(document.documentElement.lang, { numeric: true });
  const order = {
    unsure_first: (a, b) => a.row.probability - b.row.probability,
    answer: (a, b) => text.compare(a.row.answer, b.row.answer),
    file: (a, b) => text.compare(a.row.file, b.row.file),
  }[find("[name=order]").value];
  const sorted = order ? [...cards].sort(order) : cards;
  document.querySelectorAll("#review section").forEach((section) => {
    const own = sorted.filter((card) => card.row.verdict === section.dataset.verdict);
    own.forEach((card) => { card.element.hidden = !isShown(card); });
    const num = own.filter((card) => !card.element.hidden).length;
    section.hidden = !num;
    section.querySelector(".num").textContent = num;
    const list = section.querySelector("ul");
    own.forEach((card, place) => {
      if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    });
  });
  const shown = cards.filter((card) => !card.element.hidden);
  find(".shown").textContent = fill(find(".shown"), shown.length, cards.length);
  const link = find("a.download");
  link.dataset.text = shown.length < cards.length ? link.dataset.some : link.dataset.all;
  offer(link, header + shown.map((card) => card.row.record).join(""), shown.length);
};

// Excel takes a file for UTF-8 if it begins with a byte order mark.
const offer = (link, content, num) => {
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob(["\ufeff", content], { type: "text/csv" }));
  link.textContent = fill(link, num);
};

// Where a photo is from the folder of the list; nothing that a spreadsheet would run as a formula.
const pathOf = ({ file, row }) => {
  const path = file?.webkitRelativePath.split("/").slice(1).join("/") || row.file;
  return /^[\p{L}\p{N}]/u.test(path) ? path : `./${path}`;
};
const record = (...cells) => `${cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")}\n`;
const kindOf = (label) => (label.startsWith("/") ? label : "");

const setLabel = (card, label) => {
  for (const each of [card.label, label]) if (each) unsaved.add(kindOf(each));
  card.label = label;
  card.element.toggleAttribute("data-corrected", isCorrected(card));
  card.element.querySelector(".label").textContent = label && `${isCorrected(card) ? "→" : "✔"} ${nameOf(label)}`;
  press(card.element.querySelector(".right"), label !== "" && !isCorrected(card));
  const checked = cards.filter((each) => each.label);
  find(".checked").hidden = !checked.length;
  const told = find(".checked [role=status]");
  told.textContent = fill(told, checked.length, checked.filter(isCorrected).length);
  document.querySelectorAll("#review [data-kind]").forEach((link) => {
    const { kind } = link.dataset;
    const own = checked.filter((each) => kindOf(each.label) === kind);
    const rows = own.map((each) => record(pathOf(each), ...(kind ? [] : [each.label])));
    link.hidden = !own.length;
    offer(link, [record("path", ...(kind ? [] : ["label"])), ...rows].join(""), own.length);
  });
};

// The cards in the order that they are seen in.
const seen = () =>
  [...document.querySelectorAll("#review li:not([hidden])")].map((element) => cards[element.dataset.number]);

const open = (card) => {
  opened = card;
  const { row, file } = card;
  const dialog = find("dialog");
  const [picture, select] = [dialog.querySelector("img"), dialog.querySelector("select")];
  const address = row.thumbnail || (file ? URL.createObjectURL(file) : "");
  picture.hidden = !address;
  picture.onload = () => URL.revokeObjectURL(address);
  picture.onerror = () => { picture.hidden = true; };
  picture.src = address;
  dialog.querySelector("h2").textContent = row.file;
  dialog.querySelector(".verdict").textContent = card.element.closest("section").getAttribute("aria-label");
  for (const part of ["answer", "remark"]) dialog.querySelector(`.${part}`).textContent = row[part];
  dialog.querySelector(".look-alikes").innerHTML = row.look_alikes || "";
  select.value = card.label;
  for (const part of [select.parentElement, dialog.querySelector("[data-go=right]")]) part.hidden = !row.label;
  press(dialog.querySelector("[data-go=right]"), card.label !== "" && !isCorrected(card));
  const all = seen();
  dialog.querySelector("[data-go='-1']").disabled = card === all[0];
  dialog.querySelector("[data-go='1']").disabled = card === all.at(-1);
  if (dialog.open) return;
  dialog.showModal();
  dialog.querySelector("[data-go=right]").focus();
};

const go = (where) => {
  if (where === "close") return find("dialog").close();
  if (where === "right") setLabel(opened, opened.row.label);
  const all = seen();
  open(all[all.indexOf(opened) + (where === "right" ? 1 : Number(where))] ?? opened);
};

document.addEventListener("click", ({ target }) => {
  if (!target.closest("#review")) return;
  const card = cards[target.closest("li")?.dataset.number];
  if (target.closest(".open")) open(card);
  if (target.closest(".right")) setLabel(card, card.label === card.row.label ? "" : card.row.label);
  if (target.matches("[data-go]")) go(target.dataset.go);
  if (target.matches("dialog")) target.close(); // beside what it shows
  if (target.matches("[data-kind]")) unsaved.delete(target.dataset.kind);
});
document.addEventListener("input", ({ target }) => {
  if (target.matches("#review .find *")) show();
  if (!target.matches("#review [name=label]")) return;
  setLabel(opened, target.value);
  open(opened);
});
document.addEventListener("close", ({ target }) => {
  if (target.matches("#review dialog")) opened?.element.querySelector(".open").focus();
}, true);

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
window.addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });

watch("value", read);
