// Asks the server that the page came from.

import { Failure } from "./failure.js";

/** Bytes of a picture that fit into a request of the server, 10 MiB with base64 and options. */
const MOST_BYTES = Math.floor((10_485_760 - 8_192) * 0.75);

const STATUSES = {
  401: "The server asks for a token; load the page again and give it.",
  413: "The server takes no picture this large; choose a smaller one.",
  500: "The server failed; its log says why.",
  502: "The proxy before the server got no answer from it; try again in a moment.",
  503: "The server is busy; try again in a moment.",
  504: "The proxy before the server gave up waiting; ask for a faster method, or try again.",
};

/** The address of a model, "NAME" or "NAME/VERSION", or of the page's own without one. */
export function addressOf(path, own, model = "") {
  const found = /^(.*?\/)(predictions|explanations)\/[^/]+/.exec(path);
  if (found && !model) return path.replace(/\/+$/, "");
  const before = found ? found[1] : path.replace(/[^/]*$/, "");
  return `${before}predictions/${(model || own).split("/").map(encodeURIComponent).join("/")}`;
}

/**
 * Asks the server: `ask(options, picture, signal)` gives the JSON answer, or raises a Failure with a sentence.
 *
 * `own` is the name of the page's model. `ask.arrays` gives an NPZ file instead, `ask.address(model)` the address of a
 * model; `ask.locked` says whether there is a token, `ask.mostBytes` how large a picture can be.
 */
export function serverAsking(own, token = "") {
  const authorization = token ? { Authorization: `Bearer ${token}` } : {};
  const address = (model) => location.origin + addressOf(location.pathname, own, model);
  const post = async (accept, { model, ...said }, picture, signal) => {
    const body = JSON.stringify({ ...said, image: await asDataAddress(picture.blob) });
    const headers = { "Content-Type": "application/json", Accept: accept, ...authorization };
    let answer;
    let content;
    try {
      answer = await fetch(address(model), { method: "POST", headers, body, signal });
      content = await answer.blob();
    } catch {
      if (signal?.aborted) throw signal.reason;
      throw new Failure(
        "The server did not answer; it may have stopped, or the network is gone. Try again in a moment.",
      );
    }
    if (answer.ok && answer.headers.get("Content-Type")?.startsWith(accept)) return content;
    throw refusal(answer.status, await content.text());
  };
  const ask = async (...asked) => JSON.parse(await (await post("application/json", ...asked)).text());
  const arrays = (...asked) => post("application/x-npz", ...asked);
  return Object.assign(ask, { address, arrays, locked: Boolean(token), mostBytes: MOST_BYTES });
}

/** The Failure that an answer of this status and text is. */
export function refusal(status, text) {
  try {
    const { message } = JSON.parse(text);
    if (typeof message === "string" && message) return new Failure(message, status);
  } catch {
    // a page of a proxy, or of TorchServe itself
  }
  return new Failure(STATUSES[status] ?? `The server answered with ${status} and without a sentence.`, status);
}

function asDataAddress(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Failure("The file cannot be read; it may have been moved. Choose it again."));
    reader.readAsDataURL(blob);
  });
}
