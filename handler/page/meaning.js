// What a map shows, in words: evidence for a class, or details, which are none.

import { shown } from "./dom.js";

/** The maps that show details, by name. */
export const DETAILS = {
  guided_gradcam: {
    title: "Guided Grad-CAM",
    badge: "detail inside the evidence",
    text: "Details that the network reacts to, inside the region that Grad-CAM shows.",
  },
  guided_backprop: {
    title: "Guided backprop",
    badge: "detail, no evidence",
    text: "Details that the network reacts to, whatever the class: no evidence for one (Adebayo et al. 2018).",
  },
  saliency: {
    title: "Saliency",
    badge: "sensitivity, no evidence",
    text: "The plain gradient: where a small change of a pixel would change the score.",
  },
};

/** What is explained, in words: "heart and not arrow", "the evidence against heart". */
export function subject({ target, contrast, against }) {
  return `${against ? "not " : ""}${target.label}${contrast ? ` and not ${contrast.label}` : ""}`;
}

/** Title, badge, kind ("evidence", "detail") and text of a map of an explanation; `content` tells the map's ends. */
export function meaningOf(name, explanation, methods = {}, content = {}) {
  if (name in DETAILS) return { kind: "detail", ...DETAILS[name] };
  const method = methods[explanation.method] ?? { title: explanation.method ?? "Grad-CAM", ofClass: true };
  if (!method.ofClass) {
    return {
      kind: "detail",
      title: method.title,
      badge: "the same for every class",
      text: "Bright: what stands out for the layer, whatever the class.",
    };
  }
  const least = leastOf(content);
  const dark = least < 0 ? "what speaks against it" : least > 0 ? "what speaks least for it" : "nothing speaks for it";
  const text = `Bright: what speaks for ${subject(explanation)}, relative to the brightest place. Dark: ${dark}.`;
  return { kind: "evidence", title: method.title, badge: `evidence for ${subject(explanation)}`, text };
}

/** The smallest or the largest value before scaling, "min" or "max", of each layer. */
export function endOf(content, end) {
  return [content[end] ?? 0].flat().map(shown).join(", ");
}

const leastOf = ({ min = 0 }) => Math.min(...[min].flat());

/** Where the map was made and what was asked for it. */
export function originOf(name, explanation, content) {
  const layer =
    explanation.layer && name !== "guided_backprop" && name !== "saliency"
      ? `layer ${[explanation.layer].flat().join(", ")}`
      : "";
  const passes = explanation.passes && name === "gradcam" ? `${explanation.passes} passes` : "";
  return [layer, passes, content.coverage ? `guided: ${content.coverage}` : ""].filter(Boolean).join(" · ");
}

/** What a map without values says, as a finding; empty for others. */
export function findingOf(name, explanation, content) {
  if (!content.degenerate) return "";
  const values = leastOf(content) < 0 ? "no value of the map is above zero" : "the map is zero everywhere";
  if (name === "gradcam")
    return `Nothing in this picture speaks for ${subject(explanation)} here: ${values}. That is a finding, no failure.`;
  return "All values of this map are zero: the network's score does not react to any pixel.";
}
