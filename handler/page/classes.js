// The classes with their probabilities as bars; a click explains a class, or holds it against the explained one.

import { barOf, button, card, el, field } from "./dom.js";

const BARS = 5;
const LISTED = 40; // classes of the filtered list at once

/** The card of classes; `choose(index)` explains one, `oppose(index)` sets the class that it is held against. */
export function classes(model, { choose, oppose }) {
  let probabilities = new Map();
  let options = null;
  let top = null;
  const bars = el("ul", { class: "bars" });
  const listed = el("ul", { class: "bars" });
  const count = el("p", { class: "muted", role: "status" });
  const filter = el("input", { type: "search", id: "filter", autocomplete: "off", oninput: () => list() });
  const all = el(
    "details",
    { id: "all-classes", ontoggle: () => list() },
    el("summary", {}, `All ${model.labels.length.toLocaleString("en")} classes`),
    field("Filter", filter),
    count,
    listed,
  );
  const why = el("p", { class: "why", id: "why" });

  function row(index) {
    const label = model.labels[index];
    const target = options.target === "top" ? top : options.target;
    const explain = button("", () => choose(index), {
      class: "bar",
      "data-class": index,
      "aria-pressed": String(index === target),
    });
    explain.append(...barOf(label, probabilities.get(index)));
    const opposed = index === options.contrast;
    const not = button("≠", () => oppose(opposed ? "none" : index), {
      class: "not",
      "data-class": index,
      "aria-pressed": String(opposed),
      "aria-label": `and not ${label}`,
      title: `Why the explained class and not ${label}?`,
      disabled: index === target,
    });
    return el("li", {}, explain, not);
  }

  function list() {
    if (!all.open || !options) return;
    const wanted = filter.value.trim().toLocaleLowerCase();
    const ranked = [[], [], []]; // labels that are what is wanted, that begin with it, and that contain it
    model.labels.forEach((label, index) => {
      const place = label.toLocaleLowerCase().indexOf(wanted);
      if (place >= 0) ranked[place > 0 ? 2 : Number(label.length > wanted.length)].push(index);
    });
    const found = ranked.flat();
    const matching = found.length;
    listed.replaceChildren(...found.slice(0, LISTED).map(row));
    const more = matching > LISTED ? `, the best ${LISTED} are listed` : "";
    count.textContent = `${matching.toLocaleString("en")} match${matching === 1 ? "es" : ""}${more}`;
  }

  return {
    element: card("What the model says", { id: "classes", hidden: true }, why, bars, all),
    show(answer, said) {
      options = said;
      top = answer.predictions[0].index;
      probabilities = new Map(answer.predictions.map(({ index, probability }) => [index, probability]));
      const best = answer.predictions.slice(0, BARS).map(({ index }) => index);
      const further = [said.target, said.contrast].filter(
        (index) => typeof index === "number" && !best.includes(index),
      );
      const focused = document.activeElement; // whose place a new button takes
      const part = [bars, listed, why].find((one) => one.contains(focused));
      bars.replaceChildren(...[...best, ...new Set(further)].map(row));
      list();
      why.replaceChildren(...question(answer, model, said, { choose, oppose }));
      this.element.hidden = false;
      const same = part?.querySelector(`.${focused.classList[0]}[data-class="${focused.dataset.class}"]`);
      if (part) (same ?? bars.querySelector("button")).focus();
    },
  };
}

/** What is asked, in words, with what takes it back. */
function question(answer, model, options, { choose, oppose }) {
  const label = model.labels[options.target === "top" ? answer.predictions[0].index : options.target];
  const parts = [options.against ? "What speaks against " : "Why ", el("strong", {}, label)];
  if (options.contrast === "none") return [...parts, "? Choose another class, or ≠ for “why this and not that”."];
  const opposed = options.contrast === "second" ? "the second best class" : model.labels[options.contrast];
  return [
    ...parts,
    " and not ",
    el("strong", {}, opposed),
    "? ",
    button("Take this back", () => oppose("none"), { class: "quiet" }),
  ];
}
