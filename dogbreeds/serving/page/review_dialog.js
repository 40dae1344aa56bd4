// Of the answers to many photos: the one that is opened, with its photo and what the person says that it shows.
let opened = null; // a card

const open = (card) => {
  opened = card;
  const { row } = card;
  const dialog = find("dialog");
  const select = dialog.querySelector("select");
  showFirst(dialog.querySelector("img"), card.file, card.picture);
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
  const button = target.closest("#review li .open");
  if (button) open(cards[button.closest("li").dataset.number]);
  if (target.matches("#review [data-go]")) go(target.dataset.go);
  if (target.matches("#review dialog")) target.close(); // beside what it shows
});
document.addEventListener("input", ({ target }) => {
  if (!target.matches("#review [name=label]")) return;
  setLabel(opened, target.value);
  open(opened);
});
document.addEventListener("close", ({ target }) => {
  if (target.matches("#review dialog")) opened?.element.querySelector(".open").focus();
}, true);
