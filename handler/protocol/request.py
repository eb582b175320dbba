"""Reads the bytes and the options of a row's pictures.

A row is multipart or gRPC, with the picture in ``data``, ``body`` or ``image`` and the options in further parts; or the
picture alone, with the options in ``X-Explain-<Option>`` headers; or JSON, also as text; or a KServe envelope. Wherever
bytes are valid, a picture may be base64 text or a data URI, and packed with gzip. A repeated option or JSON key is
refused where it can be seen: TorchServe keeps the last of equal parts, headers and keys of JSON that it parses.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handler.errors import BadRequest, TooLarge, locating
from handler.protocol.answer import FORMS, HTML, JSON
from handler.protocol.envelope import Envelope, single
from handler.protocol.kserve import JSON_SIZE, open_kserve
from handler.protocol.options import ENCODINGS, TENSOR, Options, parse_options, shown
from handler.protocol.receipt import ImageHash, hash_image
from handler.protocol.row import Row

IMAGE_FIELDS = ("data", "body", "image")
MOST_UNPACKED = 10_485_760  # bytes of a body that came packed; as many as config.properties allows unpacked
_GZIP = b"\x1f\x8b"
_FORMS = 'post it with curl -F data=@cat.jpg, with curl -T cat.jpg, or as JSON {"image": "<base64>", "target": "tabby"}'


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One picture and its options, not yet checked against the model."""

    image: bytes  # the encoded picture
    image_hash: ImageHash
    options: Options
    place: str  # the picture's place in the request, for messages; empty for a single picture


@dataclass(frozen=True)
class Request:
    """The content of one row."""

    asked: Sequence[Asked]  # at least one picture
    accept: str  # the answer's content type, out of FORMS
    envelope: Envelope  # the form of the request and of its answer


def parse_row(row: Row, defaults: Options) -> Request:
    """Reads one row, with defaults for the options that it does not give; BadRequest says what is not valid in it."""
    envelope = _open(row)
    headers = _by_name(row.options)
    accept = accepted(row.accept)
    if accept == HTML and "" not in envelope.parts:  # Java's HttpURLConnection asks for HTML unless told otherwise
        accept = JSON
    if accept != JSON and "" not in envelope.parts:
        raise BadRequest(f"{accept} is the form of one picture's answer, valid is Accept: {JSON}")
    asked = []
    for place, fields in envelope.parts.items():
        with locating(place):
            given, names = dict(fields), _by_name(fields)
            image = _take_image(given)
            others = {name: value for name, value in headers.items() if name not in names}
            options = parse_options(others | given, defaults)
            if options.encoding == TENSOR and not (envelope.has_tensors and accept == JSON):
                valid = ", ".join(ENCODINGS[:-1])
                raise BadRequest(f"encoding tensor is that of V2's answers, valid elsewhere are {valid}")
            asked.append(Asked(image=image, image_hash=hash_image(image), options=options, place=place))
    return Request(asked, accept, envelope)


def options_of(row: Row) -> tuple[Any, ...]:
    """What a row asks for beside its picture, to compare it with other rows; options in JSON are not told apart."""
    fields = {name: value for name, value in row.fields.items() if name not in IMAGE_FIELDS}
    return row.explains, row.accept, fields, row.options


def _open(row: Row) -> Envelope:
    """The envelope with the fields of the row's pictures."""
    packed = row.encoding.strip().lower()
    if packed not in ("", "identity", "gzip") or (packed == "gzip" and not row.fields):
        valid = "valid is gzip, and not of a form"
        raise BadRequest(f"Content-Encoding {shown(packed)} of this body cannot be read, {valid}")
    fields = {name: gunzipped(value) if name in IMAGE_FIELDS else value for name, value in row.fields.items()}
    if set(fields) != {"body"}:
        if "x-www-form-urlencoded" in row.content_type.lower():  # there a plus is a blank, unless it was escaped
            fields |= {name: fields[name].replace(b" ", b"+") for name in IMAGE_FIELDS if _is_text(fields.get(name))}
        return single(fields)
    body, binary = fields["body"], None  # which a front may have parsed already
    if isinstance(body, str):
        body = body.encode("utf-8", "replace")
    is_json = row.json_size is not None or "json" in row.content_type.lower()
    if isinstance(body, bytes) and (is_json or body[:64].lstrip().startswith(b"{")):
        body, binary = _divided(body, row.json_size)
        body = _parsed(body)
    if isinstance(body, bytes):
        return single({"body": body})
    if not isinstance(body, dict):
        raise BadRequest(f"a JSON request must be an object with the picture in base64 under image; {_FORMS}")
    if binary and "inputs" not in body:
        raise BadRequest(f"bytes behind the JSON, by {JSON_SIZE}, are tensors; valid are those of V2's inputs")
    return open_kserve(body, row.explains, binary) or single(body)


