/** Pixels in rows, one byte per channel; of four channels the last is transparency, which is dropped. */
export interface Pixels {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
  /** Found by the number of bytes where it is left out, as ImageData does. */
  channels?: number;
}

/** What createImageBitmap takes, where there are browsers' types. */
type Drawable = typeof globalThis extends { createImageBitmap(image: infer Source, ...rest: never[]): unknown } ? Source : never;

/**
 * A picture. In browsers: a File, a Blob, the bytes of a file, an element of the page, an ImageBitmap, ImageData or
 * pixels. In Node: a path, a file's address, the bytes of a file, or pixels.
 */
export type Picture = Pixels | Drawable | ArrayBuffer | ArrayBufferView | string | URL;

export type MapName = "gradcam" | "guided_backprop" | "guided_gradcam" | "saliency";

export type Method =
  | "gradcam" | "gradcam++" | "xgradcam" | "layercam" | "hirescam" | "gradcam_elementwise" // of a layer
  | "gradient_attention" | "legrad" | "rollout"; // of a vision transformer's attention

/** Names and values are those of the server's options (docs/API.md). */
export interface Options {
  /** A class index, a label, "top", "-label" for the evidence against a class, or several of these; "top" by default. */
  target?: number | string | (number | string)[];
  /** Why the target and not this class: an index, a label, "second" or "none", the default. */
  contrast?: number | string;
  /** Maps that the graph holds, "all" or "none"; by default all but saliency. */
  maps?: MapName | "all" | "none" | MapName[];
  /** By default "auto", the model's own. */
  method?: Method | "auto";
  /** Layers that the graph holds, whose maps are averaged; by default "auto". */
  layer?: string | string[];
  /** The number of predictions; 5 by default, or all classes if there are fewer. */
  top_k?: number;
  /** Grad-CAM of the size of the network's input, the default, or of the layer's cells. */
  size?: "input" | "layer";
  /** Gives the explanation up between two runs of the graph. */
  signal?: AbortSignal;
}

export interface Prediction {
  index: number;
  label: string;
  probability: number;
}

export interface Target extends Prediction {
  logit: number;
}

export interface ExplanationMap {
  /** Row by row: Grad-CAM (h, w) on [0, 1]; other maps (H, W, C), signed and unscaled. */
  values: Float32Array;
  shape: number[];
  /** Grad-CAM alone: the smallest value before scaling, one for each layer. */
  min?: number | number[];
  /** Grad-CAM: the largest value before scaling, one for each layer; other maps: the largest absolute value. */
  max: number | number[];
  /** Nothing speaks for the class. */
  degenerate: boolean;
  /** Of guided maps: how many activations were guided. */
  coverage?: string;
}

export interface Explanation {
  target: Target;
  contrast?: Target;
  against?: true;
  method: Method | null;
  layer: string | string[] | null;
  maps: Partial<Record<MapName, ExplanationMap>>;
}

export interface Result {
  model: { name: string; version: string; architecture: string; engine: "onnx"; activation?: "sigmoid" };
  logits: Float32Array;
  probabilities: Float32Array;
  predictions: Prediction[];
  explanations: Explanation[];
  /** Of a file: its SHA-256, on secure pages and in Node, and the number of bytes. */
  image?: { sha256?: string; bytes: number };
  /** Height and width of the picture; the crop that the network saw: top, left, bottom, right, in the picture's pixels. */
  view: { image: [number, number]; crop: [number, number, number, number] };
  /** The crop at the size of the network's input. */
  seen: Required<Pixels>;
  timings_ms: { decode: number; infer: number; explain: number; render: number };
}

/** What the server says of a model. */
export interface Card {
  name: string;
  version: string;
  architecture: string;
  engine: "onnx";
  labels: string[];
  input: { size: [number, number]; channels: number };
  layer: string;
  layers: Record<string, (number | string)[] | null>;
  method: Method | "";
  methods: Record<string, string>;
  maps: MapName[];
  guided_coverage: string | null;
  activation: "softmax" | "sigmoid";
}

export class Model {
  private constructor();
  readonly name: string;
  readonly card: Card;
  /** What computes. */
  readonly device: "wasm" | "webgpu" | "cpu";
  /** Why another device computes than was asked for; empty if none does. */
  readonly notice: string;
  /** Predicts and explains; throws an ExplainError. */
  explain(picture: Picture, options?: Options): Promise<Result>;
  /** The most probable classes, best first. */
  predict(picture: Picture, top_k?: number): Promise<Prediction[]>;
  /** Frees the memory of the graph. */
  release(): Promise<void>;
}

export interface LoadOptions {
  /** In browsers: "auto", the default, takes WebGPU where there is an adapter and the graph runs on it. */
  device?: "auto" | "wasm" | "webgpu";
  /** The model's name in answers; by default the file's. */
  name?: string;
  /** Another module of ONNX Runtime; in browsers also a function from the device to one. */
  ort?: unknown;
  /** In browsers: where ONNX Runtime's .wasm files lie, if not beside its modules. */
  wasmPaths?: string;
}

/** Opens a graph that `make explanation` or another export wrote: its address or path, a File, or bytes. */
export function load(
  graph: string | URL | Blob | ArrayBuffer | Uint8Array,
  options?: LoadOptions,
): Promise<Model>;

/** The server's JSON answer, without a receipt; maps are base64 of `.npy` files, or nested lists. */
export function toAnswer(result: Result, encoding?: "npy" | "list"): Record<string, unknown>;

/** What went wrong, in a sentence that says what is valid. */
export class ExplainError extends Error {
  /** The status that the server would answer with: 400, 413, 415, 422; 500 if the graph cannot be used. */
  readonly code: number;
  readonly type: "BadRequest" | "TooLarge" | "NotAnImage" | "Unprocessable" | "NotFinite" | "ModelError";
}
