// A saved report: answers with their pictures, without a server.

import { displayControls } from "./controls.js";
import { barOf, card, el, percent } from "./dom.js";
import { sentence } from "./failure.js";
import { figuresOf } from "./figures.js";
import { fromBase64 } from "./npy.js";
import { openPicture } from "./picture.js";
import { savingButtons } from "./take.js";
import { receiptOf, trustOf } from "./trust.js";

/** Fills the page with the answers, one below the other; what is far below is drawn when it comes into view. */
export function startReport(root, content, options) {
  const parts = content.answers.map((one, place) => part(one, place, content.methods, options));
  const redraw = () => parts.forEach((one) => one.redraw());
  const links =
    parts.length > 1
      ? el(
          "nav",
          { class: "card", "aria-label": "Pictures" },
          el(
            "ol",
            { class: "index" },
            parts.map(({ link }) => el("li", {}, link)),
          ),
        )
      : null;
  root.append(
    ...[
      links,
      el("div", { class: "card" }, displayControls(options, redraw)),
      ...parts.map(({ element }) => element),
    ].filter(Boolean),
  );
  const seen = new IntersectionObserver(
    (entries) =>
      entries
        .filter(({ isIntersecting }) => isIntersecting)
        .forEach(({ target }) => parts.find(({ element }) => element === target).open()),
    { rootMargin: "400px" },
  );
  parts.forEach(({ element }) => seen.observe(element));
  addEventListener("beforeprint", () => parts.forEach((one) => one.open()));
}

function part({ name, picture, answer }, place, methods, options) {
  const [best] = answer.predictions;
  const figures = el("div", { class: "figures" });
  let made = null;
  const bars = el(
    "ul",
    { class: "bars" },
    answer.predictions
      .slice(0, 5)
      .map(({ label, probability }) => el("li", {}, el("span", { class: "bar" }, barOf(label, probability)))),
  );
  const buttons = el("div", { class: "row" });
  const element = card(
    name,
    { id: `picture-${place + 1}` },
    bars,
    figures,
    trustOf(answer, methods),
    answer.receipt ? receiptOf(answer) : null,
    buttons,
  );

  async function open() {
    if (made) return;
    made = [];
    try {
      const blob = new Blob([fromBase64(picture.slice(picture.indexOf(",") + 1))], {
        type: /^data:([^;,]*)/.exec(picture)?.[1],
      });
      made = figuresOf(answer, await openPicture(blob, name), methods, options);
      figures.replaceChildren(...made.map((one) => one.element));
      redraw();
      if (made.length) buttons.append(...savingButtons({ answers: () => [answer], figures: () => made }));
    } catch (error) {
      figures.replaceChildren(el("p", { class: "problem" }, sentence(error.message)));
    }
  }

  const redraw = () => made?.forEach((one) => one.draw());
  const href = `#picture-${place + 1}`;
  const said = ` ${percent(best.probability)}`;
  const link = el("a", { href }, el("bdi", {}, name), ": ", el("bdi", {}, best.label), said);
  return { element, link, open, redraw };
}
