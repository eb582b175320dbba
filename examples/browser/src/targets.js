/** Which classes are explained: the rules of handler/protocol/model_card.py and handler/explanation/class_weights.py. */
import { badRequest, unprocessable } from "./errors.js";

export const TOP = -1;
const SECOND = -2;
const MOST = 10;
const DECIMAL = /^\p{Nd}+$/u;

/** A letter without case, as Python's casefold compares it. */
const withoutCase = (letter) =>
  letter === "ı" ? letter : letter.toLowerCase().toUpperCase().toLowerCase().replace("ς", "σ");

/** A label without case, without blanks around it and around its commas, and with accents in one way of several. */
export function folded(label) {
  const parts = label.split(",").map((part) => part.trim());
  return [...parts.join(",")].map(withoutCase).join("").normalize("NFC");
}

const listed = (names, most = 20) =>
  names.slice(0, most).join(", ") + (names.length > most ? ` and ${names.length - most} more` : "");

const shown = (value) => {
  const text = typeof value === "string" ? `'${value}'` : JSON.stringify(value) ?? String(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
};

/** Finds classes by label and by index. */
export class Classes {
  #places = new Map();

  constructor(labels) {
    this.labels = labels;
    labels.forEach((label, index) => {
      const name = folded(label);
      this.#places.set(name, [...(this.#places.get(name) ?? []), index]);
    });
  }

  /** What the options `target` and `contrast` ask for: a list of `{target, contrast, against}`. */
  wanted(target = "top", contrast = "none") {
    if (typeof contrast !== "string" && !Number.isInteger(contrast))
      throw badRequest(`contrast ${shown(contrast)} is not valid, valid are none, second, a class index or a label`);
    const words = { none: null, second: SECOND };
    const name = String(contrast).trim().toLowerCase();
    const other = name in words ? words[name] : this.#index(contrast, "contrast");
    if (other !== null && this.labels.length < 2)
      throw badRequest("the network has one class, and a contrast needs two; valid is contrast none");
    const given = Array.isArray(target) ? target : [target];
    const valid = "top, a class index, a label, or a list of these";
    for (const one of given)
      if ((typeof one !== "string" && !Number.isInteger(one)) || one === "")
        throw badRequest(`target ${shown(one)} is not valid, valid are ${valid}`);
    if (!given.length) throw badRequest(`target is empty, valid are ${valid}`);
    const asked = given.flatMap((one) => this.#split(one)).map((one) => ({ ...this.#signed(one), contrast: other }));
    if (asked.length > MOST) throw badRequest(`${asked.length} targets are too many, valid are 1 to ${MOST}`);
    if (asked.some((one) => one.target === other))
      throw badRequest(`contrast ${shown(contrast)} is the target, valid are none, second and others`);
    return asked;
  }

  /** The targets of a text, which commas divide that are no part of a label; the longest label goes first. */
  #split(target) {
    if (typeof target !== "string") return [target];
    const found = [];
    for (let rest = target.split(",").map((part) => part.trim()); rest.length; ) {
      let end = rest.length;
      while (end > 1 && !this.#places.has(folded(rest.slice(0, end).join(",").replace(/^-/, "")))) end--;
      found.push(rest.slice(0, end).join(", "));
      rest = rest.slice(end);
    }
    return found;
  }

  #signed(target) {
    const name = String(target).slice(1).trim();
    const negative = DECIMAL.test(name) && !this.labels.includes(name); // a number, which is refused
    const against = String(target).startsWith("-") && !negative && !this.#places.has(folded(String(target)));
    return { target: this.#index(against ? name : target), against };
  }

  #index(target, option = "target") {
    if (typeof target === "string") {
      const alike = this.#places.get(folded(target)) ?? [];
      const equal = alike.filter((place) => this.labels[place] === target);
      const found = equal.length ? equal : alike;
      if (found.length === 1) return found[0];
      if (found.length)
        throw badRequest(`${option} ${shown(target)} names the classes ${listed(found)}; give the index of one`);
      if (target.toLowerCase() === "top") return TOP;
      if (!/^-?[0-9]{1,9}$/.test(target))
        throw badRequest(`${option} ${shown(target)} is no label of this model, valid are ${listed(this.labels)}`);
    }
    const index = Number(target);
    if (index < 0 || index >= this.labels.length)
      throw badRequest(`${option} ${shown(target)} is not a class index, valid are 0 to ${this.labels.length - 1}`);
    return index;
  }
}

/** The indices of the highest values, best first; ties go to the lower index. */
export function best(values, count) {
  const order = Array.from(values, (_, index) => index).sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}

/** A wanted class with indices in the place of the top class and of the second. */
export function resolved(wanted, logits) {
  const [top, second] = best(logits, 2);
  const target = wanted.target === TOP ? top : wanted.target;
  const words = { [TOP]: top, [SECOND]: target === top ? second : top };
  const contrast = wanted.contrast in words ? words[wanted.contrast] : wanted.contrast;
  if (contrast === target)
    throw unprocessable("the contrast is this picture's top class and so is the target, valid is another class");
  return { ...wanted, target, contrast };
}

/** The weights of the scores for a resolved class that is not explained alone; zeros for one that is. */
export function weightsOf({ target, contrast, against }, classes) {
  const weights = new Float32Array(classes);
  if (contrast === null && !against) return weights;
  weights[target] = against ? -1 : 1;
  if (contrast !== null) weights[contrast] = against ? 1 : -1;
  return weights;
}

/** Probabilities of scores, by the head of the graph's metadata. */
export function probabilities(logits, head) {
  if (head === "sigmoid") return Float32Array.from(logits, (value) => 1 / (1 + Math.exp(-value)));
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const raised = Float64Array.from(logits, (value) => Math.exp(value - most));
  const sum = raised.reduce((a, b) => a + b, 0);
  return Float32Array.from(raised, (value) => value / sum);
}
