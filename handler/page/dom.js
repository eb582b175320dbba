// Makes elements. Texts are always text nodes, so that a label is never read as HTML.

import { Failure } from "./failure.js";

/** An element; `on…` functions become listeners, `true` an empty attribute; `false`, `null` and `undefined` none. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined)
      made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

let lastId = 0;

/** An id that no other element of the page has. */
export function newId(stem) {
  lastId += 1;
  return `${stem}-${lastId}`;
}

/** A label with its control inside. */
export function field(text, control, ...more) {
  return el("label", { class: "field" }, el("span", {}, text), control, ...more);
}

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, text);
}

/** A section with a heading, as a card. */
export function card(title, attributes, ...children) {
  const id = newId("title");
  return el("section", { class: "card", "aria-labelledby": id, ...attributes }, el("h2", { id }, title), ...children);
}

/** What a bar of a class shows: its share, its label and its probability, which can be unknown. */
export function barOf(label, probability) {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * (probability ?? 0)}%`;
  const said = probability === undefined ? "" : percent(probability);
  return [fill, el("span", { class: "label" }, label), el("span", { class: "number" }, said)];
}

/** Lets the visitor save bytes, or a text, as a file; null is what a canvas gives that the browser cannot write. */
export function save(content, name, type = "application/octet-stream") {
  if (content === null) throw new Failure("The browser cannot write a picture this large.");
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** A number as people read it: 4 significant digits, powers of ten where it is very small or large. */
export function shown(number) {
  if (typeof number !== "number" || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? number.toExponential(2) : String(Number(number.toPrecision(4)));
}

/** A probability in percent; never "100 %" or "0 %" of what is not exactly that. */
export function percent(probability) {
  const text = (100 * probability).toFixed(2);
  if (text === "100.00" && probability < 1) return "> 99.99 %";
  if (text === "0.00" && probability > 0) return "< 0.01 %";
  return `${text} %`;
}
