"""All hostile requests, by number: the same seed and number always give the same request."""

import random
from collections.abc import Callable
from dataclasses import replace

from benchmarks.reliability.fuzz import bodies
from benchmarks.reliability.fuzz.bombs import bomb
from benchmarks.reliability.fuzz.corpus import OCTETS
from benchmarks.reliability.fuzz.pictures import bent_picture, sound_picture
from benchmarks.reliability.fuzz.wire import Hostile, Pair, typed

_NO_MAPS: Pair = (b"X-Explain-Maps", b"none")
_LAYER: Pair = (b"X-Explain-Size", b"layer")


def request(seed: int, number: int) -> Hostile:
    """The request of that number."""
    draw = random.Random(f"{seed}:{number}")
    return draw.choices(list(_KINDS), list(_KINDS.values()))[0](draw)


def _upload(kind: str, body: bytes, content_type: bytes, option: Pair = _NO_MAPS) -> Hostile:
    return Hostile(kind=kind, body=body, headers=[typed(content_type), option])


def _picture(draw: random.Random) -> Hostile:
    how, data = bent_picture(draw)
    return _upload(f"picture/{how}", data, b"image/jpeg", _NO_MAPS if draw.random() < 0.9 else _LAYER)


def _bomb(draw: random.Random) -> Hostile:
    how, data = bomb(draw)
    return _upload(f"bomb/{how}", data, b"application/octet-stream")


def _form(draw: random.Random) -> Hostile:
    """What curl --data-binary sends, and true forms."""
    names = draw.sample(bodies.NAMES, 3)
    odd = b"&".join(b"%s=%s" % (name.encode(), draw.randbytes(4).hex().encode()) for name in names)
    body = draw.choice((sound_picture(draw), odd, b"data=%FF%D8&maps=none", b"=&=&&", b"data=" + b"a" * 5000))
    return Hostile(kind="urlencoded", body=body, headers=[typed(b"application/x-www-form-urlencoded")])


def _headers(draw: random.Random) -> Hostile:
    """Options, Accept and what TorchServe itself puts among the headers, with odd names and values."""
    headers = [typed(draw.choice((b"image/jpeg", b"application/octet-stream"))), _NO_MAPS]
    for _ in range(draw.choice((1, 2, 5))):
        odd = bodies.as_bytes(bodies.odd_value(draw))[: draw.choice((40, 3000))]
        value = draw.choice((odd, draw.randbytes(9), b"\xff\xfe", b"a" * 7000, b"top", b""))
        option = b"X-Explain-" + draw.choice(bodies.NAMES).encode()
        name = draw.choice((option, b"x-EXPLAIN-no", b"X-Explain-", b"X-\xe9", b"describe"))
        other, accept = draw.choice(OCTETS["other_headers"]), draw.choice(OCTETS["accepts"])
        headers.append(draw.choice(((name, value), (name, value), (b"Accept", accept), (other, value))))
    if draw.random() < 0.7:  # else the request may end early, and the rest of it be taken for another
        headers = [(name, value.translate(None, b"\r\n\0")) for name, value in headers]
    upset = any(b"\n" in value or name in OCTETS["upsetting"] for name, value in headers)
    return Hostile(kind="headers", body=sound_picture(draw), headers=headers, framed=not upset)


def _path(draw: random.Random) -> Hostile:
    method, start, body = draw.choice(OCTETS["methods"]), draw.choice(OCTETS["starts"]), sound_picture(draw)
    path, framed = start + draw.choice(OCTETS["tails"]), method.isalpha() and method.isascii()
    return Hostile(kind="path", body=body, headers=[_NO_MAPS], path=path, method=method, framed=framed)


def _cut(draw: random.Random) -> Hostile:
    """The connection ends before the body does."""
    whole = _upload("cut", sound_picture(draw), b"image/jpeg")
    return replace(whole, promised=len(whole.body) + draw.choice((1, 9000)), framed=False)


_KINDS: dict[Callable[[random.Random], Hostile], float] = {
    _picture: 40,
    _bomb: 4,
    lambda draw: _upload("wrong type", sound_picture(draw), draw.choice(OCTETS["types"])): 4,
    bodies.multipart_request: 16,
    _form: 1,
    bodies.json_request: 16,
    bodies.kserve_request: 10,
    _headers: 6,
    _path: 2,
    _cut: 1,
}
