// What the visitor has chosen: as a link, as the options of a request, as curl and as Python.

import { COLOURS } from "./colours.js";
import { SAMPLES } from "./samples.js";

/** The maps of a model that show details, beside the map of a method, `gradcam`. */
export function detailsOf(card) {
  return (card.maps ?? []).filter((name) => name !== "gradcam");
}

/** What is chosen at first, for the card of a model. */
export function firstOptions(card) {
  return {
    target: "top", // or the index of a class
    against: false, // what speaks against the target
    contrast: "none", // "second" or the index of a class
    method: card.maps?.includes("gradcam") === false ? [] : [card.method ?? "gradcam"].filter(Boolean), // several are shown side by side
    maps: detailsOf(card).filter((name) => name !== "saliency"),
    layer: "auto",
    trust: false,
    receipt: false,
    weight: 0.5, // of the picture
    threshold: 0,
    colours: "viridis",
    other: "", // another model, NAME or NAME/VERSION
    timeout: 120, // seconds
    sample: "",
  };
}

const LISTS = ["method", "maps"];
const NUMBERS = { weight: [0, 1], threshold: [0, 1], timeout: [1, 3600] }; // the least and the largest
const WORDS = { target: ["top"], contrast: ["none", "second"] };

/** The fragment of a link that has these options; what is chosen at first is left out, and so is the picture. */
export function toFragment(options, card) {
  const first = firstOptions(card);
  const said = new URLSearchParams();
  for (const [name, value] of Object.entries(options)) {
    if (String(value) === String(first[name])) continue;
    const isClass = ["target", "contrast"].includes(name) && typeof value === "number";
    said.set(name, isClass ? labelOrIndex(value, card) : String(value));
  }
  return said.toString();
}

/** The options of a fragment; what is not valid is left as it is at first, and joins `invalid`. */
export function fromFragment(fragment, card, invalid = []) {
  const options = firstOptions(card);
  for (const [name, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    const value = Object.hasOwn(options, name) ? valueOf(name, text, options[name], card) : undefined;
    if (value === undefined) invalid.push(`${name}=${text}`);
    else options[name] = value;
  }
  if (options.contrast !== options.target) return options;
  invalid.push("a class that is held against itself");
  return { ...options, contrast: "none" };
}

/** What a text says for an option of this first value; undefined where it is not valid. */
function valueOf(name, text, first, card) {
  if (LISTS.includes(name)) {
    const chosen = text ? [...new Set(text.split(","))] : [];
    const known = name === "maps" ? detailsOf(card) : Object.keys(card.methods ?? {});
    return chosen.every((one) => known.includes(one)) ? chosen : undefined;
  }
  if (name in NUMBERS) return text.trim() && Number(text) >= NUMBERS[name][0] && Number(text) <= NUMBERS[name][1] ? Number(text) : undefined;
  if (name in WORDS) return classOf(text, card, WORDS[name]);
  if (typeof first === "boolean") return ["true", "false"].includes(text) ? text === "true" : undefined;
  const valid = {
    layer: text === "auto" || !card.layers || Object.hasOwn(card.layers, text),
    colours: Object.hasOwn(COLOURS, text),
    sample: text === "" || Object.hasOwn(SAMPLES, text),
    other: text === "" || isModelName(text),
  };
  return valid[name] ? text : undefined;
}

function classOf(text, card, words) {
  if (words.includes(text) && !card.labels.includes(text)) return text;
  const found = card.labels.indexOf(text);
  if (found >= 0) return found;
  return /^\d+$/.test(text) && Number(text) < card.labels.length ? Number(text) : undefined;
}

/** Whether a text names a model, as NAME or NAME/VERSION, and no place above its address. */
export function isModelName(text) {
  return text.split("/").length < 3 && text.split("/").every((part) => /^[\w.-]+$/.test(part) && !/^\.+$/.test(part));
}

/** A label, or the index where the label would not lead back to this class. */
export function labelOrIndex(index, card) {
  const label = card.labels[index];
  return label && card.labels.indexOf(label) === index && card.labels.lastIndexOf(label) === index ? label : String(index);
}

/** The requests that answer what is chosen: one for each method, of which the first brings the details. */
export function requestsOf(options, card) {
  const { target, against, contrast, layer, trust } = options;
  const said = {
    target: against && typeof target === "number" ? `-${card.labels[target]}` : target,
    contrast,
    layer,
    trust,
    top_k: Math.min(card.labels.length, 1000),
    size: "input",
    encoding: "npy",
  };
  if (!options.method.length) return [{ ...said, maps: options.maps.length ? options.maps : "none" }];
  return options.method.map((method, place) => ({ ...said, method, maps: ["gradcam", ...(place ? [] : options.maps)] }));
}

/** The options of the first request as a person writes them down: without what the server takes anyway. */
function written(options, card) {
  const { top_k: _, size: __, ...request } = requestsOf(options, card)[0];
  if (typeof request.target === "number") request.target = labelOrIndex(request.target, card);
  if (typeof request.contrast === "number") request.contrast = labelOrIndex(request.contrast, card);
  const usual = { target: "top", contrast: "none", layer: "auto", method: card.method, trust: "false" };
  return Object.entries(request).filter(([name, value]) => String(value) !== usual[name]);
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** The command that asks the same. */
export function curlOf(options, card, address, file) {
  const parts = written(options, card).map(([name, value]) => ` -F ${quoted(`${name}=${value}`)}`);
  return `curl -F ${quoted(`data=@${file}`)}${parts.join("")} -o answer.json ${quoted(address)}`;
}

/** The program that asks the same. */
export function pythonOf(options, card, address, file) {
  const said = written(options, card).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(String(value))}`);
  return [
    "import base64, io",
    "import numpy, requests",
    "",
    `options = {${said.join(", ")}}`,
    `with open(${JSON.stringify(file)}, "rb") as picture:`,
    `    answer = requests.post(${JSON.stringify(address)}, files={"data": picture}, data=options, timeout=120).json()`,
    'print(answer["predictions"])',
    'for explanation in answer["explanations"]:',
    '    for name, made in explanation["maps"].items():',
    '        print(name, numpy.load(io.BytesIO(base64.b64decode(made["data"]))).shape, made["max"])',
    "",
  ].join("\n");
}
