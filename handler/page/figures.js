// A figure: a map on its picture, with its legend, the values under the pointer, and its files.

import { colourTable } from "./colours.js";
import { button, el, newId, percent, save, shown } from "./dom.js";
import { blend, figureSize, hatch, onFigure, pixelsOf, relief, valueAt } from "./draw.js";
import { endOf, findingOf, meaningOf, originOf } from "./meaning.js";
import { fromBase64, readMap } from "./npy.js";

const STEP = 0.02; // of the picture's side, by an arrow key

/** The figures of an answer, one for each map of each explanation; `display` has weight, threshold and colours. */
export function figuresOf(answer, picture, methods, display, caption = "") {
  return answer.explanations.flatMap((explanation) =>
    Object.entries(explanation.maps).map(([name, content]) =>
      figure({ name, content, explanation, view: answer.view, picture, methods, display, caption }),
    ),
  );
}

/** The figures of the first map of each explanation alone. */
export function firstFiguresOf({ explanations, ...answer }, ...how) {
  const first = ({ maps, ...said }) => ({ ...said, maps: Object.fromEntries(Object.entries(maps).slice(0, 1)) });
  return figuresOf({ ...answer, explanations: explanations.map(first) }, ...how);
}

/** A figure with `element`, `draw()`, which follows the display, and what a sheet of figures needs. */
export function figure({ name, content, explanation, view, picture, methods, display, caption = "" }) {
  const size = figureSize(view.image);
  const { kind, title, badge, text } = meaningOf(name, explanation, methods, content);
  const finding = findingOf(name, explanation, content);
  const heading = caption ? `${title}: ${caption}` : title;
  const id = newId("figure");
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "figure",
    "aria-label": `${heading}, ${badge}, on ${picture.name}. ${finding} Arrow keys read values.`,
    "aria-describedby": `${id}-text`,
  });
  [canvas.height, canvas.width] = size;
  const context = canvas.getContext("2d");
  const bar = el("canvas", { class: "scale", "aria-hidden": "true" });
  [bar.width, bar.height] = [256, 1];
  const cross = el("span", { class: "cross", hidden: true });
  const readout = el(
    "output",
    { class: "readout", "aria-live": "off" },
    "Point at the figure, or use the arrow keys, for values.",
  );
  const [least, largest] = ["min", "max"].map((end) => endOf(content, end));
  const scale =
    name === "gradcam"
      ? [`0 (unscaled ${least})`, `1 (unscaled ${largest})`]
      : ["negative", `positive (largest ${largest})`];
  const stem = `${explanation.target.label}_${name === "gradcam" ? (explanation.method ?? name) : name}`.replaceAll(
    /[^\w+-]+/g,
    "-",
  );
  let read = null; // map, values and picture, read when the figure is first seen
  let isDrawn = false;

  function draw() {
    if (isDrawn && name !== "gradcam") return; // how maps are shown does not change details
    isDrawn = true;
    read ??= prepared();
    const { map, values, base } = read;
    const pixels = new ImageData(new Uint8ClampedArray(base.data), base.width, base.height);
    hatch(pixels.data, values, map.channels, size);
    if (name === "gradcam") blend(pixels.data, values, { ...display, table: colourTable(display.colours) });
    else relief(pixels.data, values, map.channels, map);
    context.putImageData(pixels, 0, 0);
    drawScale(bar, name === "gradcam" ? colourTable(display.colours) : null);
  }

  function prepared() {
    const map = readMap(content);
    return { map, values: onFigure(map, view, size), base: pixelsOf(picture, size) };
  }

  function tell(across, down, live) {
    read ??= prepared();
    const [y, x] = [down * view.image[0], across * view.image[1]];
    const value = valueAt(read.map, view, y, x);
    const place = `x ${Math.floor(x)}, y ${Math.floor(y)}: `;
    const { label, probability, logit } = explanation.target;
    readout.setAttribute("aria-live", live);
    readout.textContent =
      place +
      (value ? `${told(value)}; ${label} ${percent(probability)}, score ${shown(logit)}` : "not seen by the network");
  }

  function told(value) {
    if (name !== "gradcam") return `value ${value.map(shown).join(", ")}`;
    const { min = 0, max } = content;
    const isOfOneLayer = typeof max === "number";
    const unscaled = isOfOneLayer ? ` (unscaled ${shown(min + value[0] * (max - min))})` : "";
    return `value ${shown(value[0])}${unscaled}`;
  }

  addPointing(canvas, cross, tell);
  const files = [
    button("PNG", () => canvas.toBlob((blob) => save(blob, `${stem}.png`)), {
      class: "quiet",
      "aria-label": `Save ${heading} as PNG`,
    }),
    button(".npy", () => save(fromBase64(content.data), `${stem}.npy`), {
      class: "quiet",
      "aria-label": `Save the values of ${heading}`,
    }),
  ];
  const element = el(
    "article",
    { class: `figure ${kind}`, "aria-labelledby": id },
    el("header", {}, el("h3", { id }, heading), el("span", { class: "badge" }, badge)),
    el("div", { class: "stage" }, canvas, cross),
    el("div", { class: "legend" }, bar, el("div", { class: "ends" }, scale.map((end) => el("span", {}, end)))),
    finding ? el("p", { class: "finding" }, finding) : null,
    el(
      "p",
      { id: `${id}-text` },
      text,
      originOf(name, explanation, content) ? ` (${originOf(name, explanation, content)})` : "",
      unseen(view),
    ),
    readout,
    el("footer", { class: "row" }, files),
  );
  return { element, draw, canvas, bar, title: heading, badge, scale, kind };
}

