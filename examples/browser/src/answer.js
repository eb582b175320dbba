/** Writes an explanation as the server's JSON answer (docs/API.md), with maps as `npy` or as `list`. */
import { badRequest } from "./errors.js";

/** The content of the JSON answer; it has no receipt. */
export function toAnswer({ model, predictions, explanations, image, view, timings_ms }, encoding = "npy") {
  if (!["npy", "list"].includes(encoding))
    throw badRequest(`encoding '${encoding}' does not exist here, valid are npy, list`);
  const encoded = ({ values, shape, ...told }) => {
    const data = encoding === "npy" ? base64(npy(values, shape)) : nested(values, shape);
    return { encoding, shape, data, ...told };
  };
  return {
    model,
    predictions,
    explanations: explanations.map((one) => ({
      ...one,
      maps: Object.fromEntries(Object.entries(one.maps).map(([name, map]) => [name, encoded(map)])),
    })),
    ...(image ? { image } : {}),
    view,
    timings_ms: Object.fromEntries(Object.entries(timings_ms).map(([name, spent]) => [name, Math.round(spent * 100) / 100])),
  };
}

/** The bytes of a `.npy` file of float32 values. */
export function npy(values, shape) {
  const sides = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const said = `{'descr': '<f4', 'fortran_order': False, 'shape': (${sides}), }`;
  const header = said.padEnd(Math.ceil((said.length + 11) / 64) * 64 - 11) + "\n";
  const bytes = new Uint8Array(10 + header.length + values.length * 4);
  bytes.set([0x93, ...[..."NUMPY"].map((letter) => letter.charCodeAt(0)), 1, 0, header.length % 256, header.length >> 8]);
  bytes.set(new TextEncoder().encode(header), 10);
  bytes.set(new Uint8Array(Float32Array.from(values).buffer), 10 + header.length);
  return bytes;
}

function base64(bytes) {
  let letters = "";
  for (let at = 0; at < bytes.length; at += 0x8000) letters += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(letters);
}

function nested(values, [side, ...rest]) {
  const size = values.length / side;
  if (!rest.length) return Array.from(values);
  return Array.from({ length: side }, (_, place) => nested(values.subarray(place * size, (place + 1) * size), rest));
}
