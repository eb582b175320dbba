// What the visitor can take along: files, a link, and the same request as curl and as Python.

import { button, card, el, save } from "./dom.js";
import { sheetOf } from "./figures.js";

/** A sentence about what the figures show: classes with probabilities, and the model. */
function titleOf(answer) {
  const targets = answer.explanations.map(({ target }) => `${target.label} ${target.probability.toFixed(2)}`);
  const said = targets.length
    ? targets
    : answer.predictions.slice(0, 1).map(({ label, probability }) => `${label} ${probability.toFixed(2)}`);
  return `${[...new Set(said)].join(", ")} · ${answer.model.name} ${answer.model.version}`;
}

/** Buttons that save the figures as one PNG and the answers as JSON. */
export function savingButtons({ answers, figures }) {
  return [
    button("PNG of all figures", () => {
      const made = figures();
      made.forEach((one) => one.draw()); // some are not yet seen
      sheetOf(made, titleOf(answers()[0])).toBlob((blob) => save(blob, "figures.png"));
    }),
    button("JSON", () => {
      const made = answers();
      save(
        JSON.stringify(made.length === 1 ? made[0] : made),
        made.length === 1 ? "answer.json" : "answers.json",
        "application/json",
      );
    }),
  ];
}

/** The card; `link()` is the permalink. Of a server, `arrays()` saves NPZ files, `commands()` gives curl and Python. */
export function takeAlong({ answers, figures, arrays, link, commands }) {
  const told = el("span", { role: "status", class: "muted" });
  const copy = async (text, what, from) => {
    try {
      await navigator.clipboard.writeText(text);
      told.textContent = `${what} copied`;
    } catch {
      getSelection().selectAllChildren(from);
      told.textContent = "The browser does not let pages copy here; press Ctrl+C";
    }
  };
  const code = (label) => el("pre", { tabindex: 0, "aria-label": label });
  const [curl, python, address] = [code("As curl"), code("In Python"), el("span", { class: "address" })];
  const [sheet, json] = savingButtons({ answers, figures });
  const files = el("div", { class: "row" }, sheet, json, arrays ? button("NPZ", arrays) : null);
  return {
    element: card(
      "Take it along",
      { id: "take", hidden: true },
      files,
      el("div", { class: "row" }, button("Copy a link to these options", () => copy(link(), "Link", address)), told),
      el("p", { class: "muted" }, "The link holds the options, not the picture: ", address),
      commands
        ? [
            el("h3", {}, "As curl"),
            curl,
            button("Copy curl", () => copy(curl.textContent, "curl", curl), { class: "quiet" }),
            el("h3", {}, "In Python"),
            python,
            button("Copy Python", () => copy(python.textContent, "Python", python), { class: "quiet" }),
          ]
        : null,
    ),
    show() {
      if (commands) [curl.textContent, python.textContent] = commands();
      address.textContent = link();
      sheet.disabled = !figures().length;
      this.element.hidden = false;
    },
  };
}
