"""Small files that promise much: pixels, scans, tags, text. All must be judged before they are unpacked."""

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import repeat

from PIL import Image

from benchmarks.reliability.fuzz.corpus import SEEDS
from benchmarks.reliability.fuzz.pictures import patched
from benchmarks.reliability.pictures import encoded

_SIDES = (7_000, 8_000, 16_383, 30_000, 46_341, 65_535)  # wider ones where the format has room for them


def bomb(draw: random.Random) -> tuple[str, bytes]:
    """Any of the bombs: its name, and the file."""
    name = draw.choices(list(_BOMBS), [weight for weight, _ in _BOMBS.values()])[0]
    return name, _BOMBS[name][1](draw)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """With its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_file(*header: int, packed: bytes) -> bytes:
    """Of width, height, bit depth, colour type, compression, filter and interlacing."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *header)), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*one) for one in chunks)


def _png(draw: random.Random) -> bytes:
    width, height = _two_of(draw, (*_SIDES, 10**6, 2**31 - 1))
    depth, colour = draw.choice(((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 6), (16, 6)))
    return _png_file(width, height, depth, colour, 0, 0, draw.randrange(2), packed=zlib.compress(bytes(5000)))


def _jpeg(draw: random.Random) -> bytes:
    data = SEEDS[draw.choice(("JPEG-plain", "JPEG-progressive", "JPEG-grey", "JPEG-CMYK"))]
    start = max(data.find(b"\xff\xc0\0"), data.find(b"\xff\xc2\0")) + 5
    return patched(data, start, struct.pack(">HH", *_two_of(draw, _SIDES[1:])))


def _gif(draw: random.Random) -> bytes:
    """The screen is large, or the frame on a small screen."""
    data, sides = SEEDS["GIF-plain"], struct.pack("<HH", *_two_of(draw, _SIDES))
    return patched(data, 6 if draw.random() < 0.5 else data.rfind(b"\x2c\0\0\0\0") + 5, sides)


def _webp(draw: random.Random) -> bytes:
    width, height = _two_of(draw, (8_000, 16_383, 16_384))
    if draw.random() < 0.5:
        body = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0"
        return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    canvas = (width * 900).to_bytes(3, "little") + (height * 900).to_bytes(3, "little")
    return patched(SEEDS["WEBP-animated"], 24, canvas)  # in the VP8X chunk


def _bmp(draw: random.Random) -> bytes:
    data = SEEDS[draw.choice(("BMP-plain", "BMP-palette", "BMP-1bit"))]
    sides = [draw.choice((*_SIDES, 2**31 - 1)) * draw.choice((1, 1, -1)) for _ in range(2)]
    return patched(data, 18, struct.pack("<ii", *sides))


def _tiff(draw: random.Random) -> bytes:
    sides = _two_of(draw, (*_SIDES, 2**31 - 1))
    return tiff_of_sides(*sides, tiled=draw.random() < 0.5, bits=draw.choice((8, 16)), packing=draw.choice((1, 8)))


def tiff_of_sides(width: int, height: int, *, tiled: bool, bits: int = 8, packing: int = 8) -> bytes:
    """A TIFF of these sides, or a small one whose tiles have them: a tile is unpacked whole."""
    sides = {256: 64, 257: 64, 322: width // 16 * 16, 323: height // 16 * 16} if tiled else {256: width, 257: height}
    data = zlib.compress(bytes(5000))
    where = {324: 8, 325: len(data)} if tiled else {273: 8, 279: len(data), 278: height}
    tags = {**sides, **where, 258: bits, 259: packing, 262: 1, 277: 1}
    return _tiff_file(data, [(tag, 4, 1, value) for tag, value in sorted(tags.items())])


def _tiff_file(data: bytes, entries: Sequence[tuple[int, int, int, int]]) -> bytes:
    """Of tag, type, count and value or place; the data begins at place 8."""
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + _tags(entries) + bytes(4)


def _tags(entries: Sequence[tuple[int, int, int, int]]) -> bytes:
    return struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries)


def tiff_of_tags(tags: int, size: int) -> bytes:
    """A TIFF whose tags all hold the same large stretch of the file."""
    entries = [(tag, 4, 1, value) for tag, value in {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8}.items()]
    return _tiff_file(bytes(size), entries + [(tag, 1, size, 8) for tag in range(40_000, 40_000 + tags)])


def jpeg_of_exif(tags: int, segments: int) -> bytes:
    """A JPEG whose EXIF runs over many segments and whose tags all hold the same large stretch of it."""
    data = SEEDS["JPEG-grey"]
    size = segments * 65_000 - 14 - 12 * tags
    entries = [(tag, 1, size, 14 + 12 * tags) for tag in range(40_000, 40_000 + tags)]
    exif = struct.pack("<2sHI", b"II", 42, 8) + _tags(entries) + bytes(4) + bytes(size)
    pieces = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
    packed = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(piece)) + piece for piece in pieces)
    return data[:2] + packed + data[20:]  # without the JFIF segment, whose resolution would do


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes for every pixel, is there many times."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    start = data.rfind(b"\xff\xc4")
    return data[:-2] + data[start:-2] * scans + b"\xff\xd9"


@cache
def real_png(width: int, height: int) -> bytes:
    """A sound PNG, 1 bit deep and black: its pixels really are in it, a thousandth of their size."""
    line = bytes(1 + (width + 7) // 8)
    return _png_file(width, height, 1, 0, 0, 0, 0, packed=_packed(line * 64, height // 64, line * (height % 64)))


def _text(draw: random.Random) -> bytes:
    """A PNG whose text or colour profile is a thousand times its size."""
    packed = _packed(bytes(10**6), 60)
    kind, start = draw.choice(((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")))
    data = SEEDS["PNG-plain"]
    return data[:33] + png_chunk(kind, start + packed) * draw.choice((1, 20)) + data[33:]


@cache
def _packed(piece: bytes, times: int, rest: bytes = b"") -> bytes:
    """Deflated without ever being whole in memory."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(one) for one in (*repeat(piece, times), rest)) + packer.flush()


def _two_of(draw: random.Random, sides: Sequence[int]) -> tuple[int, int]:
    return draw.choice(sides), draw.choice(sides)


_BOMBS: dict[str, tuple[float, Callable[[random.Random], bytes]]] = {
    "PNG": (10, _png),
    "JPEG": (10, _jpeg),
    "GIF": (10, _gif),
    "WEBP": (10, _webp),
    "BMP": (10, _bmp),
    "TIFF": (20, _tiff),
    "text": (3, _text),
    "tags": (1, lambda draw: tiff_of_tags(draw.choice((500, 20_000)), 900_000)),
    "exif": (1, lambda draw: jpeg_of_exif(2000, draw.choice((1, 20)))),
    "scans": (1, lambda draw: jpeg_of_scans(2000, draw.choice((10, 3000)))),
    "real": (1, lambda draw: real_png(*draw.choice(((40_000, 40_000), (3_000, 2_000), (65_535, 16))))),
    "large but valid": (0.2, lambda draw: real_png(7_000, 7_000)),
}
