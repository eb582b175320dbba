// Takes a photograph with the visitor's camera: where there is a pointer, in the page; on phones, by their own camera.

import { button, el } from "./dom.js";
import { blank } from "./draw.js";
import { Failure } from "./failure.js";
import { encoded } from "./picture.js";

const REASONS = {
  NotAllowedError: "The camera was refused; allow it for this page in the browser, or choose a picture.",
  NotFoundError: "This machine has no camera; choose a picture.",
  NotReadableError:
    "The camera does not start, perhaps because another program uses it; close that program, or choose a picture.",
};

/**
 * A `button`, and a `view` of what the camera sees; `take(file)` gets a photograph, `tell` a Failure.
 *
 * `native()` opens a phone's own camera.
 */
export function camera({ take, tell, native }) {
  const video = el("video", { playsinline: true, "aria-label": "What the camera sees" });
  const opener = button("Photograph", () => (matchMedia("(pointer: coarse)").matches ? native() : open()));
  const shutter = button("Take the picture", shoot, { class: "primary", disabled: true });
  const view = el(
    "div",
    { id: "camera", hidden: true },
    video,
    el("div", { class: "row" }, shutter, button("Close the camera", leave)),
  );

  async function open() {
    close();
    opener.disabled = true; // the browser asks the visitor once
    try {
      if (!navigator.mediaDevices)
        throw new Failure("Browsers give the camera to pages of HTTPS and of this machine alone; choose a picture.");
      video.srcObject = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment", width: { ideal: 1920 } },
      });
      view.hidden = false;
      await video.play();
      shutter.disabled = false;
      shutter.focus();
    } catch (error) {
      close();
      if (error.name === "AbortError") return; // it was closed before it began
      tell(
        error instanceof Failure
          ? error
          : new Failure(REASONS[error.name] ?? `The camera does not start (${error.message}); choose a picture.`),
      );
    } finally {
      opener.disabled = false;
    }
  }

  async function shoot() {
    const { canvas, context } = blank([video.videoHeight, video.videoWidth]);
    context.drawImage(video, 0, 0);
    leave();
    take(new File([await encoded(canvas, "image/jpeg")], "photograph.jpg", { type: "image/jpeg" }));
  }

  function close() {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    shutter.disabled = view.hidden = true;
  }

  function leave() {
    close();
    opener.focus();
  }

  return { button: opener, view, close };
}
