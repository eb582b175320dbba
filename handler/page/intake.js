// Takes a picture in: dropped, pasted, chosen, photographed, or a sample.

import { button, card, el, save } from "./dom.js";
import { SAMPLES } from "./samples.js";

/** The card that takes pictures; `take(file)` and `takeSample(name)` get them, `offersSave` adds the picture's file. */
export function intake({ take, takeSample }) {
  const pick = (attributes) => {
    const input = el("input", { type: "file", class: "visually-hidden", tabindex: -1, "aria-hidden": "true", ...attributes });
    input.addEventListener("change", () => {
      if (input.files.length) take(input.files[0]);
      input.value = ""; // so that the same file can be chosen again
    });
    return input;
  };
  const chosen = pick({ accept: "image/*,.npy,.dcm,.tif,.tiff,.heic,.avif", id: "choose" });
  const photographed = pick({ accept: "image/*", capture: "environment", id: "photograph" });
  const note = el("p", { class: "note", hidden: true });
  const keep = button("Save this picture", () => save(note.picture.blob, note.picture.name), { class: "quiet", hidden: true });
  const zone = el(
    "div",
    { class: "zone", id: "zone" },
    el("p", {}, "Drop a picture here or paste one, or"),
    el(
      "div",
      { class: "row" },
      button("Choose a picture", () => chosen.click(), { class: "primary" }),
      button("Photograph", () => photographed.click()),
    ),
    el(
      "div",
      { class: "row", role: "group", "aria-label": "Samples" },
      el("span", { class: "muted" }, "or take a sample:"),
      Object.entries(SAMPLES).map(([name, { title }]) => button(title, () => takeSample(name), { class: "quiet" })),
    ),
    chosen,
    photographed,
  );
  listen(zone, take);
  return {
    element: card("Picture", { id: "intake" }, zone, note, keep),
    show(picture) {
      note.picture = picture;
      note.textContent = `${picture.name}${picture.width ? `, ${picture.width} × ${picture.height} pixels` : ""}. ${picture.note}`;
      note.hidden = keep.hidden = false;
    },
  };
}

function listen(zone, take) {
  const holdsFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!holdsFile(event)) return;
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    if (!holdsFile(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    take(file);
  });
}
