"""Frames that are larger than the header of their file says."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from handler.errors import BadRequest, TooLarge
from handler.picture.bombs import check_frames
from handler.picture.decode import decode

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
UNUSUAL = "does not tell the size of its frames as encoders do"


def avif(image=NOISE, **options):
    file = io.BytesIO()
    image.save(file, "AVIF", **options)
    return file.getvalue()


def box(kind, *content):
    content = b"".join(content)
    return struct.pack(">I", 8 + len(content)) + kind + content


def unit(kind, content=b"", extended=b""):
    """A unit of AV1 data, with its size in front; ``extended`` is a second byte of its header."""
    return bytes([kind << 3 | 2 | (4 if extended else 0)]) + extended + bytes([len(content)]) + content


def bits(*parts):
    """Bytes of (value, number of bits)."""
    text = "".join(f"{value:0{count}b}" for value, count in parts)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def size_of(width, height):
    return (15, 4), (15, 4), (width - 1, 16), (height - 1, 16)


STILL = bits((0, 3), (1, 1), (1, 1), (8, 5), *size_of(4000, 3000))  # the header of a still picture
TINY = bits((0, 3), (1, 1), (1, 1), (8, 5), *size_of(10, 10))
POINT, HIGH_POINT = (
    bits((0, 5), (0, 1), (0, 1), (0, 5), *point, *size_of(4000, 3000))
    for point in ((((0, 12), (5, 5))), ((0, 12), (9, 5), (1, 1)))
)
POINTS = bits((0, 5), (0, 1), (0, 1), (1, 5), *(((0, 12), (5, 5)) * 2), *size_of(4000, 3000))
DELAYS = bits((0, 5), (0, 1), (1, 1), (0, 5), (0, 12), (5, 5), (0, 1), *size_of(4000, 3000))


def item(data, version=0, method=0, parts=1):
    """A file with one item, whose bytes lie in so many parts behind the box that says where."""
    place, size = {0: "H", 1: "HHH", 2: "IHH"}[version], -(-len(data) // parts)

    def written(start):
        named = (1, 0) if version == 0 else (1, method, 0)
        spread = [(start + at, len(data[at : at + size])) for at in range(0, len(data), size)]
        count = struct.pack(">I" if version == 2 else ">H", 1)
        of_item = struct.pack(f">{place[0]}{'H' * (len(named) - 1)}H", *named, len(spread))
        return box(
            b"iloc", bytes([version, 0, 0, 0, 0x44, 0]), count, of_item, *(struct.pack(">II", *one) for one in spread)
        )

    if method == 1:
        return written(0) + box(b"idat", data)
    return written(len(written(0)) + 8) + box(b"mdat", data)


def track(data, kind=b"stco"):
    size = 4 if kind == b"stco" else 8
    return box(kind, bytes(4), struct.pack(">I", 1), (16 + size).to_bytes(size, "big")) + data


FILES = {
    "an item": item(unit(1, STILL)),
    "behind other units": item(unit(2) + unit(5, b"abc") + unit(1, STILL)),
    "an extended header": item(unit(1, STILL, b"\0")),
    "one operating point": item(unit(1, POINT)),
    "one operating point of a high level": item(unit(1, HIGH_POINT)),
    "version 1": item(unit(1, STILL), version=1),
    "version 2": item(unit(1, STILL), version=2),
    "inside the box of data": item(unit(1, STILL), version=1, method=1),
    "a track": track(unit(1, STILL)),
    "a track far behind": track(unit(1, STILL), b"co64"),
    "a second header": item(unit(1, TINY) + unit(1, STILL)),
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_counted_wherever_they_lie(name):
    check_frames(FILES[name], 12_000_000)
    with pytest.raises(TooLarge, match="frames of 4000x3000 pixels, valid are at most 11999999"):
        check_frames(FILES[name], 11_999_999)


@pytest.mark.parametrize(
    "options",
    [{}, {"subsampling": "4:4:4"}, {"save_all": True, "append_images": [NOISE]}],
    ids=["still", "4:4:4", "two frames"],
)
def test_a_header_that_understates_the_frames_is_refused_before_they_are_decoded(options, no_decoding):
    real, said = (struct.pack(">II", *size) for size in ((64, 48), (8, 8)))
    data = avif(**options)
    assert real in data
    with pytest.raises(TooLarge, match="frames of 64x48 pixels"):
        decode(data.replace(real, said), 1000)


UNITS = unit(2) * 2000
HOSTILE = {
    "many boxes": box(b"iloc", bytes(8)) * 2000,
    "many items": box(b"iloc", bytes([2, 0, 0, 0, 0x44, 0]), b"\xff" * 4),
    "many parts": box(b"iloc", bytes([0, 0, 0, 0, 0x44, 0]), struct.pack(">HHHH", 1, 1, 0, 60000)),
    "many units": item(UNITS + unit(1, STILL)),
    "a second header behind many units": item(unit(1, TINY) + UNITS + unit(1, STILL)),
    "many tracks": b"stco" * 20_000,
    "in several parts": item(unit(1, STILL), parts=4),
    "several operating points": item(unit(1, POINTS)),
    "delays": item(unit(1, DELAYS)),
    "times": item(unit(1, bits((0, 3), (1, 1), (0, 1), (1, 1)))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_no_encoder_writes_is_refused_at_once(name):
    with pytest.raises(BadRequest, match=UNUSUAL):
        check_frames(HOSTILE[name] + bytes(1_000_000), 50_000_000)


def test_sizes_without_an_end_take_no_time_and_no_memory():
    check_frames(item(b"\x12" + b"\x80" * 5_000_000), 1)


def test_items_that_overlap_take_no_time_and_no_memory():
    whole = struct.pack(">HHH", 1, 0, 1) * 999
    check_frames(box(b"iloc", bytes(6), struct.pack(">H", 999), whole) + bytes(5_000_000), 1)


def test_data_that_are_no_frames_are_passed_over():
    for data in (b"\0\0\0\0MM\0*", b"<?xpacket", bytes([0, 0, 1, 1, 4, 4])):
        check_frames(item(data), 1)
