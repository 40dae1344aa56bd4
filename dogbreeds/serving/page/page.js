// What gradio 6.31.0 lacks for people who use a screen reader or have no mouse: answers are announced when they come, the
// table's filter has a name, and the models are one group for the arrow keys. On a phone the answer scrolls into view.
// Parts of the page appear when a tab is opened, so this runs again after each change.
() => {
  const french = (navigator.language || "").toLowerCase().startsWith("fr");
  let answer = null;
  const mend = () => {
    const banner = document.querySelector("#verdict .banner");
    if (banner !== answer && (answer = banner)) answer.scrollIntoView({ block: "nearest" });
    document.querySelectorAll("#verdict, #status").forEach((region) => region.setAttribute("role", "status"));
    document.querySelectorAll("#table input.search-input").forEach((input) =>
      input.setAttribute("aria-label", french ? "Filtrer le tableau" : "Filter the table"));
    document.querySelectorAll("#program pre").forEach((code) => { code.tabIndex = 0; });
    document.querySelectorAll("#model input").forEach((input) => { input.name = "model"; });
  };
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
}
