/** Reads options, which have the names and values of the server's, and checks them before anything is computed. */
import { badRequest, unprocessable } from "./errors.js";
import { KINDS } from "./graph.js";

const NAMES = ["target", "contrast", "maps", "method", "layer", "top_k", "size"];
const MOST_LAYERS = 8;

const listOf = (value) => (Array.isArray(value) ? value : String(value).split(",").map((part) => part.trim()));

/** The method that `auto` stands for: the model's own where the graph can make it. */
export function defaultMethod({ kind, method }) {
  const { methods } = KINDS[kind];
  return methods.includes(method) ? method : (methods[0] ?? "");
}

/** The options of an explanation, checked against a graph's description and its `Classes`. */
export function readOptions(options, description, classes) {
  for (const name of Object.keys(options))
    if (!NAMES.includes(name)) throw badRequest(`unknown option '${name}', valid are ${NAMES.join(", ")}`);
  const { target, contrast, maps, method = "auto", layer = "auto", top_k, size = "input" } = options;
  const wanted = classes.wanted(target, contrast);
  if (!["input", "layer"].includes(size)) throw badRequest(`size '${size}' does not exist, valid are input, layer`);
  const most = description.labels.length;
  if (top_k !== undefined && !(Number.isInteger(top_k) && top_k >= 1 && top_k <= most))
    throw badRequest(`top_k ${top_k} is not valid, valid are 1 to ${most}`);
  const names = readMaps(maps, description.kind);
  const chosen = method === "auto" ? defaultMethod(description) : method;
  const { methods } = KINDS[description.kind];
  if (names.length && !methods.includes(chosen))
    throw unprocessable(`method '${chosen}' is not in this graph, valid are ${methods.join(", ")}`);
  if (chosen === "rollout" && wanted.some((one) => one.against || one.contrast !== null))
    throw unprocessable("contrast needs a method that depends on the class, and rollout does not");
  const paths = readLayers(layer, description);
  return { wanted, maps: names, method: chosen, paths, top_k: top_k ?? Math.min(5, most), size };
}

function readMaps(said, kind) {
  const held = KINDS[kind].maps;
  if (said === undefined) return held.filter((name) => name !== "saliency"); // as the server does
  const names = Array.isArray(said) && !said.length ? ["none"] : [...new Set(listOf(said))];
  if (names.length === 1 && names[0] === "none") return [];
  if (names.length === 1 && names[0] === "all") return held;
  const missing = names.find((name) => !held.includes(name));
  if (missing !== undefined) {
    const valid = [...held, "all", "none"].join(", ");
    throw unprocessable(`map '${missing}' is not in this graph, which is of the kind ${kind}; valid are ${valid}`);
  }
  return names;
}

function readLayers(said, { layer, layers, architecture }) {
  const paths = [...new Set(listOf(said))];
  const missing = paths.find((path) => path !== "auto" && !(path in layers));
  if (missing !== undefined || paths.length > MOST_LAYERS) {
    const valid = ["auto", ...Object.keys(layers)].join(", ");
    throw badRequest(`layer '${missing ?? paths}' has no map in this graph of ${architecture}, valid are ${valid}`);
  }
  return [...new Set(paths.map((path) => (path === "auto" ? layer : path)))];
}
