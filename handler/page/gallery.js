// A gallery: many pictures with links to their pages, the most doubtful first.

import { card, el, field, percent } from "./dom.js";

/** Fills the page with the rows in their order; what is typed leaves those whose name, class or error contains it. */
export function startGallery(root, { gallery }) {
  const items = gallery.map(item);
  const failed = gallery.filter(({ error }) => error).length;
  const count = el("p", { role: "status", class: "muted", id: "status" });
  const filter = el("input", { type: "search", id: "filter", oninput: show });
  const about =
    "The most doubtful picture is first. Its doubt is 1 less the margin between the probabilities of its two best " +
    "classes: 0 where the network decided, 1 where it did not.";
  const list = el("ul", { class: "gallery" }, items.map(({ element }) => element));
  root.append(card("Pictures by doubt", {}, el("p", {}, about), field("Name or class", filter), count, list));
  show();

  function show() {
    const wanted = filter.value.trim().toLowerCase();
    for (const { element, text } of items) element.hidden = !text.includes(wanted);
    const seen = items.filter(({ element }) => !element.hidden).length;
    count.textContent = `${seen} of ${items.length} shown${failed ? `; ${failed} could not be read` : ""}.`;
  }
}

function item({ name, page, label, probability, doubt, trust = [], thumbnail, error }) {
  if (error)
    return { element: el("li", { class: "failed" }, el("p", { class: "problem" }, error)), text: error.toLowerCase() };
  const link = el("a", { href: page }, el("img", { src: thumbnail, alt: "" }), el("bdi", {}, name));
  const said = [el("strong", {}, el("bdi", {}, label)), ` ${percent(probability)}`];
  const told = trust.map((sentence) => el("p", { class: "muted" }, sentence));
  const element = el(
    "li",
    {},
    link,
    el("p", {}, said),
    el("p", { class: "number" }, `doubt ${doubt.toFixed(2)}`),
    told,
  );
  return { element, text: `${name}\n${label}`.toLowerCase() };
}
