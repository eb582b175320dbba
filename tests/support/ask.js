// Asks the package what a test wants to know; questions and answers are JSON, bytes in it are base64.
import { preprocess, readPreprocessing } from "./examples/browser/src/preprocess.js";
import { folded } from "./examples/browser/src/targets.js";

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function textOf(bytes) {
  let letters = "";
  for (let at = 0; at < bytes.length; at += 0x8000) letters += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(letters);
}

/** A picture of a question: pixels, or the bytes of a file. */
const pictureOf = (said) => (typeof said === "string" ? bytesOf(said) : { ...said, data: bytesOf(said.data) });

/** The crop and the tensor of a picture for each of several preprocessings. */
export function preprocessed({ picture, settings }) {
  return settings.map((how) => {
    const seen = preprocess(pictureOf(picture), readPreprocessing(how));
    const tensor = new Uint8Array(seen.tensor.buffer);
    return { picture: textOf(seen.picture), tensor: textOf(tensor), image: seen.image, crop: seen.crop };
  });
}

export const foldedLabels = (labels) => labels.map(folded);

/** The pixels that a file is decoded to, without transparency. */
export async function decoded(decode, file) {
  const { pixels } = await decode(bytesOf(file));
  const { data, width, height, channels } = pixels;
  const bands = channels === 4 ? 3 : channels;
  const kept = new Uint8Array(width * height * bands);
  for (let place = 0; place < kept.length; place += 1)
    kept[place] = data[Math.floor(place / bands) * channels + (place % bands)];
  return { data: textOf(kept), width, height, channels: bands };
}

/** ONNX Runtime for a browser's device, where no bundler finds packages by their names. */
export const runtime = (name) => import(`./examples/browser/node_modules/onnxruntime-web/dist/ort.${name}.bundle.min.mjs`);

/** What `load` makes of a graph, or its error. */
export async function opened({ load }, graph, options) {
  try {
    const found = globalThis.window ? { ort: runtime } : {};
    return await load(typeof graph === "string" ? graph : bytesOf(graph.bytes), { ...found, ...options });
  } catch (error) {
    return mistake(error);
  }
}

/** The answer to each question `{picture, options}`, or its error. */
export async function answers({ toAnswer }, model, questions) {
  const found = [];
  for (const { picture, options } of questions)
    try {
      found.push(toAnswer(await model.explain(pictureOf(picture), options)));
    } catch (error) {
      found.push(mistake(error));
    }
  return found;
}

const mistake = ({ name, code, type, message }) => ({ error: { name, code, type, message } });
