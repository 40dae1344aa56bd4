// What gradio 6.31.0 lacks for people who use a screen reader or have no mouse: answers are announced when they come, and
// the models are one group for the arrow keys. Parts of the page appear when a tab is opened, so this runs again after
// each change. And what is told before it is too late: that there are too many files, and that photos are still being
// answered.
() => {
  const mend = () => {
    document.querySelectorAll("#verdict, #status").forEach((region) => region.setAttribute("role", "status"));
    document.querySelectorAll("#too-many").forEach((region) => region.setAttribute("role", "alert"));
    document.querySelectorAll("#program pre").forEach((code) => { code.tabIndex = 0; });
    document.querySelectorAll("#model input").forEach((input) => { input.name = "model"; });
  };
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });

  // The list of breeds that was made in the other language: gradio renders it when it is opened.
  try {
    if (sessionStorage.getItem("only-breeds")) document.querySelector("#breed-list button").click();
  } catch {} // nothing is stored here

  const check = (event, files) => {
    if (!event.target.closest?.("#choose-many") || !files) return;
    const most = Number(document.querySelector("#too-many [data-most]").dataset.most);
    const isTooMany = [...files].filter((file) => !file.name.startsWith(".")).length > most;
    document.body.dataset.many = isTooMany ? "too-many" : "";
    if (!isTooMany) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    event.target.value = ""; // so that the same files can be chosen again
  };
  window.addEventListener("change", (event) => check(event, event.target.files), true);
  window.addEventListener("drop", (event) => check(event, event.dataTransfer.files), true);
  window.addEventListener("beforeunload", (event) => {
    if (document.querySelector("#status progress")) event.preventDefault();
  });
}
