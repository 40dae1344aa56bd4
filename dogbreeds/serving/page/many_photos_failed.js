// A list of many photos ends in an error: another can be chosen, and the answers that have come can be saved.
() => {
  const review = document.querySelector("#review .review");
  review.querySelector("a.download").hidden = !review.querySelector("li");
  document.querySelectorAll(".toast-body.error .toast-close").forEach((button) => button.click()); // in gradio's words
  const update = (properties) => ({ __type__: "update", ...properties });
  return [
    update({ value: null, interactive: true }),
    update({ interactive: true }),
    update({ visible: false }),
    review.dataset.failed,
  ];
}
