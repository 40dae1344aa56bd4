// Of the answers to many photos: what a person says that they show, and the lists of it, which training takes. Nothing of
// it leaves the browser.
const unsaved = new Set(); // the kinds of lists that were changed since they were saved
const kindOf = (label) => (label.startsWith("/") ? label : "");
const nameOf = (label) => [...find("[name=label]").options].find((option) => option.value === label).text;

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
  document.querySelectorAll("#review [data-kind]").forEach((link) => offerList(link, checked));
};

const offerList = (link, checked) => {
  const { kind } = link.dataset;
  const own = checked.filter((card) => kindOf(card.label) === kind);
  if (!own.length) unsaved.delete(kind);
  const rows = own.map((card) => record(pathOf(card), ...(kind ? [] : [card.label])));
  link.hidden = !own.length;
  offer(link, [record("path", ...(kind ? [] : ["label"])), ...rows].join(""), own.length);
};

// Where a photo is from the folder of the list; nothing that a spreadsheet would run as a formula.
const pathOf = (card) => {
  const path = card.path || card.row.file;
  return /^[\p{L}\p{N}]/u.test(path) ? path : `./${path}`;
};
const record = (...cells) => `${cells.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(",")}\n`;

document.addEventListener("click", ({ target }) => {
  if (target.matches("#review li .right")) {
    const card = cards[target.closest("li").dataset.number];
    setLabel(card, card.label === card.row.label ? "" : card.row.label);
  }
  if (target.matches("#review [data-kind]")) unsaved.delete(target.dataset.kind);
});
window.addEventListener("beforeunload", (event) => { if (unsaved.size) event.preventDefault(); });
