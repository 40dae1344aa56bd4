// The breeds to tick, and a field to find them by a part of their name, with or without its accents.
const plain = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

const tell = (list) => {
  const ticked = [...list.querySelectorAll("input:checked")];
  const said = list.querySelector(".chosen");
  const names = ticked.map((each) => each.dataset.name).join(", ");
  said.textContent = ticked.length ? said.dataset.some.replace("{}", () => names) : said.dataset.all;
  list.querySelector("button").hidden = !ticked.length;
  props.value = ticked.map((each) => each.value);
  trigger("input");
};

document.addEventListener("change", ({ target }) => {
  if (target.matches("#only-breeds [type=checkbox]")) tell(target.closest("#only-breeds"));
});
document.addEventListener("input", ({ target }) => {
  if (!target.matches("#only-breeds [type=search]")) return;
  const wanted = plain(target.value.trim());
  target.closest("#only-breeds").querySelectorAll("li").forEach((each) => { each.hidden = !plain(each.textContent).includes(wanted); });
});
document.addEventListener("click", ({ target }) => {
  const list = target.matches("#only-breeds .find button") && target.closest("#only-breeds");
  if (!list) return;
  list.querySelectorAll("input:checked").forEach((each) => { each.checked = false; });
  list.querySelector("[type=search]").focus(); // the button goes
  tell(list);
});

// A list holds in the other language too, whose page is loaded anew; page.js opens it there.
document.addEventListener("click", ({ target }) => {
  if (!target.closest(".languages a") || !props.value?.length) return;
  try {
    sessionStorage.setItem("only-breeds", JSON.stringify(props.value));
  } catch {} // nothing may be stored here
});
try {
  const kept = JSON.parse(sessionStorage.getItem("only-breeds") ?? "[]");
  sessionStorage.removeItem("only-breeds");
  const list = document.querySelector("#only-breeds");
  list.querySelectorAll("[type=checkbox]").forEach((each) => { each.checked = kept.includes(each.value); });
  if (kept.length) tell(list);
} catch {}
