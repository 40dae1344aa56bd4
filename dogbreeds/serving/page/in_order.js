// The page's messages keep their order when its tab is hidden. Read in gradio 6.31.0: it handles one in a timer while
// `document.visibilityState` is "visible", and at once while it is not, so that it would come before those that wait; but
// each says only what is new since the last one.
Object.defineProperty(document, "visibilityState", { get: () => "visible" });
