// What went wrong, in a sentence for the visitor.

/** An error whose message is a sentence for the visitor; `status` is that of HTTP, 0 without an answer. */
export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** A sentence: with a capital letter and a full stop. */
export function sentence(text) {
  const trimmed = String(text).trim();
  return trimmed.charAt(0).toUpperCase() + trimmed.slice(1) + (/[.!?…]$/.test(trimmed) ? "" : ".");
}
