// The visitor's own test of a map: a region of the picture is erased or blurred, and the scores and the map change.

import { button, card, el, field, percent } from "./dom.js";
import { blank, blurPixels, figureSize } from "./draw.js";
import { firstFiguresOf } from "./figures.js";
import { pictureOfCanvas } from "./picture.js";

const SIDES = { x: "Left", y: "Top", width: "Width", height: "Height" };
const MOVES = {
  ArrowLeft: ["x", "width", -1],
  ArrowRight: ["x", "width", 1],
  ArrowUp: ["y", "height", -1],
  ArrowDown: ["y", "height", 1],
};
const HOW =
  "Drag over what the map points at, or move the frame by arrow keys; then erase or blur it. " +
  "If the map is right, the class loses its score.";
const BLURRED = 6; // cells of a blurred region's longer side

/** The colour that the network takes for nothing: the mean of its preprocessing, else grey. */
function meanColour(model) {
  const found = /minus \[([^\]]+)\]/.exec(model.input?.preprocessing ?? "");
  const mean = (found?.[1] ?? "0.5").split(",").map((value) => Math.round(255 * Number(value)));
  const [red, green, blue] = mean.length > 2 ? mean : [mean[0], mean[0], mean[0]];
  return `rgb(${red}, ${green}, ${blue})`;
}

/**
 * The card; `ask(picture)` explains the class in question in a changed picture, `shown(figures)` is told of figures,
 * `tell(error)` of a picture that the browser cannot write. A request takes pictures of `mostBytes`.
 */
export function regionTest({ model, methods, display, ask, shown, tell, mostBytes }) {
  const box = { x: 35, y: 35, width: 30, height: 30 }; // percent of the picture's sides
  let picture = null;
  let work = null; // the changed picture, as large as the upload
  let unchanged = null; // the upload as the browser writes it, so that nothing but the region differs
  let changes = []; // how the picture was changed, and where, in the order of the changes
  let turn = 0; // of what is asked
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
      el("input", {
        type: "number",
        min: 0,
        max: 100,
        step: 1,
        id: `region-${side}`,
        oninput: ({ target }) => place({ [side]: Number(target.value) }),
        onchange: ({ target }) => (target.value = Math.round(box[side])), // what was possible
      }),
    ]),
  );
  const told = el("p", { role: "status", class: "muted", id: "region-told" });
  const results = el("div", { id: "region-results" });
  const back = button("Undo", () => takeBack(), { disabled: true });
  const element = card(
    "Test the map yourself",
    { id: "region-test", hidden: true },
    el("p", {}, HOW),
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
    told,
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
    // what is disabled has no focus
    if (!changes.length && document.activeElement === back) canvas.focus({ preventScroll: true });
    back.disabled = !changes.length;
  }

  /** The region in whole pixels of the picture: left, top, width, height. */
  function pixels() {
    const span = (start, extent, side) => {
      const first = Math.min(side - 1, Math.round((start * side) / 100));
      return [first, Math.max(1, Math.round(((start + extent) * side) / 100) - first)];
    };
    const [[x, width], [y, height]] = [span(box.x, box.width, picture.width), span(box.y, box.height, picture.height)];
    return [x, y, width, height];
  }

  function erase(x, y, width, height) {
    work.context.fillStyle = meanColour(model);
    work.context.fillRect(x, y, width, height);
  }

  function blur(x, y, width, height) {
    const region = work.context.getImageData(x, y, width, height);
    blurPixels(region.data, [height, width], BLURRED);
    work.context.putImageData(region, x, y);
  }

  function change(paintOver) {
    const where = pixels();
    changes.push([paintOver, where]);
    paintOver(...where);
    paint();
    compare().catch(tell);
  }

  function takeBack() {
    if (!changes.length) return;
    changes.pop();
    work = workOf(picture);
    for (const [paintOver, where] of changes) paintOver(...where);
    paint();
    if (changes.length) compare().catch(tell);
    else forget();
  }

  /** What was found is no longer about what is shown, and what is asked is no longer wanted. */
  function forget() {
    turn += 1;
    told.textContent = "";
    results.replaceChildren();
  }

  async function compare() {
    turn += 1;
    told.textContent = "";
    const mine = turn;
    const original = unchanged ?? (await pictureOfCanvas(workOf(picture).canvas, picture.name, mostBytes));
    if (mine !== turn) return; // something else came between
    unchanged = { ...original, bitmap: picture.bitmap };
    const changed = await pictureOfCanvas(work.canvas, `changed ${picture.name}`, mostBytes, original.blob.type);
    const before = mine === turn && (await ask(unchanged));
    const after = mine === turn && before && (await ask(changed));
    if (mine !== turn) return;
    if (!after) return results.replaceChildren(); // it was cancelled, or the error is told
    const both = [[before, unchanged, "before"], [after, changed, "after"]];
    const figures = both.flatMap(([answer, ...how]) => firstFiguresOf(answer, how[0], methods, display, how[1]));
    results.replaceChildren(scores(before, after), el("div", { class: "figures" }, figures.map((one) => one.element)));
    const { index, label } = inQuestion(before);
    const [first, second] = [before, after].map((answer) => percentOf(probabilityOf(answer, index)));
    told.textContent = `${label}: ${first} before, ${second} after the change.`;
    shown(figures);
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const [start, extent, sense] = MOVES[event.key] ?? [];
    const acts = { e: () => change(erase), b: () => change(blur), u: takeBack }[event.key.toLowerCase()];
    if (start) {
      const side = event.shiftKey ? extent : start;
      place({ [side]: box[side] + 2 * sense });
      const sides = Object.entries(SIDES).map(([name, text]) => `${text.toLowerCase()} ${Math.round(box[name])} %`);
      told.textContent = `Region: ${sides.join(", ")}.`;
    } else if (!acts) return;
    else if (!event.repeat) acts();
    event.preventDefault();
  });
  addDragging(canvas, place);
  return {
    element,
    /** Starts anew with a picture; one that the browser cannot show cannot be changed. */
    open(opened) {
      picture = opened;
      unchanged = null;
      changes = [];
      forget();
      element.hidden = !picture.bitmap;
      if (!picture.bitmap) return;
      work = workOf(picture);
      [canvas.height, canvas.width] = figureSize([picture.height, picture.width]);
      place({});
      paint();
    },
    forget,
  };
}