/** A sentence about what the network did not see; empty where it saw the whole picture. */
function unseen({ image: [height, width], crop: [top, left, bottom, right] }) {
  return top > 0.5 || left > 0.5 || bottom < height - 0.5 || right < width - 0.5
    ? " Hatched: the network did not see it."
    : "";
}

function drawScale(bar, table) {
  const context = bar.getContext("2d");
  const pixels = context.createImageData(256, 1);
  for (let index = 0; index < 256; index += 1) {
    for (let band = 0; band < 3; band += 1) pixels.data[4 * index + band] = table ? table[3 * index + band] : index;
    pixels.data[4 * index + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

/** Calls `tell(across, down, live)`, shares of the sides, for the pointer, and for a cross that arrow keys move. */
function addPointing(canvas, cross, tell) {
  const place = { across: 0.5, down: 0.5 };
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (across < 0 || across >= 1 || down < 0 || down >= 1) return;
    Object.assign(place, { across, down });
    cross.hidden = true;
    tell(across, down, "off");
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point); // a finger that taps does not move
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const step = event.shiftKey ? 5 * STEP : STEP;
    place.across = Math.min(0.999, Math.max(0, place.across + move[0] * step));
    place.down = Math.min(0.999, Math.max(0, place.down + move[1] * step));
    cross.hidden = false;
    cross.style.left = `${100 * place.across}%`;
    cross.style.top = `${100 * place.down}%`;
    tell(place.across, place.down, "polite");
  });
  canvas.addEventListener("blur", () => (cross.hidden = true));
}

const LINE = 24; // pixels, of a sheet's text

/** All figures on one canvas, with titles and scales. */
export function sheetOf(figures, title) {
  const columns = Math.min(4, figures.length);
  const width = Math.max(280, ...figures.map(({ canvas }) => canvas.width));
  const height = Math.max(...figures.map(({ canvas }) => canvas.height)) + 4.5 * LINE;
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [
    columns * (width + LINE) + LINE,
    Math.ceil(figures.length / columns) * height + 2.5 * LINE,
  ];
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  const write = (text, x, y, font, most) => {
    context.font = `${font} system-ui, sans-serif`;
    context.fillStyle = "#1b1f24";
    context.fillText(text, x, y, most);
  };
  write(title, LINE, 1.4 * LINE, "bold 18px", sheet.width - 2 * LINE);
  figures.forEach(({ canvas, bar, title: name, badge, scale }, place) => {
    const x = LINE + (place % columns) * (width + LINE);
    const y = 2 * LINE + Math.floor(place / columns) * height;
    write(name, x, y + 0.8 * LINE, "bold 15px", width);
    write(badge, x, y + 1.5 * LINE, "13px", width);
    const top = Math.round(y + 1.8 * LINE); // between pixels the figure would be blurred
    context.drawImage(canvas, x, top);
    const under = top + 8 + canvas.height;
    context.drawImage(bar, x, under, canvas.width, LINE / 2);
    write(scale.join(" … "), x, under + 1.3 * LINE, "13px", width);
  });
  return sheet;
}
