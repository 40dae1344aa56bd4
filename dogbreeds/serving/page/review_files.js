// Of the answers to many photos: the files that were chosen, which the browser keeps for when their answers come.
let chosen = new Map(); // of each name, the files, and where in the folder of all they are

// Where files may be chosen. While some are sent or answered, gradio's box has no input, or one that adds to these.
const box = () => document.querySelector("#files :not(.icon-mode) > input[type=file]");

const choose = (event, list) => {
  if (!event.target.closest?.("#choose-many") || !list?.length) return;
  const [files, isFolder] = [[...list], event.target.webkitdirectory];
  if (isFolder || !box() || (unsaved.size && !confirm(document.querySelector("#review .review").dataset.replace))) {
    event.stopImmediatePropagation();
    event.preventDefault();
    event.target.value = ""; // so that the same files can be chosen again
    if (isFolder) put(files, files.map((file) => file.webkitRelativePath.split("/").slice(1).join("/")));
    return;
  }
  chosen = new Map();
  files.forEach((file, number) => {
    const path = event.detail?.[number] ?? "";
    chosen.set(file.name, [...(chosen.get(file.name) ?? []), { file, path }]);
  });
};

// The files of a folder go into the box too, so that one list is sent at a time.
const put = (files, detail) => {
  const [input, photos] = [box(), new DataTransfer()];
  if (!input) return;
  files.forEach((file) => photos.items.add(file));
  input.files = photos.files;
  input.dispatchEvent(new CustomEvent("change", { bubbles: true, detail }));
};

// A folder that is dropped, anywhere on the page, is opened here: gradio would send it as if it were a file.
const openFolders = async (event) => {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory) || !document.querySelector("#files")?.offsetParent) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  const found = (await Promise.all(entries.map(filesIn))).flat().filter(({ file }) => !file.name.startsWith("."));
  const numAbove = entries.length > 1 ? 1 : 2; // lists are for the folder of all
  put(found.map(({ file }) => file), found.map(({ fullPath }) => fullPath.split("/").slice(numAbove).join("/")));
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
