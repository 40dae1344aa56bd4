// The box to choose a photo in: it sends the photo and has it answered. Of the answer below, the page shows nothing
// unless it is that to the last photo: page.css hides it in each other state.
let sending = new AbortController();
let awaited = null; // the photo whose answer is shown when it comes; none while another is sent, or could not be

const show = (state, problem) => {
  document.body.dataset.photo = state;
  document.querySelectorAll("[data-problem]").forEach((each) => { each.hidden = each.dataset.problem !== problem; });
};

// For the next time that the page is loaded. Nothing may be stored in some frames of other sites.
const keep = (photo) => {
  try {
    if (photo) sessionStorage.setItem("photo", JSON.stringify(photo));
    else sessionStorage.removeItem("photo");
  } catch {}
};

const problemOf = (status) => ({ 413: "too_large", 429: "busy", 503: "busy" })[status] || "failed";

const ask = (photo) => {
  show("sending");
  keep(photo);
  awaited = props.value = photo;
  trigger("input");
};

async function send(file) {
  sending.abort();
  awaited = null;
  const own = (sending = new AbortController());
  show("sending");
  const body = new FormData();
  body.append("files", file, file.name);
  try {
    const reply = await fetch("gradio_api/upload", { method: "POST", body, signal: own.signal });
    if (!reply.ok) return show("failed", problemOf(reply.status));
    const [path] = await reply.json();
    if (!own.signal.aborted) ask({ path, orig_name: file.name, meta: { _type: "gradio.FileData" } });
  } catch {
    if (!own.signal.aborted) show("failed", "offline");
  }
}

document.addEventListener("change", ({ target }) => {
  if (!target.closest("#photo") || !target.files?.length) return;
  send(target.files[0]);
  target.value = ""; // so that the same photo can be chosen again
});

document.addEventListener("click", async ({ target }) => {
  const example = target.closest(".examples button")?.firstElementChild;
  if (!example) return;
  try {
    const drawing = await (await fetch(example.src)).blob();
    send(new File([drawing], example.src.split("/").pop(), { type: drawing.type }));
  } catch { show("failed", "offline"); }
});

document.addEventListener("answered", ({ detail: verdict }) => {
  if (!awaited || !verdict.includes(awaited.path.split("/")[1])) return; // the answer to an earlier photo
  show("answered");
  keep(null);
  // Who ticks breeds stays there, though the answer above may take more or less room than the one before.
  const ticked = document.querySelector("#only-breeds:hover, #only-breeds :focus");
  requestAnimationFrame(() => (ticked ?? document.querySelector("#verdict")).scrollIntoView({ block: "nearest" }));
});
// What gradio says in its own words when a question fails, the page says in its own. Where the connection broke, gradio
// loads the page anew as soon as there is one; the photo is kept for that.
new MutationObserver(() => {
  const toasts = document.querySelectorAll(".toast-body.error .toast-close");
  if (!toasts.length || document.body.dataset.photo !== "sending") return;
  toasts.forEach((button) => button.click());
  show("failed", navigator.onLine ? "busy" : "offline");
}).observe(document.body, { childList: true, subtree: true });
window.addEventListener("offline", () => {
  if (document.body.dataset.photo === "sending") { sending.abort(); show("failed", "offline"); }
});

// A photo pasted or dropped anywhere on the page is taken; without this, a dropped one would replace the page.
const take = (files) => {
  const box = document.querySelector("#files");
  if (!box?.offsetParent) return send(files[0]);
  const many = box.querySelector("input[type=file]");
  if (!many) return; // others are sent or answered
  const chosen = new DataTransfer();
  [...files].forEach((file) => chosen.items.add(file));
  many.files = chosen.files;
  many.dispatchEvent(new Event("change", { bubbles: true }));
};
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files); }
});
document.addEventListener("dragover", (event) => {
  if (event.dataTransfer.types.includes("Files")) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (event.defaultPrevented || !event.dataTransfer.files.length) return;
  event.preventDefault();
  if (event.dataTransfer.items[0].webkitGetAsEntry?.()?.isDirectory) {
    sending.abort();
    awaited = null;
    return show("failed", "folder");
  }
  take(event.dataTransfer.files);
});

// Another language is another visit, which begins with the same photo.
document.addEventListener("click", ({ target }) => {
  if (target.closest(".languages a")) keep(props.value);
});
try {
  const kept = sessionStorage.getItem("photo");
  if (kept) ask(JSON.parse(kept));
} catch {}
