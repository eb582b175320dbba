// Two models, or two versions of one, on the same picture.

import { button, card, el, field, newId, percent } from "./dom.js";
import { figuresOf } from "./figures.js";
import { isModelName } from "./options.js";

/** The card; `ask(model)` gives another model's answer about the picture, `shown(figures)` is told of figures. */
export function comparison({ models, options, methods, display, ask, shown, changed }) {
  const names = newId("models");
  const input = el("input", { id: "other", list: names, value: options.other, placeholder: "NAME or NAME/VERSION", autocomplete: "off", spellcheck: "false" });
  const problem = el("p", { class: "problem", role: "alert" });
  const results = el("div", { "aria-live": "polite", id: "compare-results" });
  const compare = async (event) => {
    event?.preventDefault();
    const model = input.value.trim();
    problem.textContent = model && !isModelName(model) ? "A model is named as NAME or NAME/VERSION, by letters, digits, “.”, “_” and “-”." : "";
    if (problem.textContent) return;
    options.other = model;
    changed();
    results.replaceChildren();
    if (model) await ask(model);
  };
  return {
    element: card(
      "Another model on the same picture",
      { id: "compare" },
      el("form", { class: "row", onsubmit: compare }, field("Model", input), el("button", { type: "submit" }, "Compare")),
      el("datalist", { id: names }, (models ?? []).map((name) => el("option", { value: name }))),
      problem,
      results,
    ),
    /** Shows the answers of both models; `note` says what could not be asked of the other. */
    show(own, other, picture, note) {
      const title = ({ model }) => `${model.name} ${model.version}`;
      const figures = [own, other].flatMap((answer) => {
        const maps = answer.explanations.map(({ maps: all, ...said }) => ({ ...said, maps: Object.fromEntries(Object.entries(all).slice(0, 1)) }));
        return figuresOf({ ...answer, explanations: maps }, picture, methods, display, title(answer));
      });
      const table = el(
        "table",
        { class: "scores" },
        el("caption", {}, "The best classes of both"),
        el("thead", {}, el("tr", {}, [own, other].map((answer) => el("th", { scope: "col" }, title(answer))))),
        el("tbody", {}, [0, 1, 2, 3, 4].map((place) => el("tr", {}, [own, other].map(({ predictions }) => el("td", {}, said(predictions[place])))))),
      );
      results.replaceChildren(note ? el("p", { class: "note" }, note) : "", table, el("div", { class: "figures" }, figures.map((one) => one.element)));
      shown(figures);
    },
    forget: () => results.replaceChildren(),
  };
}

const said = (prediction) => (prediction ? `${prediction.label} ${percent(prediction.probability)}` : "");