/** A canvas with a picture, as large as the upload. */
function workOf({ bitmap, height, width }) {
  const made = blank([height, width]);
  made.context.drawImage(bitmap, 0, 0);
  return made;
}

/** The class whose score the change is about. */
const inQuestion = ({ explanations, predictions }) => explanations[0]?.target ?? predictions[0];
const probabilityOf = ({ predictions }, index) => predictions.find((one) => one.index === index)?.probability;
const percentOf = (probability) => (probability === undefined ? "–" : percent(probability));

/** The scores before and after, of the best classes of both. */
function scores(before, after) {
  const best = [before, after].flatMap(({ predictions }) => predictions.slice(0, 4));
  const rows = new Map([inQuestion(before), ...best].map(({ index, label }) => [index, label]));
  return el(
    "table",
    { class: "scores" },
    el("caption", {}, "Probabilities before and after the change"),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        ["Class", "before", "after", "change"].map((text) => el("th", { scope: "col" }, text)),
      ),
    ),
    el(
      "tbody",
      {},
      [...rows].map(([index, label]) => {
        const [first, second] = [before, after].map((answer) => probabilityOf(answer, index));
        const known = first !== undefined && second !== undefined;
        const points = known
          ? `${second >= first ? "+" : "−"}${(100 * Math.abs(second - first)).toFixed(2)} points`
          : "–";
        const cells = [first, second].map((one) => el("td", {}, percentOf(one)));
        return el("tr", {}, el("th", { scope: "row" }, label), cells, el("td", {}, points));
      }),
    ),
  );
}

function addDragging(canvas, place) {
  let drag = null; // the pointer that draws a frame, and where it began
  const at = (event) => {
    const bounds = canvas.getBoundingClientRect();
    const share = (value, from, extent) => Math.min(100, Math.max(0, (100 * (value - from)) / extent));
    return [share(event.clientX, bounds.left, bounds.width), share(event.clientY, bounds.top, bounds.height)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (drag || event.button !== 0) return;
    drag = { pointer: event.pointerId, start: at(event) };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drag?.pointer) return;
    const { start } = drag;
    const [x, y] = at(event);
    place({
      width: Math.abs(x - start[0]),
      height: Math.abs(y - start[1]),
      x: Math.min(x, start[0]),
      y: Math.min(y, start[1]),
    });
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(end, ({ pointerId }) => (drag = pointerId === drag?.pointer ? null : drag));
  }
}
