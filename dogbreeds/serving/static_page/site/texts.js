// The page in one language: words.json holds what it says in each.

// The language of the address (?lang=fr), else of an earlier visit, else of the browser, as far as the page has it.
export function chosenLanguage(known) {
  const asked = new URL(location.href).searchParams.get("lang");
  try {
    if (known.includes(asked)) localStorage.setItem("language", asked);
    const kept = localStorage.getItem("language");
    if (known.includes(kept)) return kept;
  } catch {} // nothing may be stored here: the address alone tells the language
  if (known.includes(asked)) return asked;
  return known.find((language) => navigator.language.toLowerCase().startsWith(language)) ?? known[0];
}

// A sentence with its {} filled in.
export const fill = (sentence, ...values) => sentence.replace(/\{\}/g, () => values.shift());

// A share as a whole percentage; the narrow no-break space keeps number and sign on one line.
export const percent = (share) => `${Math.round(100 * share)}\u202f%`;

// An element with these properties and children; text among them is text, whatever it holds.
export function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Text with empty lines between paragraphs and ** around what is important.
export const paragraphs = (text) =>
  text.trim().split("\n\n").map((paragraph) =>
    element("p", {}, ...paragraph.split("**").map((part, i) => (i % 2 ? element("strong", {}, part) : part))));
