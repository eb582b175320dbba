// Opens pictures: what the browser shows, and the file that is sent.

import { MOST_BYTES } from "./ask.js";
import { blank } from "./draw.js";
import { Failure } from "./failure.js";
import { unturned, upright } from "./webp.js";

const SHRUNK = 2048; // pixels of the longer side of a smaller copy
const MOST_PIXELS = 50_000_000; // that servers take
let opened = 0;

/**
 * A picture: `blob`, the file that is sent, its `name`, `bitmap` to show or null where the browser cannot, `height` and
 * `width` (0 without a bitmap), a `note` for the visitor, and an `id` of its own. Too large a picture becomes a smaller
 * copy; a Failure says that this is not possible.
 */
export async function openPicture(file, name = file.name ?? "picture") {
  const bitmap = await decoded(file);
  if (file.size <= MOST_BYTES && (bitmap?.height ?? 0) * (bitmap?.width ?? 0) <= MOST_PIXELS) {
    const note = bitmap ? "" : "The browser cannot show this file. If the server can read it, maps are shown on grey.";
    return pictureOf(file, name, bitmap, note);
  }
  const size = `The file has ${(file.size / 2 ** 20).toFixed(1)} MiB${bitmap ? `, ${bitmap.width} × ${bitmap.height} pixels` : ""}`;
  if (!bitmap) {
    throw new Failure(`${size}; valid are ${(MOST_BYTES / 2 ** 20).toFixed(1)} MiB, and the browser cannot make this file smaller.`);
  }
  const scale = Math.min(1, SHRUNK / Math.max(bitmap.height, bitmap.width));
  const { canvas, context } = blank([Math.max(1, Math.round(bitmap.height * scale)), Math.max(1, Math.round(bitmap.width * scale))]);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const copy = await encoded(canvas, "image/jpeg");
  const sent = `a smaller copy is sent, ${canvas.width} × ${canvas.height} pixels as JPEG, and the receipt's hash is that of the copy`;
  return pictureOf(copy, name.replace(/(\.\w+)?$/, "-smaller.jpg"), await decoded(copy), `${size}: ${sent}.`);
}

/** A picture of a canvas, as PNG, or as JPEG where that would be too large. */
export async function pictureOfCanvas(canvas, name) {
  const exact = await encoded(canvas, "image/png");
  const blob = exact.size <= MOST_BYTES ? exact : await encoded(canvas, "image/jpeg");
  return pictureOf(blob, name, await createImageBitmap(canvas), "");
}

function pictureOf(blob, name, bitmap, note) {
  opened += 1;
  return { id: opened, blob, name, bitmap, height: bitmap?.height ?? 0, width: bitmap?.width ?? 0, note };
}

/** The pixels as they are stored, turned as EXIF says, as the server reads them; null if the browser cannot read them. */
async function decoded(file) {
  try {
    const { file: stored, orientation } = await unturned(file);
    const bitmap = await createImageBitmap(stored, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
    return await upright(bitmap, orientation);
  } catch {
    return null;
  }
}

/** A canvas as a file of a type; a Failure says that the browser cannot write one this large. */
export function encoded(canvas, type) {
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new Failure("The browser cannot write a picture this large; choose a smaller one.")));
    canvas.toBlob(done, type, 0.95);
  });
}
