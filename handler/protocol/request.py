"""From one TorchServe row to its pictures' bytes and their options.

These forms are understood: multipart, or gRPC, with the picture in ``data``, ``body`` or ``image`` and the options as
further parts; the picture alone as the body, with the options as ``X-Explain-<Option>`` headers; JSON with the picture
in base64; and KServe's envelopes around several such pictures.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from handler.errors import BadRequest, locating
from handler.protocol.answer import JSON, PNG
from handler.protocol.envelope import Envelope, Single
from handler.protocol.kserve import BINARY_HEADER, open_kserve, refuse_binary
from handler.protocol.options import Options, parse_options
from handler.protocol.receipt import Receipt

IMAGE_FIELDS = ("data", "body", "image")
_HEADER_PREFIX = "x-explain-"
_FORMS = (
    "post the picture with curl -F data=@cat.jpg, with curl -T cat.jpg, "
    'or as JSON {"image": "<base64>", "target": "tabby"}'
)


@dataclass(frozen=True)
class Asked:
    """One picture and what is asked about it, parsed but not yet checked against the model."""

    image: bytes  # the encoded picture
    options: Options
    place: str = ""  # in the request, for messages; empty where it is the only one

    @cached_property
    def receipt(self) -> Receipt:
        """Tells this upload from others."""
        return Receipt.of(self.image)


@dataclass(frozen=True)
class Request:
    """One row."""

    asked: Sequence[Asked]  # at least one
    accept: str  # "application/json" or "image/png"
    envelope: Envelope  # that the pictures came in and that their answers go into


@dataclass(frozen=True)
class Headers:
    """A row's headers, looked up without regard to case.

    TorchServe mixes the multipart parts' own headers into the same mapping, as dictionaries under the part's name; only
    text counts here, so that a part named "Accept" changes nothing.
    """

    values: Mapping[str, Any]

    def get(self, name: str) -> str | None:
        """The value of a header, or None."""
        return next((v for k, v in self.values.items() if k.lower() == name and isinstance(v, str)), None)

    @property
    def explains(self) -> bool:
        """Whether the row was posted to an address for explanations: TorchServe says so, whatever a client sends."""
        return self.get("explain") == "True"

    def options(self) -> dict[str, str]:
        """The ``X-Explain-<Option>`` headers, by option name."""
        return {
            key.lower().removeprefix(_HEADER_PREFIX).replace("-", "_"): value
            for key, value in self.values.items()
            if key.lower().startswith(_HEADER_PREFIX) and isinstance(value, str)
        }


def parse_row(row: Mapping[str, Any], headers: Headers, defaults: Options) -> Request:
    """Reads one row of what TorchServe hands to a handler.

    Args:
        row: part name to bytes, text or parsed JSON.
        headers: of the same row.
        defaults: for the options that are not given.

    Raises:
        BadRequest: no picture, bad base64, malformed JSON, an unknown option or a bad value.
    """
    envelope = _open(row, headers)
    accept = accepted(headers.get("accept"))
    if accept == PNG and not isinstance(envelope, Single):
        raise BadRequest(f"image/png is the form of one picture's answer, valid is Accept: {JSON}")
    asked = []
    for part in envelope.parts:
        with locating(part.place):
            fields = dict(part.fields)
            image = _take_image(fields)
            asked.append(Asked(image, parse_options({**headers.options(), **fields}, defaults), part.place))
    return Request(asked, accept, envelope)


def body_size(row: Mapping[str, Any], headers: Headers) -> int:
    """Bytes of a request's body: what its header says, which TorchServe checked, or what the fields hold."""
    declared = headers.get("content-length") or ""
    if declared.isascii() and declared.isdigit() and len(declared) < 12:
        return int(declared)
    return sum(len(value) for value in row.values() if isinstance(value, (bytes, bytearray, str)))


def _open(row: Mapping[str, Any], headers: Headers) -> Envelope:
    """The fields of the row's pictures, whatever form they came in."""
    if set(row) != {"body"}:
        return Single(dict(row))
    body = _json_body(row["body"], headers)
    if isinstance(body, str):  # text/*: no picture, but its bytes shall be named
        body = body.encode("utf-8", "replace")
    if isinstance(body, (bytes, bytearray)):
        return Single({"body": body})
    if not isinstance(body, dict):
        raise BadRequest(f"a JSON request must be an object with the picture in base64 under image; {_FORMS}")
    return open_kserve(body, headers.explains) or Single(body)


def _json_body(body: Any, headers: Headers) -> Any:
    """TorchServe parses JSON itself, but hands over the bytes if it cannot, or if no header says that it is JSON."""
    if not isinstance(body, (bytes, bytearray)):
        return body
    declared = "json" in (headers.get("content-type") or "").lower()
    if not declared and not bytes(body[:64]).lstrip().startswith(b"{"):
        return body
    refuse_binary(headers.get(BINARY_HEADER))
    try:
        return json.loads(bytes(body))
    except RecursionError as error:
        raise BadRequest("malformed JSON: nested too deeply") from error
    except ValueError as error:  # also bytes that are not UTF-8
        raise BadRequest(f"malformed JSON: {str(error)[:200]}") from error


def _take_image(fields: dict[str, Any]) -> bytes:
    """Takes the picture out of the fields; what is left are options."""
    present = [name for name in IMAGE_FIELDS if name in fields]
    if len(present) != 1:
        found = f"the fields {', '.join(present)} all hold one" if present else "there is none"
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


def accepted(header: str | None) -> str:
    """The form of the answer for an ``Accept`` header: ``image/png`` if it is preferred to JSON, else JSON.

    The higher quality is preferred; at equal quality a form that is named goes before one that a ``*`` covers.
    """
    forms = {JSON: (0.0, 0), PNG: (0.0, 0)}  # quality, how specific
    for item in (header or "*/*").lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        for form in forms:
            specific = {form: 2, form.partition("/")[0] + "/*": 1, "*/*": 0}.get(media)
            if specific is not None and not (media == "*/*" and form == PNG):
                forms[form] = max(forms[form], (_quality(parameters), specific))
    return PNG if forms[PNG] > forms[JSON] and forms[PNG][0] > 0 else JSON


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