def gunzipped(value: Any) -> Any:
    """A part's value; bytes that were packed with gzip, unpacked as far as they may be."""
    if not isinstance(value, (bytes, bytearray)) or not value.startswith(_GZIP):
        return bytes(value) if isinstance(value, bytearray) else value
    stream = zlib.decompressobj(wbits=31)
    try:
        unpacked = stream.decompress(value, MOST_UNPACKED + 1)
    except zlib.error as error:
        raise BadRequest("the gzip body is corrupt and cannot be unpacked") from error
    if len(unpacked) > MOST_UNPACKED:
        raise TooLarge(f"the gzip body unpacks to more than {MOST_UNPACKED} bytes, valid are at most as many")
    if not stream.eof or stream.unused_data:
        raise BadRequest("the gzip body is truncated or has further parts and cannot be unpacked")
    return unpacked


def _divided(body: bytes, json_size: str | None) -> tuple[bytes, bytes | None]:
    """The JSON of a body, and the binary tensors behind it, if a header says where they begin."""
    if json_size is None:
        return body, None
    known = json_size.isascii() and json_size.isdigit() and len(json_size) < 10
    if not known or int(json_size) > len(body):
        raise BadRequest(f"{JSON_SIZE} is {shown(json_size)}, valid are 0 to {len(body)}, the bytes of the body")
    return body[: int(json_size)], body[int(json_size) :]


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body, object_pairs_hook=named_once)
    except RecursionError as error:
        raise BadRequest("malformed JSON: nested too deeply") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise BadRequest(f"malformed JSON: {str(error)[:200]}") from error


def _by_name(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options in one spelling; refuses an option that is there in two, as Target and target."""
    return named_once((name.lower().replace("-", "_"), value) for name, value in given.items())


def named_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dictionary; BadRequest says that a name is there twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"{shown(name)} is there twice, valid is once")
        found[name] = value
    return found


def _take_image(fields: dict[str, Any]) -> bytes:
    """Takes the picture out of the fields, which leaves the options."""
    present = [name for name in IMAGE_FIELDS if name in fields]
    if len(present) != 1:
        found = f"the fields {', '.join(present)} all hold a picture" if present else "there is none"
        raise BadRequest(f"one picture is needed under one of {', '.join(IMAGE_FIELDS)}, but {found}; {_FORMS}")
    value = fields.pop(present[0])
    if isinstance(value, dict) and set(value) == {"b64"}:
        value = value["b64"]
    if isinstance(value, str) or _is_text(value):
        value = _from_base64(value)
    if not isinstance(value, bytes):
        raise BadRequest(f"{present[0]} must hold a picture or its base64 text; {_FORMS}")
    if not value:
        raise BadRequest(f"the picture is empty; {_FORMS}")
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, bytes) and value.isascii()  # no picture is


def _from_base64(value: str | bytes) -> bytes:
    """The picture in base64 or a data URI; a body that is neither is refused later, by its first bytes."""
    text = value.decode() if isinstance(value, bytes) else value
    prefix, comma, rest = text.partition(",")
    encoded = rest if comma and prefix.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError as error:
        if isinstance(value, bytes) and not text.startswith("data:"):
            return value
        valid = "valid is the base64 of a picture file"
        raise BadRequest(f"the picture is text and not valid base64 ({error}); {valid}") from error


def accepted(header: str) -> str:
    """The type out of ``FORMS`` that an ``Accept`` header prefers, by quality, then a name before ``*``; else JSON."""
    forms = dict.fromkeys(FORMS, (0.0, 0))  # quality, how specific
    for item in (header or "*/*").lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        for form in forms:
            specific = {form: 2, form.partition("/")[0] + "/*": 1, "*/*": 0}.get(media)
            if specific is not None and (media != "*/*" or form == JSON):
                forms[form] = max(forms[form], (_quality(parameters), specific))
    return max(FORMS, key=lambda form: forms[form] if forms[form][0] > 0 else (0.0, 0))  # JSON, if none goes before


def _quality(parameters: list[str]) -> float:
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return float(given)
    except ValueError:
        return 0.0
