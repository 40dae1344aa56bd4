// The language that a person has chosen, by a link with ?lang=, holds for later visits too. gradio chooses its own by
// `navigator.language`, and sends the page's query with each question, by which the server knows the language.
{
  const address = new URL(location.href);
  const known = (language) => ["en", "fr"].includes(language) && language;
  let chosen = known(address.searchParams.get("lang"));
  try {
    if (chosen) localStorage.setItem("language", chosen);
    else chosen = known(localStorage.getItem("language"));
  } catch {} // nothing may be stored here: the address alone tells the language
  if (chosen) {
    address.searchParams.set("lang", chosen);
    history.replaceState(history.state, "", address);
    Object.defineProperty(navigator, "language", { get: () => chosen });
    Object.defineProperty(navigator, "languages", { get: () => [chosen] });
  }
}
