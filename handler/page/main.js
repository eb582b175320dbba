// The page: takes a picture in, asks about it, and shows what comes back.

import { classes } from "./classes.js";
import { comparison } from "./compare.js";
import { askControls, displayControls, progress } from "./controls.js";
import { card, el, percent, save } from "./dom.js";
import { Failure, sentence } from "./failure.js";
import { figuresOf } from "./figures.js";
import { startGallery } from "./gallery.js";
import { intake } from "./intake.js";
import { subject } from "./meaning.js";
import { curlOf, firstOptions, fromFragment, pythonOf, requestsOf, toFragment } from "./options.js";
import { openPicture } from "./picture.js";
import { regionTest } from "./region.js";
import { startReport } from "./report.js";
import { runner } from "./runner.js";
import { drawSample, SAMPLES } from "./samples.js";
import { takeAlong } from "./take.js";
import { receiptOf, trustOf } from "./trust.js";

const NPZ = "application/x-npz";

/**
 * Fills `root` with the page of `content`: `card` describes the model, `answers` are shown where `static` is true.
 *
 * `ask(options, picture, signal)` gives the answer to a picture (see `openPicture`) as the server's JSON, with maps as
 * .npy; it raises a Failure with a sentence. If `ask.address(model)` says where a server answers, the page offers what
 * needs one: other models, curl and Python; `ask.arrays(options, picture, signal)` gives NPZ files. Pictures above
 * `ask.mostBytes` are made smaller.
 */
export function start(root, content, ask) {
  const model = content.card;
  document.title = `${model.name} · what it sees, and why`;
  root.replaceChildren(headOf(model));
  if (content.gallery) startGallery(root, content);
  else if (content.static) startReport(root, content, firstOptions(model));
  else startLive(root, content, ask);
}

function headOf(model) {
  const said = [
    model.architecture,
    `${model.labels.length.toLocaleString("en")} classes`,
    model.engine && `engine ${model.engine}`,
  ];
  return el(
    "header",
    { class: "head" },
    el("h1", {}, model.name, " ", el("span", { class: "muted" }, model.version ?? "")),
    el("p", { class: "muted" }, said.filter(Boolean).join(" · ")),
    model.precision && el("p", { class: "muted" }, model.precision),
  );
}

/** A sentence about the parts of a link that are not valid. */
function leftOut(invalid) {
  const parts = invalid.slice(0, 5).map((part) => (part.length > 60 ? `${part.slice(0, 59)}…` : part));
  const more = invalid.length > 5 ? "; and more" : "";
  return `This link says what the page cannot take, and is read without it: ${parts.join("; ")}${more}.`;
}

