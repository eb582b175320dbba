/** Explains pictures with a graph; the same in browsers and in Node, which differ in what decodes and what computes. */
import { modelError, notFinite } from "./errors.js";
import { describeGraph, KINDS, withoutDefaults } from "./graph.js";
import { atInput, cam, FORMULAS } from "./maps.js";
import { defaultMethod, readOptions } from "./options.js";
import { preprocess } from "./preprocess.js";
import { best, Classes, probabilities, resolved, TOP, weightsOf } from "./targets.js";

const ALIKE = 1e-3; // of the largest value
const AT_LAYER = ["gradcam", "guided_gradcam"]; // maps that a method makes
const AT_INPUT = { guided_backprop: "guided_backprop", guided_gradcam: "guided_backprop", saliency: "saliency" };

export class Model {
  #session;
  #ort;
  #decode;
  #classes;
  #last = Promise.resolve(); // a session runs once at a time

  /**
   * Opens a graph: `bytes` of the file, `ort` ONNX Runtime's module, `decode` from a picture to its pixels, and
   * `options` of the session. Throws a ModelError that says why the file is no graph of this project.
   */
  static async open(bytes, { ort, decode, name = "model", device, options = {} }) {
    const description = describeGraph(bytes);
    let session;
    try {
      session = await ort.InferenceSession.create(withoutDefaults(bytes), { logSeverityLevel: 3, ...options });
    } catch (error) {
      throw modelError(`ONNX Runtime cannot open the graph: ${firstLine(error)}`, error);
    }
    const model = new Model();
    Object.assign(model, { description, name, device, notice: "" });
    model.#session = session;
    model.#ort = ort;
    model.#decode = decode;
    model.#classes = new Classes(description.labels);
    return model;
  }

  /** The model as the server describes it. */
  get card() {
    const { architecture, kind, labels, layer, layers, coverage, head, preprocessing, weights_sha256 } = this.description;
    const shape = (output) => this.#session.outputMetadata?.find(({ name }) => name === output)?.shape.slice(1) ?? null;
    return {
      name: this.name,
      version: weights_sha256.slice(0, 12),
      architecture,
      engine: "onnx",
      labels,
      input: { size: preprocessing.size, channels: preprocessing.channels },
      layer,
      layers: Object.fromEntries(Object.entries(layers).map(([path, end]) => [path, shape(`activations${end}`)])),
      method: defaultMethod(this.description),
      methods: Object.fromEntries(KINDS[kind].methods.map((name) => [name, name])),
      maps: KINDS[kind].maps,
      guided_coverage: coverage || null,
      activation: head,
    };
  }

  /** Predicts the `top_k` most probable classes of a picture, best first; 5 unless said otherwise. */
  async predict(picture, top_k) {
    return (await this.explain(picture, { maps: "none", ...(top_k === undefined ? {} : { top_k }) })).predictions;
  }

  /** Predicts and explains. The options are the server's, and `signal`, by which an explanation is given up. */
  async explain(picture, { signal, ...options } = {}) {
    const asked = readOptions(options, this.description, this.#classes);
    const started = performance.now();
    const { pixels, image } = await this.#decode(picture);
    const { preprocessing } = this.description;
    const seen = preprocess(pixels, preprocessing);
    const decoded = performance.now();
    const turn = this.#last.then(() => this.#answer(seen.tensor, asked, signal));
    this.#last = turn.catch(() => {});
    const { result, spent } = await turn;
    const [height, width] = preprocessing.size;
    const { name, version, architecture, engine } = this.card;
    const activation = this.description.head === "softmax" ? {} : { activation: this.description.head };
    return {
      model: { name, version, architecture, engine, ...activation },
      ...result,
      image,
      view: { image: seen.image, crop: seen.crop.map((edge) => Math.round(edge * 1e6) / 1e6) },
      seen: { data: seen.picture, width, height, channels: preprocessing.channels },
      timings_ms: { decode: decoded - started, infer: 0, explain: spent, render: performance.now() - decoded - spent },
    };
  }

  /** Why this model's scores and evidence of a fixed picture are not another's; empty if they are. */
  async differsFrom(other) {
    const { preprocessing, kind } = this.description;
    const [height, width] = preprocessing.size;
    const data = Uint8Array.from({ length: height * width * preprocessing.channels }, (_, place) => (place * 7919) % 251);
    const { tensor } = preprocess({ data, width, height, channels: preprocessing.channels }, preprocessing);
    const names = this.#outputs(KINDS[kind].maps, defaultMethod(this.description), [this.description.layer]);
    const top = { target: this.description.portable ? 0 : TOP, contrast: null, against: false };
    const [mine, theirs] = [await this.#run(tensor, top, names), await other.#run(tensor, top, names)];
    for (const name of names.filter((one) => !Object.values(AT_INPUT).includes(one))) { // whose gates may flip
      const most = theirs[name].data.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-12);
      const apart = mine[name].data.reduce((d, value, at) => Math.max(d, Math.abs(value - theirs[name].data[at])), 0);
      if (!(apart <= ALIKE * most)) return `${name} differ by ${(apart / most).toPrecision(2)} of the largest`;
    }
    return "";
  }

  /** Frees the memory of the graph. */
  async release() {
    await this.#last;
    await this.#session.release();
  }

  async #answer(tensor, { wanted, maps, method, paths, top_k, size }, signal) {
    const { labels, head } = this.description;
    const [{ target, contrast, against }] = wanted;
    const names = this.#outputs(maps, method, paths);
    let spent = 0;
    const run = async (mixture) => {
      signal?.throwIfAborted();
      const begun = performance.now();
      const outputs = await this.#run(tensor, mixture, names);
      spent += performance.now() - begun;
      return outputs;
    };
    // the first run finds the scores; it is for the first target, if that depends on no scores
    const start = maps.length && contrast === null && !against ? target : TOP;
    const first = await run({ target: start, contrast: null, against: false });
    const logits = first.logits.data;
    const chances = probabilities(logits, head);
    const order = best(head === "softmax" ? chances : logits, labels.length);
    const seen = this.description.portable ? TOP : best(logits, 1)[0]; // a portable graph has to be told the class
    const known = start === TOP ? seen : start;
    const described = (index) => ({ index, label: labels[index], logit: logits[index], probability: chances[index] });
    const explanations = [];
    for (const one of maps.length ? wanted : []) {
      const mixture = resolved(one, logits);
      const alone = mixture.contrast === null && !mixture.against;
      const outputs = alone && mixture.target === known ? first : await run(mixture);
      explanations.push({
        target: described(mixture.target),
        ...(mixture.contrast === null ? {} : { contrast: described(mixture.contrast) }),
        ...(mixture.against ? { against: true } : {}),
        ...this.#maps(outputs, maps, method, paths, size),
      });
    }
    const predictions = order.slice(0, top_k).map((index) => ({ index, label: labels[index], probability: chances[index] }));
    return { result: { logits, probabilities: chances, predictions, explanations }, spent };
  }

