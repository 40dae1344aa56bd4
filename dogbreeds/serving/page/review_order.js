// Of the answers to many photos: which cards are shown, in which order, and the CSV file of these.
const byWords = new Intl.Collator(document.documentElement.lang, { numeric: true }).compare;

// A press on a head sorts by it, the next one turns the order round. Before any, photos are in the order of their choice.
const sortBy = (head) => {
  const order = head.dataset.order === "up" ? "down" : "up";
  document.querySelectorAll("#review [data-sort]").forEach((each) => {
    delete each.dataset.order;
    each.removeAttribute("aria-label");
    press(each, each === head);
  });
  head.dataset.order = order;
  head.setAttribute("aria-label", `${head.textContent}, ${head.dataset[order]}`);
  show();
};

const sorted = () => {
  const head = find("[data-order]");
  if (!head) return cards;
  const { sort, order } = head.dataset;
  const compare = sort === "probability" ? (a, b) => a - b : byWords;
  return [...cards].sort((a, b) => compare(a.row[sort], b.row[sort]) * (order === "down" ? -1 : 1));
};

const isCorrected = (card) => card.label && card.label !== card.row.label;
const isAskedFor = (card, words, which) => {
  if (!card.text.includes(words)) return false;
  if (which === "unchecked") return card.row.label && !card.label;
  if (which === "corrected") return isCorrected(card);
  return !which || card.row.verdict === which;
};

const show = () => {
  const [words, which] = [plain(find("[type=search]").value.trim()), find("[name=shown]").value];
  for (const card of cards) card.element.hidden = !isAskedFor(card, words, which);
  const all = sorted();
  document.querySelectorAll("#review section").forEach((section) => {
    const own = all.filter((card) => card.row.verdict === section.dataset.verdict);
    const num = own.filter((card) => !card.element.hidden).length;
    section.hidden = !num;
    section.querySelector(".num").textContent = num;
    const list = section.querySelector("ul");
    own.forEach(({ element }, place) => {
      if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
    });
  });
  const shown = cards.filter((card) => !card.element.hidden);
  find(".shown").textContent = fill(find(".shown"), shown.length, cards.length);
  const link = find("a.download");
  link.dataset.text = shown.length < cards.length ? link.dataset.some : link.dataset.all;
  offer(link, header + shown.map((card) => card.row.record).join(""), shown.length);
};

// Excel takes a file for UTF-8 if it begins with a byte order mark.
const offer = (link, content, num) => {
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob(["\ufeff", content], { type: "text/csv" }));
  link.textContent = fill(link, num);
};

// The cards in the order that they are seen in.
const seen = () =>
  [...document.querySelectorAll("#review li:not([hidden])")].map((element) => cards[element.dataset.number]);

document.addEventListener("input", ({ target }) => {
  if (target.matches("#review .find *")) show();
});
document.addEventListener("click", ({ target }) => {
  const head = target.closest("#review [data-sort]");
  if (head) sortBy(head);
});
