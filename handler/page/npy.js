// Reads NumPy's .npy files, in which answers carry their maps.

import { Failure } from "./failure.js";

/** The bytes of a base64 text. */
export function fromBase64(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place += 1) bytes[place] = letters.charCodeAt(place);
  return bytes;
}

/** Shape and values of a .npy file: float32, little endian, row by row; other files raise a Failure. */
function readNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || view.getUint32(0) !== 0x934e554d) throw new Failure("the map is no .npy file");
  const wide = bytes[6] > 1; // version 2 has four bytes for the header's length
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  if (!header.includes("'<f4'") || header.includes("'fortran_order': True")) {
    throw new Failure("the map's numbers are not float32, row by row");
  }
  const shape = /'shape': \(([^)]*)\)/.exec(header)[1].split(",").filter((part) => part.trim()).map(Number);
  const data = new Float32Array(bytes.slice(start + length).buffer);
  if (data.length !== shape.reduce((product, side) => product * side, 1))
    throw new Failure("the map's file is truncated");
  return { shape, data };
}

/** A map of an answer, with `height`, `width`, `channels` and `data`; its `encoding` must be "npy". */
export function readMap(content) {
  const { shape, data } = readNpy(fromBase64(content.data));
  const [height, width, channels = 1] = shape;
  return { height, width, channels, data };
}
