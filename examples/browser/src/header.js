/** Looks at the first bytes of a picture's file, so that format and size are judged before a pixel is decoded. */
import { notAnImage, tooLarge } from "./errors.js";

export const MOST_PIXELS = 50_000_000; // the server's limits
export const LONGEST_SIDE = 65_535;

const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const KINDS = {
  JPEG: (bytes) => bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff,
  PNG: (bytes) => text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n",
  GIF: (bytes) => /^GIF8[79]a/.test(text(bytes, 0, 6)),
  WEBP: (bytes) => text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP",
  BMP: (bytes) => text(bytes, 0, 2) === "BM",
  AVIF: (bytes) => text(bytes, 4, 10) === "ftypav",
  TIFF: (bytes) => ["II*\0", "MM\0*"].includes(text(bytes, 0, 4)),
};

/** The format of a file out of `formats`, and its size where the header tells; throws what the server would answer. */
export function readHeader(bytes, formats) {
  const format = formats.find((name) => KINDS[name](bytes));
  if (!format) {
    const start = bytes.subarray(0, 8);
    const letters = [...start].map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    const hex = [...start].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const first = bytes.length ? `the first bytes are ${hex} (${letters})` : "there are no bytes";
    throw notAnImage(`not a picture that can be read: ${first}, valid are ${formats.join(", ")}`);
  }
  const size = sizeOf(format, bytes);
  if (size) checkSize(size.width, size.height);
  return { format, ...size };
}

/** Refuses what the server refuses: too many pixels, or a side that is too long. */
export function checkSize(width, height) {
  if (Math.max(width, height) > LONGEST_SIDE)
    throw tooLarge(`the picture is ${width}x${height}, valid are sides of at most ${LONGEST_SIDE} pixels`);
  if (width * height > MOST_PIXELS) {
    const found = `${width}x${height} = ${width * height}`;
    throw tooLarge(`the picture has ${found} pixels, valid are at most ${MOST_PIXELS}`);
  }
}

/** Width and height by the header; undefined where it is too short, or a format whose header is not read here. */
function sizeOf(format, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (format === "PNG") return { width: view.getUint32(16), height: view.getUint32(20) };
    if (format === "GIF") return { width: view.getUint16(6, true), height: view.getUint16(8, true) };
    if (format === "BMP" && view.getUint32(14, true) >= 40)
      return { width: Math.abs(view.getInt32(18, true)), height: Math.abs(view.getInt32(22, true)) };
    if (format === "WEBP") return sizeOfWebp(view, text(bytes, 12, 16));
    if (format === "JPEG") return sizeOfJpeg(view);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return undefined;
}

function sizeOfWebp(view, chunk) {
  if (chunk === "VP8 ") return { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  if (chunk === "VP8L") {
    const bits = view.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  const three = (at) => view.getUint16(at, true) + (view.getUint8(at + 2) << 16) + 1;
  return { width: three(24), height: three(27) };
}

function sizeOfJpeg(view) {
  for (let at = 2; ; ) {
    while (view.getUint8(at) !== 0xff) at++; // as decoders do
    while (view.getUint8(at) === 0xff) at++;
    const marker = view.getUint8(at++);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { width: view.getUint16(at + 5), height: view.getUint16(at + 3) };
    if (marker !== 0x01 && (marker < 0xd0 || marker > 0xd9)) at += view.getUint16(at);
  }
}
