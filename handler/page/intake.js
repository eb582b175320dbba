// Takes a picture in: dropped, pasted, chosen, photographed, or a sample.

import { camera } from "./camera.js";
import { button, card, el, save } from "./dom.js";
import { Failure } from "./failure.js";
import { SAMPLES } from "./samples.js";

const NO_FILE = "This is no picture's file: save the picture, then drop or choose the file.";
const FOLDER = "This is a folder: drop one of its pictures; shufflenet-cam report makes pages of all.";
const NOT_COPIED = "The clipboard holds no picture: copy the picture itself, or save it and choose the file.";

/**
 * The card that takes pictures; `take(file)` and `takeSample(name)` get them, `tell(error)` is told why there is none.
 *
 * It takes what is dropped and pasted anywhere in the document, until the signal.
 */
export function intake({ take, takeSample, tell, signal }) {
  const pick = (attributes) => {
    const input = el("input", {
      type: "file",
      class: "visually-hidden",
      tabindex: -1,
      "aria-hidden": "true",
      ...attributes,
    });
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
    return input;
  };
  const chosen = pick({ accept: "image/*,.npy,.dcm,.tif,.tiff,.heic,.avif", id: "choose" });
  const photographed = pick({ accept: "image/*", capture: "environment", id: "photograph" });
  const lens = camera({ take, tell, native: () => photographed.click() });
  let shown = null;
  const note = el("p", { class: "note", hidden: true });
  const keep = button("Save this picture", () => save(shown.blob, shown.name), { class: "quiet", hidden: true });
  const zone = el(
    "div",
    { class: "zone", id: "zone" },
    el("p", {}, "Drop a picture here or paste one, or"),
    el(
      "div",
      { class: "row" },
      button("Choose a picture", () => chosen.click(), { class: "primary" }),
      lens.button,
    ),
    lens.view,
    el(
      "div",
      { class: "row", role: "group", "aria-label": "Samples" },
      el("span", { class: "muted" }, "or take a sample:"),
      Object.entries(SAMPLES).map(([name, { title }]) =>
        // the second click of a double click is none: the page may have moved under it
        button(title, ({ detail }) => detail < 2 && takeSample(name), { class: "quiet" }),
      ),
    ),
    chosen,
    photographed,
  );
  listen(zone, take, tell, signal);
  signal.addEventListener("abort", lens.close);
  return {
    element: card("Picture", { id: "intake" }, zone, note, keep),
    /** Says which picture is shown; null, while there is none. */
    show(picture) {
      note.hidden = keep.hidden = !picture;
      if (!picture) return;
      lens.close();
      shown = picture;
      const size = picture.width ? `, ${picture.width} × ${picture.height} pixels` : "";
      note.textContent = `${picture.name}${size}. ${picture.note}`;
    },
  };
}

function listen(zone, take, tell, signal) {
  const types = ({ dataTransfer }) => [...(dataTransfer?.types ?? [])];
  const isTyping = ({ target }) => Boolean(target.closest?.("input, textarea"));
  /** Whether a drop is meant for the page; the browser would leave the page for a file or an address. */
  const isMeant = (event) =>
    types(event).includes("Files") ||
    (!isTyping(event) && (types(event).includes("text/uri-list") || zone.contains(event.target)));
  const listening = (kind, how) => document.addEventListener(kind, how, { signal });
  listening("dragover", (event) => {
    if (!isMeant(event)) return;
    event.preventDefault();
    zone.classList.add("over");
  });
  listening("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  listening("drop", (event) => {
    zone.classList.remove("over");
    if (!isMeant(event)) return;
    event.preventDefault();
    const item = [...event.dataTransfer.items].find(({ kind }) => kind === "file");
    if (item?.webkitGetAsEntry?.()?.isDirectory) tell(new Failure(FOLDER));
    else if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    else tell(new Failure(NO_FILE));
  });
  listening("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file && isTyping(event)) return;
    event.preventDefault();
    if (file) take(file);
    else tell(new Failure(NOT_COPIED));
  });
}
