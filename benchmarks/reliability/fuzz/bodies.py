"""Bends the bodies around a picture: multipart, JSON, and KServe's V1 and V2."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any

from benchmarks.reliability.fuzz.corpus import GOOD, OCTETS, TEXTS
from benchmarks.reliability.fuzz.pictures import bent_picture, sound_picture
from benchmarks.reliability.fuzz.wire import Hostile, typed

NAMES = list(GOOD)
_NUMBERS = (0, -1, 10, 10**9, -(10**30), 0.5, True, False, None, 2**63, 10**400)
_DEPTHS = (3, 50, *range(900, 1010, 3), 5000)


def json_request(draw: random.Random) -> Hostile:
    """A good or a bent value for some of the options, bent once more as text."""
    content_type = draw.choice(OCTETS["json_types"])
    fields: dict[str, Any] = {draw.choice(("image", "data", "body")): _picture_value(draw), "maps": "none"}
    for name in draw.sample(NAMES, draw.choice((0, 1, 2, 8))):
        fields[name] = draw.choice(GOOD[name]) if draw.random() < 0.4 else odd_value(draw)
    if draw.random() < 0.2:
        fields[draw.choice(TEXTS["odd"])] = odd_value(draw)
    return Hostile(kind="json", body=_bent_json(draw, fields), headers=[typed(content_type)] if content_type else [])


def kserve_request(draw: random.Random) -> Hostile:
    """V1 or V2."""
    protocols = ((b"1", (b":predict", b":explain"), _first), (b"2", (b"/infer", b"/explain"), _second))
    version, ends, body = protocols[draw.random() >= 0.5]
    path = b"/v%s/models/{model}%s" % (version, draw.choice(ends))
    return Hostile(kind="kserve", body=_bent_json(draw, body(draw)), headers=[typed(b"application/json")], path=path)


def _first(draw: random.Random) -> Any:
    one = {"image": _picture_value(draw), "maps": "none", draw.choice(NAMES): odd_value(draw)}
    sound = {"image": base64.b64encode(sound_picture(draw)).decode(), "maps": "none"}
    odd: tuple[Any, ...] = ([], [[]], [None], "x", {}, [{"b64": "eA=="}])
    instances = draw.choice(([sound], [one], [one, sound], [sound] * 40, *odd))
    return draw.choice(({"instances": instances}, {"instances": instances, "inputs": []}, {"instance": instances}))


def _second(draw: random.Random) -> Any:
    tensor: dict[str, Any] = {
        "name": draw.choice(("image", "data", "x", "", 3)),
        "shape": draw.choice(([1], [2], [1, 1], [], [-1], [0], [10**30], ["1"], None, 1)),
        "datatype": draw.choice(("BYTES", "BYTES", "UINT8", "FP32", "bytes", None, 7)),
        "data": draw.choice(([_picture_value(draw)], _picture_value(draw), [], [[_picture_value(draw)]], [1, 2], None)),
        "parameters": draw.choice(({}, None, {"content_type": "base64"}, {"binary_data_size": 5}, odd_value(draw))),
    }
    if draw.random() < 0.3:
        tensor.pop(draw.choice(list(tensor)))
    body: dict[str, Any] = {"id": draw.choice(("1", None, 5, "\r\nX: y")), "inputs": [tensor]}
    body["parameters"] = draw.choice(({"maps": "none"}, {draw.choice(NAMES): odd_value(draw)}, [], "x", None))
    body["inputs"] = draw.choice(([tensor], [tensor, tensor], [], tensor, None, [None], [[tensor]], [tensor] * 30))
    return body


def multipart_request(draw: random.Random) -> Hostile:
    """A picture and options, good or bent, in a form that may be bent itself."""
    boundary = draw.choice(OCTETS["boundaries"])
    parts = [(_part_name(draw, b"data"), _picture(draw)), (b'name="maps"', b"none")]
    for _ in range(draw.choice((0, 1, 2, 5))):
        name = draw.choice((*NAMES, "Accept", "X-Cmd", "explain", "url_path", "describe", "content-type", "data", "é☃"))
        parts.append((_part_name(draw, name.encode()), as_bytes(odd_value(draw))[:5000]))
    if draw.random() < 0.03:
        parts += [(b'name="p%d"' % number, b"x") for number in range(3000)]
    body = b"".join(_part(draw, boundary, *one) for one in parts) + b"--" + boundary + b"--\r\n"
    sent = draw.choice((boundary, boundary, boundary, boundary, b'"' + boundary + b'"', b"other", b"", boundary[:-1]))
    content_type = b"multipart/form-data; boundary=" + sent
    if draw.random() < 0.1:
        odd = (b"multipart/form-data", b"multipart/mixed; boundary=B", b"multipart/form-data;boundary")
        content_type = draw.choice(odd)
    return Hostile(kind="multipart", body=_bent_bytes(draw, body), headers=[typed(content_type)])


def _part_name(draw: random.Random, name: bytes) -> bytes:
    if draw.random() < 0.85:
        return b'name="' + name + b'"' + draw.choice((b"", b'; filename="a.jpg"'))
    odd = (*OCTETS["part_names"], b'name="' + bytes(draw.choices(range(32, 256), k=9)) + b'"')
    return draw.choice(odd).replace(b"{name}", name)


def _part(draw: random.Random, boundary: bytes, name: bytes, content: bytes) -> bytes:
    head = b"Content-Disposition: form-data; " + name + b"\r\n"
    if draw.random() < 0.3:
        head += b"Content-Type: " + draw.choice(OCTETS["part_types"]) + b"\r\n"
    if draw.random() < 0.1:
        head += b"Content-Transfer-Encoding: " + draw.choice((b"base64", b"binary", b"8bit", b"no")) + b"\r\n"
    if draw.random() < 0.05:
        odd = (b"", b"Content-Disposition: attachment\r\n", b"X: " + b"y" * 9000 + b"\r\n", head.replace(b"\r", b""))
        head = draw.choice(odd)
    return b"--" + boundary + b"\r\n" + head + b"\r\n" + content + b"\r\n"


def _picture(draw: random.Random) -> bytes:
    return sound_picture(draw) if draw.random() < 0.5 else bent_picture(draw)[1]


def _picture_value(draw: random.Random) -> Any:
    text = base64.b64encode(_picture(draw)).decode()
    bent: tuple[Callable[[], Any], ...] = (
        lambda: {"b64": text},
        lambda: "data:image/png;base64," + text,
        lambda: text[: draw.randrange(len(text) + 1)],
        lambda: text.replace("A", draw.choice(("_", "-", "é", "\ud800", "\n", "=", "\0"))),
        lambda: {"b64": odd_value(draw)},
        lambda: odd_value(draw),
    )
    return text if draw.random() < 0.5 else draw.choice(bent)()


def odd_value(draw: random.Random) -> Any:
    """Any JSON value, mostly of a wrong type; ``_Raw`` where Python's own writer would refuse."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: draw.choice(TEXTS["odd"]),
        lambda: draw.choice(_NUMBERS),
        lambda: _Raw(draw.choice(TEXTS["raw_json"])),
        lambda: _nested(draw, draw.choice(_DEPTHS)),
        lambda: [odd_value(draw) for _ in range(draw.randrange(4))],
        lambda: {draw.choice(TEXTS["odd"]): odd_value(draw) for _ in range(draw.randrange(3))},
        lambda: [draw.choice((0, "a", None, []))] * draw.choice((11, 5000)),
        lambda: "".join(
            chr(draw.choice((draw.randrange(128), draw.randrange(0x300), 0xD800, 0x1F600))) for _ in range(9)
        ),
    )
    return draw.choice(kinds)()


