// Two models, or two versions of one, on the same picture.

import { button, card, el, field, newId, percent } from "./dom.js";
import { firstFiguresOf } from "./figures.js";
import { isModelName } from "./options.js";

/** The card; `ask(model)` gives another model's answer about the picture, `shown(figures)` is told of figures. */
export function comparison({ models, options, methods, display, ask, shown, changed }) {
  const names = newId("models");
  const input = el("input", {
    id: "other",
    list: names,
    value: options.other,
    placeholder: "NAME or NAME/VERSION",
    autocomplete: "off",
    spellcheck: "false",
  });
  const problem = el("p", { class: "problem", role: "alert" });
  const told = el("p", { role: "status", class: "muted", id: "compare-told" });
  const results = el("div", { id: "compare-results" });
  const forget = () => {
    told.textContent = "";
    results.replaceChildren();
  };
  const compare = async (event) => {
    event?.preventDefault();
    const model = input.value.trim();
    problem.textContent =
      model && !isModelName(model)
        ? "A model is named as NAME or NAME/VERSION, by letters, digits, “.”, “_” and “-”."
        : "";
    if (problem.textContent) return;
    options.other = model;
    changed();
    forget();
    if (model) await ask(model);
  };
  return {
    element: card(
      "Another model on the same picture",
      { id: "compare" },
      el(
        "form",
        { class: "row", onsubmit: compare },
        field("Model", input),
        el("button", { type: "submit" }, "Compare"),
      ),
      el(
        "datalist",
        { id: names },
        (models ?? []).map((name) => el("option", { value: name })),
      ),
      problem,
      told,
      results,
    ),
    /** Shows the answers of both models; `note` says what could not be asked of the other. */
    show(own, other, picture, note) {
      const title = ({ model }) => `${model.name} ${model.version}`;
      const figures = [own, other].flatMap((answer) =>
        firstFiguresOf(answer, picture, methods, display, title(answer)),
      );
      const row = (place) =>
        el(
          "tr",
          {},
          [own, other].map(({ predictions }) => el("td", {}, said(predictions[place]))),
        );
      const table = el(
        "table",
        { class: "scores" },
        el("caption", {}, "The best classes of both"),
        el("thead", {}, el("tr", {}, [own, other].map((answer) => el("th", { scope: "col" }, title(answer))))),
        el("tbody", {}, [0, 1, 2, 3, 4].map(row)),
      );
      const drawings = el("div", { class: "figures" }, figures.map((one) => one.element));
      results.replaceChildren(note ? el("p", { class: "note" }, note) : "", table, drawings);
      told.textContent = [own, other].map((answer) => `${title(answer)}: ${said(answer.predictions[0])}`).join("; ");
      shown(figures);
    },
    forget,
  };
}

const said = (prediction) => (prediction ? `${prediction.label} ${percent(prediction.probability)}` : "");
