// What an answer says of its own reliability: the trust of each map, and the receipt.

import { button, el, save, shown } from "./dom.js";
import { subject } from "./meaning.js";

const MEASURES = {
  value: "better than chance by (−1 to 1)",
  deletion_auc: "deletion: mean probability while the brightest pixels go first (lower is better)",
  insertion_auc: "insertion: mean probability while the brightest pixels come first (higher is better)",
  kept_fifth_probability: "probability of the brightest fifth alone",
  stability: "stability under noise (−1 to 1)",
  passes: "further passes of the network",
};

/** The trust of each explanation of an answer that has it. */
export function trustOf(answer, methods = {}) {
  return answer.explanations
    .filter(({ trust }) => trust)
    .map((explanation) =>
      el(
        "section",
        { class: "trust" },
        el(
          "h3",
          {},
          `Trust: ${methods[explanation.method]?.title ?? explanation.method ?? "map"} for ${subject(explanation)}`,
        ),
        el("p", {}, explanation.trust.sentence),
        el(
          "dl",
          {},
          Object.entries(MEASURES).flatMap(([name, text]) => [
            el("dt", {}, text),
            el("dd", {}, measured(name, explanation.trust)),
          ]),
        ),
      ),
    );
}

function measured(name, trust) {
  const random = trust.random?.[name];
  return shown(trust[name]) + (typeof random === "number" ? ` (random orders ${shown(random)})` : "");
}

/** The receipt of an answer, folded. */
export function receiptOf(answer) {
  const text = JSON.stringify(answer.receipt, null, 2);
  return el(
    "details",
    { class: "receipt" },
    el(
      "summary",
      {},
      `Receipt: picture ${answer.image.sha256.slice(0, 12)}…, ${answer.image.bytes.toLocaleString("en")} bytes`,
    ),
    el("p", {}, "With the receipt and the picture, shufflenet-cam replay computes this answer anew and compares."),
    button("Save the receipt", () => save(text, "receipt.json", "application/json"), { class: "quiet" }),
    el("pre", { tabindex: 0, "aria-label": "The receipt" }, text),
  );
}
