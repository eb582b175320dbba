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
    // several are shown side by side; none where the model has none
    method: [card.method ?? "gradcam"].filter(Boolean),
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
  if (name in NUMBERS)
    return text.trim() && Number(text) >= NUMBERS[name][0] && Number(text) <= NUMBERS[name][1]
      ? Number(text)
      : undefined;
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
function labelOrIndex(index, card) {
  const label = card.labels[index];
  return label && card.labels.indexOf(label) === index && card.labels.lastIndexOf(label) === index
    ? label
    : String(index);
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
  return options.method.map((method, place) => ({
    ...said,
    method,
    maps: ["gradcam", ...(place ? [] : options.maps)],
  }));
}

/** A request's options as a person writes them down; only the number of predictions is left to the server. */
function written({ top_k: _, ...request }, card) {
  const named = (value) => (typeof value === "number" ? labelOrIndex(value, card) : value);
  return { ...request, target: named(request.target), contrast: named(request.contrast) };
}

const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** A part of curl's form; curl takes some letters of a value for more than text. */
const formPart = (name, value) => ` ${/[@<;"]/.test(value) ? "--form-string" : "-F"} ${quoted(`${name}=${value}`)}`;

/** The commands that ask the same as `requests` about a file; `locked` says whether the server wants a token. */
export function curlOf(requests, card, { address, locked, file }) {
  const named = /[,;"\\]/.test(file) ? `"${file.replaceAll(/["\\]/g, "\\$&")}"` : file;
  const token = locked ? ' -H "Authorization: Bearer $TOKEN"' : "";
  const command = (request) => {
    const parts = Object.entries(written(request, card)).map(([name, value]) => formPart(name, String(value)));
    const made = requests.length > 1 ? request.method : "answer";
    return `curl${token} -F ${quoted(`data=@${named}`)}${parts.join("")} -o ${made}.json ${quoted(address)}`;
  };
  return requests.map(command).join("\n");
}

/** The program that asks the same. */
export function pythonOf(requests, card, { address, locked, file }) {
  const text = (value) => JSON.stringify(String(value));
  const authorized = locked ? "headers=headers, " : "";
  const said = (request) => Object.entries(written(request, card)).map(([name, value]) => `"${name}": ${text(value)}`);
  return [
    `import base64, io${locked ? ", os" : ""}`,
    "import numpy, requests",
    "",
    `address = ${text(address)}`,
    ...(locked ? ['headers = {"Authorization": "Bearer " + os.environ["TOKEN"]}'] : []),
    "questions = [",
    ...requests.map((request) => `    {${said(request).join(", ")}},`),
    "]",
    "for question in questions:",
    `    with open(${text(file)}, "rb") as picture:`,
    '        files = {"data": picture}',
    `        answer = requests.post(address, files=files, data=question, ${authorized}timeout=120).json()`,
    '    print(answer["predictions"])',
    '    for explanation in answer["explanations"]:',
    '        for name, made in explanation["maps"].items():',
    '            print(name, numpy.load(io.BytesIO(base64.b64decode(made["data"]))).shape, made["max"])',
    "",
  ].join("\n");
}
