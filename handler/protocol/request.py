"""Reads the bytes and the options of a row's pictures.

A row has one of four forms: multipart or gRPC, with the picture in ``data``, ``body`` or ``image`` and the options in
further parts; the picture alone as the body, with the options in ``X-Explain-<Option>`` headers; JSON, with the picture
in base64; or a KServe envelope with several such pictures.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from handler.errors import BadRequest, locating
from handler.protocol.answer import FORMS, JSON
from handler.protocol.envelope import Envelope, Single
from handler.protocol.kserve import BINARY_REFUSED, open_kserve
from handler.protocol.options import Options, parse_options
from handler.protocol.receipt import ImageHash, hash_image
from handler.protocol.row import Row

IMAGE_FIELDS = ("data", "body", "image")
_FORMS = (
    "post the picture with curl -F data=@cat.jpg, with curl -T cat.jpg, "
    'or as JSON {"image": "<base64>", "target": "tabby"}'
)


@dataclass(frozen=True)
class Asked:
    """One picture and its options, not yet checked against the model."""

    image: bytes  # the encoded picture
    options: Options
    place: str = ""  # the picture's place in the request, for messages; empty for a single picture

    @cached_property
    def image_hash(self) -> ImageHash:
        """The hash and the size of the upload."""
        return hash_image(self.image)


@dataclass(frozen=True)
class Request:
    """The content of one row."""

    asked: Sequence[Asked]  # at least one picture
    accept: str  # the answer's content type, out of FORMS
    envelope: Envelope  # the form of the request and of its answer


def parse_row(row: Row, defaults: Options) -> Request:
    """Reads one row; the defaults are the values of the options that the row does not give.

    Raises:
        BadRequest: the row has no picture, bad base64, malformed JSON, an unknown option or a bad value.
    """
    envelope = _open(row)
    accept = accepted(row.accept)
    if accept != JSON and not isinstance(envelope, Single):
        raise BadRequest(f"{accept} is the form of one picture's answer, valid is Accept: {JSON}")
    asked = []
    for part in envelope.parts:
        with locating(part.place):
            fields = dict(part.fields)
            image = _take_image(fields)
            asked.append(Asked(image, parse_options({**row.options, **fields}, defaults), part.place))
    return Request(asked, accept, envelope)


def _open(row: Row) -> Envelope:
    """The envelope with the fields of the row's pictures."""
    if set(row.fields) != {"body"}:
        return Single(dict(row.fields))
    body = row.fields["body"]  # which a front may have parsed already
    if isinstance(body, (bytes, bytearray)) and (
        "json" in row.content_type.lower() or bytes(body[:64]).lstrip().startswith(b"{")
    ):
        if row.json_size is not None:
            raise BadRequest(BINARY_REFUSED)
        try:
            body = json.loads(bytes(body))
        except RecursionError as error:
            raise BadRequest("malformed JSON: nested too deeply") from error
        except ValueError as error:  # also bytes that are not UTF-8
            raise BadRequest(f"malformed JSON: {str(error)[:200]}") from error
    if isinstance(body, str):  # text/* is no picture; the refusal names the first bytes
        body = body.encode("utf-8", "replace")
    if isinstance(body, (bytes, bytearray)):
        return Single({"body": body})
    if not isinstance(body, dict):
        raise BadRequest(f"a JSON request must be an object with the picture in base64 under image; {_FORMS}")
    return open_kserve(body, row.explains) or Single(body)


def _take_image(fields: dict[str, Any]) -> bytes:
    """Takes the picture out of the fields, which leaves the options."""
    present = [name for name in IMAGE_FIELDS if name in fields]
    if len(present) != 1:
        found = f"the fields {', '.join(present)} all hold a picture" if present else "there is none"
        raise BadRequest(f"one picture is needed under one of {', '.join(IMAGE_FIELDS)}, but {found}; {_FORMS}")
    value = fields.pop(present[0])
    if isinstance(value, dict) and set(value) == {"b64"}:
        value = value["b64"]
    if isinstance(value, str):
        value = _from_base64(value)
    if not isinstance(value, (bytes, bytearray)):
        raise BadRequest(f"{present[0]} must hold a picture or its base64 text; {_FORMS}")
    if not value:
        raise BadRequest(f"the picture is empty; {_FORMS}")
    return bytes(value)


def _from_base64(text: str) -> bytes:
    prefix, comma, rest = text.partition(",")
    encoded = rest if comma and prefix.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"the picture is text and not valid base64 ({error}); valid is the base64 of a picture file"
        ) from error


def accepted(header: str) -> str:
    """The answer's content type by an ``Accept`` header: the type out of ``FORMS`` that the client prefers, else JSON.

    The type of the higher quality is preferred; at equal quality a type that is named goes before a type that a ``*``
    covers.
    """
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
