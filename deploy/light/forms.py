"""The parts of a request's form, and the only file that knows python-multipart."""

from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

from deploy.light.limits import MOST_BYTES, MOST_FIELDS
from handler.errors import BadRequest
from handler.protocol.request import named_once

_TOO_MANY = f"the form has too many fields, valid are at most {MOST_FIELDS}"


def read_fields(content_type: str, body: bytes) -> dict[str, Any]:
    """The parts of a form by name, or the body alone; BadRequest says why a form cannot be read."""
    media, parameters = parse_options_header(content_type)
    if media == b"application/x-www-form-urlencoded":
        try:
            text = body.decode("latin-1")
            pairs = parse_qsl(text, keep_blank_values=True, encoding="latin-1", max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise BadRequest(_TOO_MANY) from error
        return named_once((name, value.encode("latin-1")) for name, value in pairs)
    if media != b"multipart/form-data":
        return {"body": body}
    parts: list[tuple[str, bytes]] = []

    def add(part: Any) -> None:
        if len(parts) == MOST_FIELDS:
            raise BadRequest(_TOO_MANY)
        if file := getattr(part, "file_object", None):
            file.seek(0)
        parts.append(((part.field_name or b"").decode("utf-8", "replace"), file.read() if file else part.value or b""))

    try:
        how = {"MAX_MEMORY_FILE_SIZE": MOST_BYTES, "UPLOAD_ERROR_ON_BAD_CTE": True}
        parser = FormParser("multipart/form-data", add, add, boundary=parameters.get(b"boundary"), config=how)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"the form cannot be read ({error}), valid is multipart/form-data") from error
    return named_once(parts)
