// Runs questions one after another: with progress, a limit of time, and answers that are kept.

import { Failure } from "./failure.js";

const KEPT = 24; // answers
const FASTER = "choose a method with fewer passes, or more time under “Give up after”.";
const SUPERSEDED = new Failure("Another question came between.");

/**
 * `during(work)` runs `work(one)`, and ends what runs, as `during.stop()` does; null if it failed.
 *
 * `one(request, picture, text, share, how)` gives an answer by `ask`, or by `how`, which takes the same arguments.
 */
export function runner({ ask, bar, options, tell }) {
  const kept = new Map();
  let running = null;

  async function during(work) {
    stop();
    const control = new AbortController();
    running = control;
    const shown = bar.begin(() => control.abort(new Failure("It was cancelled; choose something to ask again.")));

    async function one(request, picture, text, share, how = ask) {
      const key = `${how === ask} ${picture.id} ${JSON.stringify(request)}`;
      if (kept.has(key)) return kept.get(key);
      shown.say(text, share);
      const late = `No answer came in ${options.timeout} seconds`;
      const clock = setTimeout(() => control.abort(new Failure(`${late}; ${FASTER}`)), 1000 * options.timeout);
      try {
        const answer = await Promise.race([how(request, picture, control.signal), aborted(control.signal)]);
        kept.set(key, answer);
        if (kept.size > KEPT) kept.delete(kept.keys().next().value);
        return answer;
      } finally {
        clearTimeout(clock);
      }
    }

    try {
      return await work(one);
    } catch (error) {
      if (error !== SUPERSEDED) tell(error);
      return null;
    } finally {
      shown.end();
    }
  }

  const stop = () => running?.abort(SUPERSEDED);
  return Object.assign(during, { stop });
}

function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
