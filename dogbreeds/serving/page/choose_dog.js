// Of several dogs in a photo, the answer to the one that is chosen is shown.
document.addEventListener("change", ({ target }) => {
  if (target.name !== "dog") return;
  document.querySelectorAll("[data-dog]").forEach((each) => { each.hidden = each.dataset.dog !== target.value; });
  document.querySelectorAll("[data-box]").forEach((box) => box.toggleAttribute("data-chosen", box.dataset.box === target.value));
});
document.addEventListener("click", ({ target }) => {
  const box = target.closest("[data-box]");
  if (box) document.querySelector(`.dogs input[value="${box.dataset.box}"]`).click();
});