  /** Names of the outputs that maps are made of. */
  #outputs(maps, method, paths) {
    const ends = paths.map((path) => this.description.layers[path]);
    const atLayer = method in FORMULAS ? ends.flatMap((end) => [`activations${end}`, `gradients${end}`]) : [method];
    const gradients = maps.filter((name) => name in AT_INPUT).map((name) => AT_INPUT[name]);
    return [...new Set(["logits", ...(maps.some((name) => AT_LAYER.includes(name)) ? atLayer : []), ...gradients])];
  }

  async #run(tensor, mixture, names) {
    const { kind, labels, preprocessing } = this.description;
    const { Tensor } = this.#ort;
    const feeds = { input: new Tensor("float32", tensor, [1, preprocessing.channels, ...preprocessing.size]) };
    if (kind !== "prediction") {
      const weights = weightsOf(mixture, labels.length);
      if (!this.description.portable) feeds.target = new Tensor("int64", BigInt64Array.of(BigInt(mixture.target)), [1]);
      else if (mixture.target !== TOP && !weights.some((value) => value)) weights[mixture.target] = 1;
      feeds.weights = new Tensor("float32", weights, [1, labels.length]);
    }
    let outputs;
    try {
      outputs = await this.#session.run(feeds, names);
    } catch (error) {
      throw modelError(`ONNX Runtime failed on this picture: ${firstLine(error)}`, error);
    }
    for (const name of names)
      if (!outputs[name].data.every(Number.isFinite)) {
        const why = `the network gives ${name} that are not finite (NaN or infinity), which mean nothing`;
        throw notFinite(`for this picture ${why}; valid are pictures for which all values are finite`);
      }
    return outputs;
  }

  /** Method, layer and maps of an explanation. */
  #maps(outputs, names, method, paths, size) {
    const { coverage, layers, preprocessing } = this.description;
    const ofLayer = method in FORMULAS;
    const atLayer = names.some((name) => AT_LAYER.includes(name));
    const unscaled = () => {
      if (!ofLayer) return [{ values: outputs[method].data, size: outputs[method].dims.slice(1) }];
      return paths.map((path) => {
        const { data, dims } = outputs[`activations${layers[path]}`];
        const cells = dims[2] * dims[3];
        const values = FORMULAS[method](data, outputs[`gradients${layers[path]}`].data, dims[1], cells);
        return { values, size: dims.slice(2) };
      });
    };
    const found = atLayer ? unscaled() : [];
    const made = names.map((name) => {
      if (name === "gradcam") return [name, cam(found, size === "layer" ? found[0].size : preprocessing.size)];
      const { data, dims } = outputs[AT_INPUT[name]];
      const factor = name === "guided_gradcam" ? cam(found, preprocessing.size).values : undefined;
      const guided = AT_INPUT[name] === "guided_backprop" && coverage ? { coverage } : {};
      return [name, { ...atInput(data, dims.slice(1), factor), ...guided }];
    });
    const used = atLayer && ofLayer ? paths : [];
    const layer = used.length > 1 ? used : (used[0] ?? null);
    return { method: atLayer ? method : null, layer, maps: Object.fromEntries(made) };
  }
}

const firstLine = (error) => String(error?.message ?? error).split("\n")[0].slice(0, 300);
