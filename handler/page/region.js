// The visitor's own test of a map: a region of the picture is erased or blurred, and the scores and the map change.

import { button, card, el, field, percent } from "./dom.js";
import { blank, figureSize } from "./draw.js";
import { figuresOf } from "./figures.js";
import { pictureOfCanvas } from "./picture.js";

const SIDES = { x: "Left", y: "Top", width: "Width", height: "Height" };
const MOVES = { ArrowLeft: ["x", "width", -1], ArrowRight: ["x", "width", 1], ArrowUp: ["y", "height", -1], ArrowDown: ["y", "height", 1] };
const BLURRED = 6; // cells of a blurred region's longer side

/** The colour that the network takes for nothing: the mean of its preprocessing, else grey. */
export function meanColour(model) {
  const found = /minus \[([^\]]+)\]/.exec(model.input?.preprocessing ?? "");
  const mean = (found?.[1] ?? "0.5").split(",").map((value) => Math.round(255 * Number(value)));
  const [red, green, blue] = mean.length > 2 ? mean : [mean[0], mean[0], mean[0]];
  return `rgb(${red}, ${green}, ${blue})`;
}

/** The card; `ask(picture)` explains the class in question in a changed picture, `shown(figures)` is told of figures. */
export function regionTest({ model, methods, display, ask, shown }) {
  const box = { x: 35, y: 35, width: 30, height: 30 }; // percent of the picture's sides
  let picture = null;
  let work = null; // the changed picture, as large as the upload
  let unchanged = null; // the upload as the browser writes it, so that nothing but the region differs
  let undo = [];
  const canvas = el("canvas", {
    tabindex: 0,
    role: "application",
    "aria-roledescription": "region of the picture",
    "aria-label": "Region: arrow keys move it, with Shift they size it, E erases, B blurs, U undoes",
    id: "region",
  });
  const frame = el("div", { class: "frame" });
  const inputs = Object.fromEntries(
    Object.keys(SIDES).map((side) => [
      side,
      el("input", { type: "number", min: 0, max: 100, step: 1, id: `region-${side}`, oninput: ({ target }) => place({ [side]: Number(target.value) }) }),
    ]),
  );
  const results = el("div", { "aria-live": "polite", id: "region-results" });
  const back = button("Undo", () => takeBack(), { disabled: true });
  const element = card(
    "Test the map yourself",
    { id: "region-test", hidden: true },
    el("p", {}, "Drag over what the map points at, or move the frame by arrow keys; then erase or blur it. If the map is right, the class loses its score."),
    el("div", { class: "stage" }, canvas, frame),
    el(
      "div",
      { class: "row" },
      button("Erase", () => change(erase), { class: "primary" }),
      button("Blur", () => change(blur), { class: "primary" }),
      back,
    ),
    el(
      "details",
      {},
      el("summary", {}, "The region in numbers, percent of the picture"),
      el("div", { class: "row" }, Object.entries(SIDES).map(([side, text]) => field(text, inputs[side]))),
    ),
    results,
  );

  /** Moves the frame; it stays inside the picture, and at least 2 percent large. */
  function place(to) {
    for (const [side, value] of Object.entries(to)) box[side] = Number.isFinite(value) ? value : box[side];
    for (const [start, extent] of [["x", "width"], ["y", "height"]]) {
      box[extent] = Math.min(100, Math.max(2, box[extent]));
      box[start] = Math.min(100 - box[extent], Math.max(0, box[start]));
    }
    for (const side of Object.keys(SIDES)) {
      frame.style[{ x: "left", y: "top" }[side] ?? side] = `${box[side]}%`;
      if (document.activeElement !== inputs[side]) inputs[side].value = Math.round(box[side]);
    }
  }

  function paint() {
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(work.canvas, 0, 0, canvas.width, canvas.height);
    back.disabled = !undo.length;
  }

  /** The region in whole pixels of the picture: left, top, width, height. */
  function pixels() {
    const [x, y] = [Math.floor((box.x * picture.width) / 100), Math.floor((box.y * picture.height) / 100)];
    const extent = (share, side, start) => Math.max(1, Math.min(side - start, Math.round((share * side) / 100)));
    return [x, y, extent(box.width, picture.width, x), extent(box.height, picture.height, y)];
  }

  function erase(context, x, y, width, height) {
    context.fillStyle = meanColour(model);
    context.fillRect(x, y, width, height);
  }

  function blur(context, x, y, width, height) {
    const cells = BLURRED / Math.max(width, height);
    const small = blank([Math.max(1, Math.round(height * cells)), Math.max(1, Math.round(width * cells))]);
    small.context.drawImage(work.canvas, x, y, width, height, 0, 0, small.canvas.width, small.canvas.height);
    context.drawImage(small.canvas, 0, 0, small.canvas.width, small.canvas.height, x, y, width, height);
  }

  async function change(paintOver) {
    const [x, y, width, height] = pixels();
    undo.push([work.context.getImageData(x, y, width, height), x, y]);
    paintOver(work.context, x, y, width, height);
    paint();
    await compare();
  }

  async function takeBack() {
    if (!undo.length) return;
    work.context.putImageData(...undo.pop());
    paint();
    if (undo.length) await compare();
    else results.replaceChildren();
  }

  async function compare() {
    const original = picture;
    const changed = await pictureOfCanvas(work.canvas, `changed ${picture.name}`);
    const before = await ask(unchanged);
    const after = before && (await ask(changed));
    if (!after || picture !== original) return; // it was cancelled, or the error is told
    const both = [[before, unchanged, "before"], [after, changed, "after"]];
    const figures = both.flatMap(([answer, itsPicture, caption]) => {
      const { explanations, ...rest } = answer;
      const first = explanations.map(({ maps, ...said }) => ({ ...said, maps: Object.fromEntries(Object.entries(maps).slice(0, 1)) }));
      return figuresOf({ ...rest, explanations: first }, itsPicture, methods, display, caption);
    });
    results.replaceChildren(scores(before, after), el("div", { class: "figures" }, figures.map((one) => one.element)));
    shown(figures);
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const [start, extent, sense] = MOVES[event.key] ?? [];
    const acts = { e: () => change(erase), b: () => change(blur), u: takeBack }[event.key.toLowerCase()];
    if (start) {
      const side = event.shiftKey ? extent : start;
      place({ [side]: box[side] + 2 * sense });
    } else if (acts) acts();
    else return;
    event.preventDefault();
  });
  addDragging(canvas, place);
  return {
    element,
    /** Starts anew with a picture; one that the browser cannot show cannot be changed. */
    async open(opened) {
      picture = opened;
      undo = [];
      results.replaceChildren();
      element.hidden = !picture.bitmap;
      if (!picture.bitmap) return;
      work = blank([picture.height, picture.width]);
      work.context.drawImage(picture.bitmap, 0, 0);
      [canvas.height, canvas.width] = figureSize([picture.height, picture.width]);
      place({});
      paint();
      const made = await pictureOfCanvas(work.canvas, picture.name);
      if (picture === opened) unchanged = made;
    },
    /** The class or the map in question is another: what was found is no longer about it. */
    forget: () => results.replaceChildren(),
  };
}

