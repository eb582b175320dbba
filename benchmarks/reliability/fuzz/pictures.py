"""Bends pictures: single bits, missing ends, exchanged segments, and the fields that parsers trust."""

import random
import re
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise

from benchmarks.reliability.fuzz.corpus import OCTETS, SEEDS

_NUMBERS = (0, 1, 2, 7, 16, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_MARKERS = bytes((0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xC9, 0xCA, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEE))


def bent_picture(draw: random.Random) -> tuple[str, bytes]:
    """A picture bent in one to three ways: how, and the file."""
    name = draw.choice(list(SEEDS))
    data = SEEDS[name]
    ways = [draw.choice(list(_WAYS)) for _ in range(draw.choice((1, 1, 1, 2, 3)))]
    for way in ways:
        data = _WAYS[way](draw, data)
    if data.startswith(b"\x89PNG") and draw.random() < 0.7:
        data = _with_sums(data)  # else nothing behind the checksum would ever be reached
    return f"{name.partition('-')[0]}/{'+'.join(sorted(set(ways)))}", data


def sound_picture(draw: random.Random) -> bytes:
    """Any of the seeds as it is."""
    return SEEDS[draw.choice(list(SEEDS))]


def _flip(draw: random.Random, data: bytes) -> bytes:
    changed, end = bytearray(data), draw.choice((64, 200, len(data)))
    for _ in range(draw.choice((1, 2, 8, 40))):
        if changed:
            changed[draw.randrange(min(end, len(changed)))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _append(draw: random.Random, data: bytes) -> bytes:
    return data + draw.choice((draw.randbytes(draw.randrange(2000)), data, sound_picture(draw)))


def patched(data: bytes, place: int, piece: bytes) -> bytes:
    """With other bytes at that place, and as long as before."""
    return data[:place] + piece + data[place + len(piece) :]


def _overwrite(draw: random.Random, data: bytes) -> bytes:
    """A number of two or four bytes, either way round, mostly where headers are."""
    form = draw.choice((">H", "<H", ">I", "<I"))
    number = draw.choice(_NUMBERS) & (0xFFFF if form.endswith("H") else 0xFFFFFFFF)
    place = draw.randrange(max(1, min(draw.choice((40, 120, len(data))), len(data))))
    return patched(data, place, struct.pack(form, number))


def _splice(draw: random.Random, data: bytes) -> bytes:
    """A word of some format's grammar, put in or over what was there."""
    word = draw.choice(OCTETS["formats"]) if draw.random() < 0.7 else bytes((0xFF, draw.choice(_MARKERS)))
    place = draw.randrange(len(data) + 1)
    return data[:place] + word + data[place + draw.choice((0, len(word))) :]


def _exchange(draw: random.Random, data: bytes) -> bytes:
    """Segments (chunks, markers) repeated, dropped or put elsewhere."""
    parts = _segments(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        if len(parts) < 2:
            break
        one, other = draw.randrange(len(parts)), draw.randrange(len(parts))
        action = draw.randrange(3)
        if action == 0:
            parts[one], parts[other] = parts[other], parts[one]
        elif action == 1:
            parts.insert(other, parts[one])
        else:
            del parts[one]
    return b"".join(parts)


def _cross(draw: random.Random, data: bytes) -> bytes:
    """The beginning of one file, the end of another."""
    other = sound_picture(draw)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other)) :]


def _stretch(draw: random.Random, data: bytes) -> bytes:
    """A stretch of the file, many times."""
    start = draw.randrange(max(1, len(data)))
    piece = data[start : start + draw.choice((1, 4, 12, 60))]
    return data[:start] + piece * draw.choice((2, 50, 1000)) + data[start:]


_WAYS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    way.__name__.removeprefix("_"): way
    for way in (_flip, _truncate, _append, _overwrite, _splice, _exchange, _cross, _stretch)
}
_STARTS = {b"\xff\xd8": rb"\xff[^\0\xff]", b"RI": rb"VP8[ LX]|ANIM|ANMF|ALPH|EXIF", b"GI": rb"\x21[\xf9\xfe\xff]|\x2c"}


def _segments(data: bytes) -> list[bytes]:
    """The file cut where segments begin, as far as they are found; together they are the file."""
    if data.startswith(b"\x89PNG"):
        starts = _png_starts(data)
    else:
        starts = [found.start() for found in re.finditer(_STARTS.get(data[:2], rb"(?s).{12}"), data)]
    return [data[one:other] for one, other in pairwise([0, *starts, len(data)])]


def _png_starts(data: bytes) -> list[int]:
    starts, place = [], 8
    while place + 12 <= len(data):
        starts.append(place)
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return starts


def _with_sums(data: bytes) -> bytes:
    """The PNG with the checksums that its bent chunks should have."""
    for start in _png_starts(data):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 <= len(data):
            data = patched(data, end, struct.pack(">I", zlib.crc32(data[start + 4 : end])))
    return data
