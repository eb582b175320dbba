// The classes with their probabilities as bars; a click explains a class, or holds it against the explained one.

import { button, card, el, percent } from "./dom.js";

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
    el("label", { class: "field" }, el("span", {}, "Filter"), filter),
    count,
    listed,
  );
  const why = el("p", { class: "why", id: "why" });

  function row(index) {
    const probability = probabilities.get(index);
    const label = model.labels[index];
    const target = options.target === "top" ? top : options.target;
    const fill = el("span", { class: "fill" });
    fill.style.width = `${100 * (probability ?? 0)}%`;
    const explain = button("", () => choose(index), { class: "bar", "aria-pressed": String(index === target) });
    const said = probability === undefined ? "" : percent(probability);
    explain.append(fill, el("span", { class: "label" }, label), el("span", { class: "number" }, said));
    const opposed = index === options.contrast;
    const not = button("≠", () => oppose(opposed ? "none" : index), {
      class: "not",
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
    const found = [];
    let matching = 0;
    model.labels.forEach((label, index) => {
      if (!label.toLocaleLowerCase().includes(wanted)) return;
      matching += 1;
      if (found.length < LISTED) found.push(index);
    });
    listed.replaceChildren(...found.map(row));
    const more = matching > found.length ? `, the first ${found.length} are listed` : "";
    count.textContent = `${matching.toLocaleString("en")} match${matching === 1 ? "es" : ""}${more}`;
  }

  return {
    element: card("What the model says", { id: "classes", hidden: true }, why, bars, all),
    show(answer, said) {
      options = said;
      top = answer.predictions[0].index;
      probabilities = new Map(answer.predictions.map(({ index, probability }) => [index, probability]));
      const best = answer.predictions.slice(0, BARS).map(({ index }) => index);
      const further = [said.target, said.contrast].filter((index) => typeof index === "number" && !best.includes(index));
      bars.replaceChildren(...[...best, ...new Set(further)].map(row));
      list();
      why.replaceChildren(...question(answer, model, said, { choose, oppose }));
      this.element.hidden = false;
    },
  };
}

/** What is asked, in words, with what takes it back. */
function question(answer, model, options, { choose, oppose }) {
  const label = model.labels[options.target === "top" ? answer.predictions[0].index : options.target];
  const parts = [options.against ? "What speaks against " : "Why ", el("strong", {}, label)];
  if (options.contrast === "none") return [...parts, "? Choose another class, or ≠ for “why this and not that”."];
  const opposed = options.contrast === "second" ? "the second best class" : model.labels[options.contrast];
  return [...parts, " and not ", el("strong", {}, opposed), "? ", button("Take this back", () => oppose("none"), { class: "quiet" })];
}
