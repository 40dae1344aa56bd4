// Of the answers to many photos: the files that were chosen, which the browser keeps for when their answers come.
let chosen = new Map(); // of each name, the files, and where in the folder of all they are

const choose = (event, files) => {
  if (!event.target.closest?.("#choose-many") || !files?.length) return;
  if (unsaved.size && !confirm(document.querySelector("#review .review").dataset.replace)) {
    event.stopImmediatePropagation();
    event.preventDefault();
    event.target.value = ""; // so that the same files can be chosen again
    return;
  }
  chosen = new Map();
  [...files].forEach((file, number) => {
    const path = event.detail?.[number] ?? file.webkitRelativePath.split("/").slice(1).join("/");
    chosen.set(file.name, [...(chosen.get(file.name) ?? []), { file, path }]);
  });
};

// A folder that is dropped, anywhere on the page, is opened here: gradio would send it as if it were a file.
const openFolders = async (event) => {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const input = document.querySelector("#files input[type=file]");
  if (!entries.some((entry) => entry.isDirectory) || !input?.closest("#files").offsetParent) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  const found = (await Promise.all(entries.map(filesIn))).flat().filter(({ file }) => !file.name.startsWith("."));
  const [photos, numAbove] = [new DataTransfer(), entries.length > 1 ? 1 : 2]; // lists are for the folder of all
  found.forEach(({ file }) => photos.items.add(file));
  const detail = found.map(({ fullPath }) => fullPath.split("/").slice(numAbove).join("/"));
  input.files = photos.files;
  input.dispatchEvent(new CustomEvent("change", { bubbles: true, detail }));
};
const filesIn = async (entry) => {
  if (entry.isFile) {
    // One that can't be read is sent empty, so that it is told.
    const file = await new Promise((done) => entry.file(done, () => done(new File([], entry.name))));
    return [{ file, fullPath: entry.fullPath }];
  }
  const [reader, inside] = [entry.createReader(), []];
  for (let some; !some || some.length; inside.push(...some)) {
    some = await new Promise((done) => reader.readEntries(done, () => done([]))); // about 100 at a time
  }
  const byName = inside.sort((a, b) => byWords(a.name, b.name));
  return (await Promise.all(byName.map(filesIn))).flat();
};

window.addEventListener("change", (event) => choose(event, event.target.files), true);
window.addEventListener("drop", openFolders, true);
window.addEventListener("drop", (event) => choose(event, event.dataTransfer.files), true);
