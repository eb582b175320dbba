/** A mistake that a caller can mend. `code` and `type` are those of the server's answers; the message says what is valid. */
export class ExplainError extends Error {
  constructor(code, type, message, cause) {
    super(message, cause ? { cause } : undefined);
    this.name = "ExplainError";
    this.code = code;
    this.type = type;
  }
}

export const badRequest = (message, cause) => new ExplainError(400, "BadRequest", message, cause);
export const tooLarge = (message) => new ExplainError(413, "TooLarge", message);
export const notAnImage = (message, cause) => new ExplainError(415, "NotAnImage", message, cause);
export const unprocessable = (message) => new ExplainError(422, "Unprocessable", message);
export const notFinite = (message) => new ExplainError(422, "NotFinite", message);
/** The graph cannot be used: no mistake of a request, so its code is a server's own. */
export const modelError = (message, cause) => new ExplainError(500, "ModelError", message, cause);
