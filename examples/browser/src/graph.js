/**
 * Reads what a graph says of itself (handler/graphs/description.py) from the file's bytes, because ONNX Runtime's
 * JavaScript interface does not show the metadata.
 */
import { modelError } from "./errors.js";
import { readPreprocessing } from "./preprocess.js";

/** Fields of protobuf messages (onnx.proto). */
const MODEL = { irVersion: 1, graph: 7, metadata: 14 };
const GRAPH = { initializer: 5 };
const TENSOR = { name: 8 };

/** What the graphs of a kind hold: maps, methods that make the map at a layer, and whether they take a target. */
const OF_LAYER = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam_elementwise"];
export const KINDS = {
  prediction: { maps: [], methods: [] },
  gradcam: { maps: ["gradcam"], methods: OF_LAYER },
  explanation: { maps: ["gradcam", "guided_backprop", "guided_gradcam"], methods: OF_LAYER },
  saliency: { maps: ["gradcam", "saliency"], methods: OF_LAYER },
  attention: { maps: ["gradcam"], methods: ["gradient_attention", "legrad", "rollout"] },
  layers: { maps: ["gradcam"], methods: OF_LAYER },
};

const decoder = new TextDecoder();

/** The fields of a protobuf message: number, and the value's bytes, or its number; throws a RangeError if it is none. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    for (let value = 0, factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new RangeError("truncated");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const start = at;
    const key = varint();
    const [number, wire] = [Math.floor(key / 8), key % 8];
    if (number === 0) throw new RangeError("no field");
    let value;
    if (wire === 0) value = varint();
    else {
      const length = { 1: 8, 2: -1, 5: 4 }[wire];
      const size = length === -1 ? varint() : length;
      if (size === undefined || at + size > bytes.length) throw new RangeError("truncated");
      value = bytes.subarray(at, at + size);
      at += size;
    }
    yield { number, wire, value, start, end: at };
  }
}

function find(bytes, number) {
  for (const field of fields(bytes)) if (field.number === number) return field;
  return undefined;
}

/** The metadata of an ONNX file, name to text; throws a ModelError if the bytes are no ONNX file. */
export function readProperties(bytes) {
  const properties = {};
  try {
    let [version, graph] = [0, false];
    for (const { number, wire, value } of fields(bytes)) {
      if (number === MODEL.irVersion && wire === 0) version = value;
      if (number === MODEL.graph && wire === 2) graph = true;
      if (number === MODEL.metadata && wire === 2)
        properties[decoder.decode(find(value, 1)?.value)] = decoder.decode(find(value, 2)?.value);
    }
    if (!version || !graph) throw new RangeError("no graph");
  } catch (error) {
    if (!(error instanceof RangeError || error instanceof TypeError)) throw error;
    const first = [...bytes.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const seen = bytes.length ? `the first bytes are ${first}` : "there are no bytes";
    throw modelError(`this file is no ONNX graph, or is truncated (${seen}); valid are the graphs of \`make explanation\``, error);
  }
  return properties;
}

/** The description of a graph; throws a ModelError that says what is missing. */
export function describeGraph(bytes) {
  const said = readProperties(bytes);
  const missing = ["kind", "architecture", "labels", "preprocessing", "weights_sha256"].filter((name) => !(name in said));
  const advice = "make it with `make explanation`";
  if (missing.length) throw modelError(`the graph does not say its ${missing.join(", ")}; ${advice}`);
  if (!(said.kind in KINDS))
    throw modelError(`the graph is of the kind ${said.kind}, valid are ${Object.keys(KINDS).join(", ")}`);
  let read;
  try {
    read = Object.fromEntries(
      ["labels", "preprocessing", "further_layers", "versions"].map((name) => [name, JSON.parse(said[name] ?? "[]")]),
    );
  } catch (error) {
    throw modelError(`the graph's metadata are no JSON (${error.message}); ${advice}`, error);
  }
  if (!Array.isArray(read.labels) || !read.labels.length) throw modelError(`the graph's labels are no list; ${advice}`);
  if (Number(said.batch ?? 0) > 1)
    throw modelError(`the graph takes ${said.batch} pictures at a time, valid are graphs for 1 or for any number`);
  if (said.takes) throw modelError("the graph prepares pictures itself, valid are graphs without PICTURES=1");
  const layers = said.layer ? { [said.layer]: "" } : {};
  if (said.kind === "layers") for (const path of [said.layer, ...read.further_layers]) layers[path] = `.${path}`;
  return {
    head: "softmax",
    method: "gradcam",
    layer: "",
    coverage: "",
    ...said,
    ...read,
    portable: said.portable === "true", // takes class weights, and no target
    layers, // module paths to the ends of their outputs' names
    preprocessing: readPreprocessing(read.preprocessing),
  };
}

/**
 * The file without the default value of the input `weights`, which must then be given in each run. ONNX Runtime's
 * JavaScript interface takes no inputs that have a default value.
 */
export function withoutDefaults(bytes) {
  const graph = find(bytes, MODEL.graph);
  const found = [...fields(graph.value)].find(
    ({ number, value }) =>
      number === GRAPH.initializer && decoder.decode(find(value, TENSOR.name)?.value ?? new Uint8Array()) === "weights",
  );
  if (!found) return bytes;
  const kept = [graph.value.subarray(0, found.start), graph.value.subarray(found.end)];
  const size = graph.value.length - (found.end - found.start);
  const header = [(MODEL.graph << 3) | 2];
  for (let rest = size; ; rest = Math.floor(rest / 128)) {
    header.push(rest >= 128 ? (rest % 128) | 128 : rest);
    if (rest < 128) break;
  }
  const parts = [bytes.subarray(0, graph.start), Uint8Array.from(header), ...kept, bytes.subarray(graph.end)];
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
