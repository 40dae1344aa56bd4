// The answer as something to keep. It is what the page shows at this moment: of several dogs, the one that is chosen;
// the heat map, unless it is taken away.
const WIDTH = 1080, MARGIN = 48, MAX_PHOTO_HEIGHT = 1080; // pixels
const SIZES = { kind: 34, answer: 68 }; // of the letters, by the paragraph's class
const OTHER_SIZE = 34, LINE_HEIGHT = 1.3;

const isShown = (element) => element.checkVisibility({ opacityProperty: true });
const shown = (selector) => [...document.querySelectorAll(selector)].find(isShown);

// The words of a text in lines that are at most as wide.
const wrapped = (pen, text, width) => text.split(/\s+/).reduce((lines, word) => {
  const longer = `${lines.at(-1)} ${word}`.trim();
  return pen.measureText(longer).width <= width ? [...lines.slice(0, -1), longer] : [...lines, word];
}, [""]);

function drawnPhoto() {
  const photo = shown("#picture .base"), heat = shown("#picture .heat");
  const scale = Math.min(WIDTH / photo.naturalWidth, MAX_PHOTO_HEIGHT / photo.naturalHeight);
  const canvas = new OffscreenCanvas(photo.naturalWidth * scale, photo.naturalHeight * scale);
  const pen = canvas.getContext("2d");
  pen.drawImage(photo, 0, 0, canvas.width, canvas.height);
  if (heat) {
    const all = photo.getBoundingClientRect(), part = heat.getBoundingClientRect(), zoom = canvas.width / all.width;
    const place = [part.x - all.x, part.y - all.y, part.width, part.height].map((length) => length * zoom);
    pen.fillStyle = "rgb(255 255 255 / .55)"; // as in page.css: what the network did not see
    pen.beginPath();
    pen.rect(0, 0, canvas.width, canvas.height);
    pen.rect(...place);
    pen.fill("evenodd");
    pen.drawImage(heat, ...place);
  }
  return canvas;
}

function drawnCard() {
  const photo = drawnPhoto(), banner = shown("#verdict .banner");
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  const said = [...banner.querySelectorAll("p")].map(({ className, textContent }) => [className, textContent]);
  said.push(["note", document.querySelector("#details .keep").dataset.note]);
  const lines = said.flatMap(([kind, words]) => {
    const size = SIZES[kind] ?? OTHER_SIZE;
    const font = `${SIZES[kind] ? 650 : 400} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    pen.font = font;
    return wrapped(pen, words, WIDTH - 2 * MARGIN).map((text) => ({ text, font, height: size * LINE_HEIGHT }));
  });
  [canvas.width, canvas.height] = [WIDTH, photo.height + 2 * MARGIN + lines.reduce((sum, line) => sum + line.height, 0)];
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(photo, (WIDTH - photo.width) / 2, 0);
  pen.fillStyle = getComputedStyle(banner).borderLeftColor;
  pen.fillRect(0, photo.height, WIDTH, 12);
  pen.textBaseline = "top";
  pen.fillStyle = "#0f172a";
  let top = photo.height + MARGIN;
  for (const { text, font, height } of lines) {
    pen.font = font;
    pen.fillText(text, MARGIN, top);
    top += height;
  }
  return canvas;
}

async function keepPicture() {
  const blob = await new Promise((resolve) => drawnCard().toBlob(resolve, "image/jpeg", 0.9));
  const name = shown("#verdict .answer").textContent.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  const file = new File([blob], `${name}.jpg`, { type: blob.type });
  if (matchMedia("(pointer: coarse)").matches && navigator.canShare?.({ files: [file] })) {
    await navigator.share({ files: [file] }).catch(() => {}); // the person has changed their mind
    return;
  }
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: file.name });
  link.click();
  URL.revokeObjectURL(link.href);
}

// page.css can't do it: gradio 6.31.0 puts a class of its own before each of its selectors.
const onPaper = new CSSStyleSheet();
onPaper.replaceSync(`
  @media screen { body > .sheet { display: none; } }
  @media print {
    body > :not(.sheet) { display: none !important; }
    body > .sheet { display: block; max-width: 100%; max-height: 96vh; margin: auto; }
  }`);
document.adoptedStyleSheets.push(onPaper);

async function printSheet() {
  const sheet = Object.assign(new Image(), { className: "sheet", src: drawnCard().toDataURL("image/jpeg", 0.9) });
  await sheet.decode();
  document.body.append(sheet);
  window.addEventListener("afterprint", () => sheet.remove(), { once: true });
  window.print();
}

document.addEventListener("click", ({ target }) => {
  const keep = target.closest("[data-keep]")?.dataset.keep;
  if (keep === "picture") keepPicture();
  if (keep === "sheet") printSheet();
});