def as_bytes(value: Any) -> bytes:
    """The text of an odd value as a client that does not look at it would send it."""
    return str(value).encode("utf-8", "surrogatepass")


def _nested(draw: random.Random, depth: int) -> "_Raw":
    return _Raw(draw.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth)))


class _Raw(str):
    """JSON text that stands for itself."""


def _dump(value: Any) -> str:
    """JSON with the raw pieces as they are."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return value if isinstance(value, _Raw) else json.dumps(value)


def _bent_json(draw: random.Random, value: Any) -> bytes:
    text = _dump(value).encode()
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: text.replace(b"{", b'{"maps": "none", "target": 1, ', 1),  # keys that are there twice
        lambda: text.decode().encode(draw.choice(("utf-16", "utf-8-sig", "utf-32", "utf-16-le"))),
        lambda: _bent_bytes(draw, text),
        lambda: text + draw.choice((b"{}", b"\0", b"]", b" " * 5000)),
        lambda: draw.choice(OCTETS["no_objects"]),
    )
    return text if draw.random() < 0.6 else draw.choice(ways)()


def _bent_bytes(draw: random.Random, data: bytes) -> bytes:
    if draw.random() < 0.6:
        return data
    changed = bytearray(data)
    for _ in range(draw.choice((1, 3))):
        place = draw.randrange(max(1, len(changed)))
        piece = draw.choice((b"", b"\xff", b"\r\n", b"\0", b'"', b"--", b"\xed\xa0\x80", draw.randbytes(5)))
        changed[place : place + draw.choice((0, 1, 4, 200))] = piece
    return bytes(changed)
