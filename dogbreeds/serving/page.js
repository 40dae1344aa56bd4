// What gradio leaves to be desired for people who don't see the page: answers are announced when they come, and the
// table's filter has a name. Parts of the page appear when a tab is opened, so this looks again when it changes.
() => {
  const french = (navigator.language || "").toLowerCase().startsWith("fr");
  const mend = () => {
    document.querySelectorAll("#verdict, #status").forEach((region) => region.setAttribute("role", "status"));
    document.querySelectorAll("#table input.search-input").forEach((input) =>
      input.setAttribute("aria-label", french ? "Filtrer le tableau" : "Filter the table"));
  };
  mend();
  new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
}
