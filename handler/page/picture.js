// Opens pictures: what the browser shows, and the file that is sent.

import { blank } from "./draw.js";
import { Failure } from "./failure.js";
import { unturned, upright } from "./webp.js";

const SHRUNK = 2048; // pixels of the longer side of a smaller copy
const MOST_PIXELS = 50_000_000; // that servers take
let opened = 0;

/**
 * A picture: `blob`, the file that is asked about, its `name`, `bitmap` to show or null where the browser cannot,
 * `height` and `width` (0 without a bitmap), a `note` for the visitor, and an `id` of its own. Too large a picture, in
 * bytes or in pixels, becomes a smaller copy; a Failure says that this is not possible.
 */
export async function openPicture(file, name = file.name ?? "picture", mostBytes = Infinity) {
  const bitmap = await decoded(file);
  if (file.size <= mostBytes && (bitmap?.height ?? 0) * (bitmap?.width ?? 0) <= MOST_PIXELS) {
    const note = bitmap ? "" : "The browser cannot show this file. If the server can read it, maps are shown on grey.";
    return pictureOf(file, name, bitmap, note);
  }
  const sides = bitmap ? `, ${bitmap.width} × ${bitmap.height} pixels` : "";
  const size = `The file has ${(file.size / 2 ** 20).toFixed(1)} MiB${sides}`;
  if (!bitmap) {
    throw new Failure(
      `${size}; valid are ${(mostBytes / 2 ** 20).toFixed(1)} MiB, and the browser cannot make this file smaller.`,
    );
  }
  const scale = Math.min(1, SHRUNK / Math.max(bitmap.height, bitmap.width));
  const { canvas, context } = blank([
    Math.max(1, Math.round(bitmap.height * scale)),
    Math.max(1, Math.round(bitmap.width * scale)),
  ]);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const copy = await encoded(canvas, "image/jpeg");
  const sent = `a smaller copy is explained, ${canvas.width} × ${canvas.height} pixels as JPEG`;
  const note = `${size}: ${sent}, and the receipt's hash is that of the copy.`;
  return pictureOf(copy, name.replace(/(\.\w+)?$/, "-smaller.jpg"), await decoded(copy), note);
}

/** A picture that shows a canvas; its file is PNG, or JPEG where PNG is too large, or where JPEG is asked for. */
export async function pictureOfCanvas(canvas, name, mostBytes = Infinity, type = "image/png") {
  const exact = await encoded(canvas, type);
  const blob = exact.size <= mostBytes ? exact : await encoded(canvas, "image/jpeg");
  return pictureOf(blob, name, canvas, "");
}

function pictureOf(blob, name, bitmap, note) {
  opened += 1;
  return { id: opened, blob, name, bitmap, height: bitmap?.height ?? 0, width: bitmap?.width ?? 0, note };
}

/** The pixels as the server reads them, turned as EXIF says; null if the browser cannot read them. */
async function decoded(file) {
  try {
    const { file: stored, orientation } = await unturned(file);
    const bitmap = await createImageBitmap(stored, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
    });
    return await upright(file.type === "image/jpeg" ? bitmap : await opaque(bitmap), orientation);
  } catch {
    return null;
  }
}

/**
 * The colours that are stored, under transparent pixels, too, where the server sees them: a canvas would forget them.
 * The bitmap itself, where nothing is transparent, or where the browser has no WebGL or not for a picture this large.
 */
async function opaque(bitmap) {
  const gl = document.createElement("canvas").getContext("webgl");
  const { width, height } = bitmap;
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return bitmap;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8ClampedArray(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(pixels.buffer));
  const failed = gl.getError();
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  let transparent = false;
  for (let place = 3; place < pixels.length; place += 4) {
    transparent ||= pixels[place] < 255;
    pixels[place] = 255;
  }
  if (!transparent || failed) return bitmap;
  bitmap.close();
  return createImageBitmap(new ImageData(pixels, width, height));
}

/** A canvas as a file of a type; a Failure says that the browser cannot write one this large. */
export function encoded(canvas, type) {
  return new Promise((resolve, reject) => {
    const done = (blob) =>
      blob
        ? resolve(blob)
        : reject(new Failure("The browser cannot write a picture this large; choose a smaller one."));
    canvas.toBlob(done, type, 0.95);
  });
}
