/** `load` for Node: onnxruntime-node, and sharp for what decodes files. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";

import { toAnswer } from "./answer.js";
import { badRequest, ExplainError, modelError } from "./errors.js";
import { checkSize, MOST_PIXELS, readHeader } from "./header.js";
import { Model } from "./model.js";

export { ExplainError, Model, toAnswer };

const FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"];

/** Opens a graph: its path, a Blob or its bytes. `ort` is another module than onnxruntime-node. Throws an ExplainError. */
export async function load(graph, { ort, name } = {}) {
  const isPath = typeof graph === "string" || graph instanceof URL;
  const bytes = isPath ? await read(graph) : new Uint8Array(graph instanceof Blob ? await graph.arrayBuffer() : graph);
  const runtime = ort ?? (await packageOf("onnxruntime-node"));
  const options = { executionProviders: ["cpu"] };
  const called = name ?? (isPath ? basename(pathOf(graph)).split(".")[0] : "model");
  return Model.open(bytes, { ort: runtime, decode, name: called, device: "cpu", options });
}

async function packageOf(name) {
  try {
    const found = await import(name);
    return found.default ?? found;
  } catch (error) {
    throw modelError(`the package ${name} is missing: npm install --ignore-scripts ${name}`, error);
  }
}

const pathOf = (path) => (path instanceof URL ? fileURLToPath(path) : path);

async function read(path) {
  try {
    return new Uint8Array(await readFile(pathOf(path)));
  } catch (error) {
    throw modelError(`the file ${pathOf(path)} cannot be read: ${error.message}`, error);
  }
}

/** Decodes a file's path or bytes to pixels; a picture `{data, width, height, channels}` is left as it is. */
export async function decode(picture) {
  if (picture?.data?.length && picture.width) return { pixels: picture };
  const isPath = typeof picture === "string" || picture instanceof URL;
  if (!isPath && !ArrayBuffer.isView(picture) && !(picture instanceof ArrayBuffer))
    throw badRequest("this is no picture; valid are a path, bytes, and pixels with width, height and channels");
  const bytes = isPath ? await read(picture) : new Uint8Array(picture.buffer ?? picture, picture.byteOffset ?? 0, picture.byteLength);
  const { format } = readHeader(bytes, FORMATS);
  const sharp = await packageOf("sharp");
  let decoded;
  try {
    decoded = await sharp(bytes, { limitInputPixels: MOST_PIXELS, ignoreIcc: true })
      .rotate() // as EXIF says
      .toColourspace("srgb")
      .raw()
      .toBuffer({ resolveWithObject: true });
  } catch (error) {
    throw badRequest(`the ${format} picture is truncated or corrupt and cannot be decoded`, error);
  }
  const { width, height, channels } = decoded.info;
  checkSize(width, height);
  const image = { sha256: createHash("sha256").update(bytes).digest("hex"), bytes: bytes.length };
  return { pixels: opaque({ data: decoded.data, width, height, channels }), image };
}

/** Grey with transparency as grey: the server drops transparency, too. */
function opaque(pixels) {
  if (pixels.channels !== 2) return pixels;
  return { ...pixels, data: pixels.data.filter((_, place) => place % 2 === 0), channels: 1 };
}

/** The bytes of a PNG file of pixels. */
export async function encodePng({ data, width, height, channels }) {
  const sharp = await packageOf("sharp");
  return sharp(data, { raw: { width, height, channels } }).png().toBuffer();
}