/** The scores before and after, of the best classes of both. */
function scores(before, after) {
  const best = [before, after].flatMap(({ predictions }) => predictions.slice(0, 4).map(({ index, label }) => [index, label]));
  const target = before.explanations[0]?.target;
  const rows = new Map([...(target ? [[target.index, target.label]] : []), ...best]);
  const of = ({ predictions }, index) => predictions.find((one) => one.index === index)?.probability;
  return el(
    "table",
    { class: "scores" },
    el("caption", {}, "Probabilities before and after the change"),
    el("thead", {}, el("tr", {}, ["Class", "before", "after", "change"].map((text) => el("th", { scope: "col" }, text)))),
    el(
      "tbody",
      {},
      [...rows].map(([index, label]) => {
        const [first, second] = [of(before, index), of(after, index)];
        const known = first !== undefined && second !== undefined;
        const points = known ? `${second >= first ? "+" : "−"}${(100 * Math.abs(second - first)).toFixed(2)} points` : "–";
        const cells = [first, second].map((one) => el("td", {}, one === undefined ? "–" : percent(one)));
        return el("tr", {}, el("th", { scope: "row" }, label), cells, el("td", {}, points));
      }),
    ),
  );
}

function addDragging(canvas, place) {
  let start = null;
  const at = (event) => {
    const bounds = canvas.getBoundingClientRect();
    const share = (value, from, extent) => Math.min(100, Math.max(0, (100 * (value - from)) / extent));
    return [share(event.clientX, bounds.left, bounds.width), share(event.clientY, bounds.top, bounds.height)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    start = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = at(event);
    const [width, height] = [Math.abs(x - start[0]), Math.abs(y - start[1])];
    place({ width, height, x: Math.min(x, start[0]), y: Math.min(y, start[1]) });
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (start = null));
}
