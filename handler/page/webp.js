// Turns WebP pictures upright, as the server does; browsers leave them as they are stored, unlike JPEG and PNG.

import { blank } from "./draw.js";

const ORIENTATION = 0x0112; // EXIF's tag
// what a canvas does before it draws a picture of this width and height, by EXIF's orientation
const TURNS = {
  2: (width) => [-1, 0, 0, 1, width, 0],
  3: (width, height) => [-1, 0, 0, -1, width, height],
  4: (_, height) => [1, 0, 0, -1, 0, height],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (_, height) => [0, 1, -1, 0, height, 0],
  7: (width, height) => [0, -1, -1, 0, height, width],
  8: (width) => [0, -1, 1, 0, 0, width],
};

/** The file with its orientation, which a WebP no longer says, so that no browser turns what `upright` turns. */
export async function unturned(file) {
  const text = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 4));
  const head = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  if (text(head, 0) !== "RIFF" || text(head, 8) !== "WEBP" || text(head, 12) !== "VP8X")
    return { file, orientation: 1 };
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (text(bytes, at) === "EXIF") {
      bytes.set([0x4a, 0x55, 0x4e, 0x4b], at); // JUNK, which decoders skip
      return {
        file: new Blob([bytes], { type: file.type }),
        orientation: orientationOf(bytes.subarray(at + 8, at + 8 + length)),
      };
    }
    at += 8 + length + (length % 2);
  }
  return { file, orientation: 1 };
}

/** The orientation of EXIF data; 1, upright, where they do not say. */
function orientationOf(exif) {
  const start = exif[0] === 0x45 ? 6 : 0; // behind "Exif" and two zeros, or without them
  const view = new DataView(exif.buffer, exif.byteOffset + start, exif.length - start);
  try {
    const little = view.getUint16(0) === 0x4949;
    const table = view.getUint32(4, little);
    for (let entry = 0; entry < view.getUint16(table, little); entry += 1) {
      const at = table + 2 + 12 * entry;
      if (view.getUint16(at, little) === ORIENTATION) return view.getUint16(at + 8, little);
    }
  } catch {
    // the data are truncated: the server takes the picture as it is stored, too
  }
  return 1;
}

/** The picture, turned upright by an orientation. */
export async function upright(bitmap, orientation) {
  if (!(orientation in TURNS)) return bitmap;
  const { width, height } = bitmap;
  const { canvas, context } = blank(orientation > 4 ? [width, height] : [height, width]);
  context.setTransform(...TURNS[orientation](width, height));
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return createImageBitmap(canvas);
}