function startLive(root, content, ask) {
  const { card: model, methods = {}, models } = content;
  const invalid = [];
  const options = fromFragment(location.hash, model, invalid);
  const state = { picture: null, answers: [], requests: [], refused: [], classes: {} };
  let turn = 0; // of pictures: what an earlier one still waits for is not shown
  let nextFrame = null; // in which figures are drawn anew
  let remembers = null; // the clock after which the link is written
  let explaining = null; // the question about the picture, for which all other questions wait
  const leaving = new AbortController(); // ends what listens outside of the page's elements
  const placed = { maps: [], region: [], other: [] }; // figures by their place
  // which requests take for the best class
  const topIsALabel = model.labels.some((label) => label.trim().toLowerCase() === "top");
  const bar = progress();
  const alert = el("p", { class: "problem", role: "alert", id: "problem" });
  const link = el("p", { class: "problem", role: "alert", id: "link-problem" }, invalid.length ? leftOut(invalid) : "");
  const status = el("p", { role: "status", class: "muted", id: "status" });
  const figures = el("div", { class: "figures", id: "figures" });
  const beside = el("div", { id: "beside" });
  const maps = card("Why", { id: "maps", hidden: true }, displayControls(options, redraw), figures, beside);
  const during = runner({ ask, bar, options, tell });
  const taking = intake({
    take: (file) => take(() => openPicture(file, undefined, ask.mostBytes)),
    takeSample,
    tell,
    signal: leaving.signal,
  });
  const choosing = classes(model, { choose, oppose });
  const region = regionTest({
    model,
    methods,
    display: options,
    ask: askChanged,
    shown: (made) => show("region", made),
    tell,
    mostBytes: ask.mostBytes,
  });
  const comparing = ask.address
    ? comparison({
        models,
        options,
        methods,
        display: options,
        ask: askOther,
        shown: (made) => show("other", made),
        changed: remember,
      })
    : null;
  const along = takeAlong({
    answers: () => state.answers,
    figures: () => placed.maps,
    arrays: ask.arrays ? saveArrays : null,
    link: () => location.href.replace(/#.*$/, "") + fragment(),
    commands: ask.address ? commands : null,
  });
  root.append(
    el("div", { class: "notices" }, bar.element, alert), // in sight, wherever the visitor has scrolled to
    link,
    status,
    el(
      "div",
      { class: "columns" },
      el(
        "div",
        { class: "column" },
        taking.element,
        choosing.element,
        askControls(model, methods, options, optionChanged, Boolean(ask.address)),
      ),
      el("div", { class: "column wide" }, maps, region.element, comparing?.element ?? "", along.element),
    ),
  );
  for (const kind of ["error", "unhandledrejection"]) addEventListener(kind, tellOfEvent, { signal: leaving.signal });
  addEventListener("hashchange", startAnew, { once: true }); // a link that was pasted into this page
  if (options.sample in SAMPLES) takeSample(options.sample, false);
  else status.textContent = "No picture yet.";

  /** Not by loading the page: a token, or a graph, is in its memory alone. */
  function startAnew() {
    leaving.abort();
    clearTimeout(remembers);
    clear();
    start(root, content, ask);
  }

  function fragment() {
    const said = toFragment(options, model);
    return said ? `#${said}` : "";
  }

  function remember() {
    history.replaceState(null, "", location.pathname + location.search + fragment());
    if (state.answers.length) along.show();
  }

  function tell(error) {
    const isForVisitors = error instanceof Failure;
    if (!isForVisitors) console.warn(error);
    const failed = "The page failed; load it again, or choose another picture";
    alert.textContent = sentence(isForVisitors ? error.message : failed);
  }

  /** Tells of an error that no function has caught. */
  function tellOfEvent(event) {
    const error = event.error ?? event.reason;
    if (error instanceof Failure) event.preventDefault(); // else the browser's console has it, too
    tell(error);
  }

  function commands() {
    const where = { address: ask.address(), locked: ask.locked, file: state.picture.name };
    return [curlOf, pythonOf].map((of) => of(state.requests, model, where));
  }

  async function take(opening, sample = "", anew = true) {
    clear();
    const mine = turn;
    try {
      const picture = await opening();
      if (mine !== turn) {
        picture.bitmap?.close();
        return;
      }
      state.picture = picture;
      if (anew) Object.assign(options, { target: "top", contrast: "none" });
      options.sample = sample;
      remember();
      taking.show(picture);
      region.open(picture);
      await explain();
    } catch (error) {
      if (mine === turn) tell(error);
    }
  }

  function takeSample(name, anew = true) {
    return take(async () => openPicture(await drawSample(name), `sample-${name}.png`), name, anew);
  }

  /** Nothing that is about another picture stays. */
  function clear() {
    turn += 1;
    during.stop();
    state.picture?.bitmap?.close(); // decoded pixels are large
    Object.assign(state, { picture: null, answers: [], requests: [], refused: [] });
    taking.show(null);
    alert.textContent = status.textContent = "";
    choosing.element.hidden = maps.hidden = along.element.hidden = region.element.hidden = true;
    comparing?.forget();
    for (const place of Object.keys(placed)) placed[place] = [];
  }

  function choose(index) {
    options.target = index;
    if (options.contrast === index) options.contrast = "none";
    optionChanged("target");
  }

  function oppose(index) {
    options.contrast = index;
    optionChanged("contrast");
  }

  function optionChanged(name) {
    link.textContent = "";
    remember();
    if (name === "receipt") showBeside();
    else if (name !== "timeout") explain();
  }

  function explain() {
    if (!state.picture) return null;
    region.forget();
    comparing?.forget();
    alert.textContent = "";
    figures.setAttribute("aria-busy", "true");
    const mine = during(answerAll).then((done) => {
      if (explaining !== mine) return;
      figures.removeAttribute("aria-busy");
      if (done || !state.answers.length) return;
      Object.assign(options, state.classes); // those that are shown still
      remember();
    });
    explaining = mine;
    return mine;
  }

  async function answerAll(one) {
    const { picture } = state;
    if (options.target === "top" && (options.against || topIsALabel)) {
      const { maps: _, ...plain } = requestsOf({ ...options, against: false }, model)[0];
      options.target = (
        await one({ ...plain, maps: "none", trust: false }, picture, "Asking for the class")
      ).predictions[0].index;
    }
    const found = { answers: [], requests: [], refused: [] };
    const requests = requestsOf(options, model);
    for (const [place, request] of requests.entries()) {
      try {
        found.answers.push(
          await one(request, picture, asked(request), requests.length > 1 ? place / requests.length : undefined),
        );
        found.requests.push(request);
      } catch (error) {
        if (error.status !== 422 || requests.length === 1) throw error;
        found.refused.push(error.message);
      }
      if (found.answers.length) {
        Object.assign(state, found);
        showAnswers();
      }
    }
    if (!found.answers.length) throw new Failure(found.refused.join(". "), 422);
    if (options.other && comparing) await compareWith(options.other, one);
    return true;
  }

  /** Waits for the question about the picture; false if there is another picture meanwhile, or no answer. */
  async function isAnswered() {
    const mine = turn;
    alert.textContent = "";
    for (let seen = null; seen !== explaining; ) {
      seen = explaining;
      await seen;
    }
    return mine === turn && state.answers.length > 0;
  }

  function asked({ method, trust }) {
    const { title = method ?? "details", passes = 0 } = methods[method] ?? {};
    return `Asking for ${title}${passes ? `, ${passes} passes` : ""}${trust ? " and trust" : ""}`;
  }

  function showAnswers() {
    const [first] = state.answers;
    state.classes = { target: options.target, contrast: options.contrast };
    choosing.show(first, options);
    show("maps", state.answers.flatMap((answer) => figuresOf(answer, state.picture, methods, options)));
    figures.replaceChildren(
      ...placed.maps.map((one) => one.element),
      ...state.refused.map((text) => el("p", { class: "problem" }, sentence(text))),
    );
    showBeside();
    maps.hidden = false;
    along.show();
    const [best] = first.predictions;
    const about = first.explanations.map((one) => `${subject(one)} ${percent(one.target.probability)}`).join(", ");
    const count = `${placed.maps.length} figure${placed.maps.length === 1 ? "" : "s"}`;
    status.textContent = `${best.label} ${percent(best.probability)}. ${count}${about ? ` about ${about}` : ""}.`;
  }

  function showBeside() {
    const receipts = options.receipt ? state.answers.filter(({ receipt }) => receipt).map(receiptOf) : [];
    beside.replaceChildren(...state.answers.flatMap((answer) => trustOf(answer, methods)), ...receipts);
  }

  function show(place, made) {
    placed[place] = made;
    made.forEach((one) => one.draw());
  }

  function redraw() {
    nextFrame ??= requestAnimationFrame(() => {
      nextFrame = null;
      for (const made of Object.values(placed)) made.forEach((one) => one.draw());
    });
    clearTimeout(remembers); // browsers take few changes of the address a second
    remembers = setTimeout(remember, 250);
  }

  /** The first request of the present options, about the class in question: a changed picture may have another. */
  function question() {
    const [request] = requestsOf({ ...options, maps: options.method.length ? [] : options.maps }, model);
    const target = request.target === "top" ? state.answers[0].predictions[0].index : request.target;
    return { ...request, target, trust: false };
  }

  async function askChanged(picture) {
    if (!(await isAnswered())) return null;
    return during((one) => one(question(), picture, "Asking about the changed picture"));
  }

  async function askOther(other) {
    if (!state.picture) tell(new Failure("Choose a picture first."));
    else if (await isAnswered()) await during((one) => compareWith(other, one));
  }

  async function compareWith(other, one) {
    const { target, contrast, top_k: _, ...request } = { ...question(), layer: "auto", model: other };
    const label = (given) => (typeof given === "number" ? model.labels[given] : given);
    const text = `Asking ${other}`;
    const [own] = state.answers;
    let note = "";
    let answer;
    try {
      answer = await one({ ...request, target: label(target), contrast: label(contrast) }, state.picture, text);
    } catch (error) {
      if (error.status !== 400) throw error;
      note = `${other} has no such class, so its best class is explained.`;
      answer = await one({ ...request, target: "top", contrast: "none" }, state.picture, text);
    }
    comparing.show(own, answer, state.picture, note);
  }

  async function saveArrays() {
    if (!(await isAnswered())) return;
    const { picture, requests } = state;
    await during(async (one) => {
      for (const request of requests) {
        const name = `${request.method ?? "maps"}.npz`;
        save(await one({ ...request, trust: false }, picture, `Asking for ${name}`, undefined, ask.arrays), name, NPZ);
      }
    });
  }
}
