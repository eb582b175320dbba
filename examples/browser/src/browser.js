/** `load` for browsers: ONNX Runtime's WebAssembly, and WebGPU where there is an adapter. */
import { toAnswer } from "./answer.js";
import { badRequest, ExplainError, modelError } from "./errors.js";
import { checkSize, readHeader } from "./header.js";
import { Model } from "./model.js";

export { ExplainError, Model, toAnswer };

const FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF"];
const DEVICES = ["auto", "wasm", "webgpu"];
const AS_STORED = { imageOrientation: "from-image", premultiplyAlpha: "none", colorSpaceConversion: "none" };

/**
 * Opens a graph: its address, a File, or its bytes. `device` is "auto", "wasm" or "webgpu"; `ort` another module of
 * ONNX Runtime than the package's, or a function from "wasm" or "webgpu" to one, `wasmPaths` where its .wasm files lie. Throws an ExplainError.
 */
export async function load(graph, { device = "auto", ort, wasmPaths, name } = {}) {
  if (!DEVICES.includes(device)) throw badRequest(`device '${device}' does not exist, valid are ${DEVICES.join(", ")}`);
  const bytes = await bytesOf(graph);
  const known = { decode, name: name ?? nameOf(graph) };
  const opened = async (runtime, ...providers) =>
    Model.open(bytes, { ...known, ort: runtime, device: providers[0], options: { executionProviders: providers } });
  const missing = device === "wasm" ? "" : await withoutAdapter();
  if (device === "wasm" || missing) {
    const model = await opened(await runtimeOf("wasm", ort, wasmPaths), "wasm");
    model.notice = device === "webgpu" ? `WebAssembly computes, because ${missing}` : "";
    return model;
  }
  const runtime = await runtimeOf("webgpu", ort, wasmPaths);
  const sure = await opened(runtime, "wasm");
  let [fast, why] = [null, ""];
  try {
    fast = await opened(runtime, "webgpu", "wasm");
    why = await fast.differsFrom(sure);
  } catch (error) {
    why = error.message;
  }
  await (why ? fast : sure)?.release();
  if (!why) return fast;
  sure.notice = `WebAssembly computes, because WebGPU gives other numbers or none: ${why}`;
  return sure;
}

/** ONNX Runtime's module for a device. Threads need a page that is isolated from others, which is not the usual one. */
async function runtimeOf(device, ort, wasmPaths) {
  const packaged = () => (device === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm"));
  const runtime = typeof ort === "function" ? await ort(device) : (ort ?? (await packaged()));
  if (!globalThis.crossOriginIsolated) runtime.env.wasm.numThreads = 1;
  if (wasmPaths) runtime.env.wasm.wasmPaths = wasmPaths;
  return runtime;
}

async function withoutAdapter() {
  if (!navigator.gpu) return "this browser has no WebGPU";
  return (await navigator.gpu.requestAdapter().catch(() => null)) ? "" : "WebGPU finds no adapter";
}

async function bytesOf(graph) {
  if (graph instanceof Uint8Array) return graph;
  if (graph instanceof ArrayBuffer) return new Uint8Array(graph);
  if (graph instanceof Blob) return new Uint8Array(await graph.arrayBuffer());
  if (typeof graph !== "string" && !(graph instanceof URL))
    throw badRequest("the graph must be an address, a File or bytes");
  const answer = await fetch(graph).catch((error) => {
    throw modelError(`the graph ${graph} cannot be fetched: ${error.message}`, error);
  });
  if (!answer.ok) throw modelError(`the graph ${graph} cannot be fetched: the server answered with ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

function nameOf(graph) {
  const isAddress = graph instanceof URL || typeof graph === "string";
  return (isAddress ? String(graph).split("/").pop() : (graph.name ?? "model")).split(".")[0];
}

/**
 * Decodes a File, Blob, bytes, an element of the page (img, canvas), an ImageBitmap or ImageData to pixels; a picture
 * `{data, width, height, channels}` is left as it is.
 */
export async function decode(picture) {
  if (picture?.data?.length && picture.width) return { pixels: picture };
  if (picture instanceof Blob || picture instanceof ArrayBuffer || ArrayBuffer.isView(picture)) {
    const blob = picture instanceof Blob ? picture : new Blob([picture]);
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const { format } = readHeader(bytes, FORMATS);
    const bitmap = await createImageBitmap(blob, AS_STORED).catch((error) => {
      throw badRequest(`the ${format} picture is truncated or corrupt and cannot be decoded`, error);
    });
    const pixels = pixelsOf(bitmap);
    const data = isOpaque(pixels.data) ? null : await underTransparency(blob, pixels).catch(() => null);
    return { pixels: data ? { ...pixels, data } : pixels, image: await hashOf(bytes) };
  }
  try {
    return { pixels: pixelsOf(await createImageBitmap(picture, AS_STORED)) };
  } catch (error) {
    if (error instanceof ExplainError) throw error;
    throw badRequest("this is no picture; valid are files, bytes, images, canvases and pixels", error);
  }
}

function isOpaque(data) {
  for (let place = 3; place < data.length; place += 4) if (data[place] < 255) return false;
  return true;
}

/** The colours as they are stored: a canvas loses those under transparency. Null where no texture can hold them. */
async function underTransparency(blob, { width, height }) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, await createImageBitmap(blob, AS_STORED));
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const failed = gl.getError();
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : data;
}

async function hashOf(bytes) {
  const digest = globalThis.crypto?.subtle && (await crypto.subtle.digest("SHA-256", bytes)); // on secure pages alone
  const sha256 = digest && [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { ...(sha256 ? { sha256 } : {}), bytes: bytes.length };
}

function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  checkSize(width, height);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  bitmap.close();
  return { data, width, height, channels: 4 };
}
