"""Finds the sizes of an AVIF file's frames, which may be far above the size that its header says.

A decoder decodes frames as large as AV1's sequence headers say, the later ones too, and scales a frame to the size that
the file's header says. Items (``iloc``) and the first chunk of each track (``stco``, ``co64``) are looked for in the
whole file. What has more parts than encoders write is refused: to read it would take longer than to decode a picture.
"""

import io
import re
from collections.abc import Iterator

from handler.errors import BadRequest, TooLarge

_MOST_BOXES, _MOST_ITEMS, _MOST_EXTENTS, _MOST_UNITS = 16, 1000, 8, 500
_SEQUENCE_HEADER, _HEADER_BYTES = 1, 128  # a kind of the units that AV1 data consist of; the longest header and more


def check_frames(data: bytes, max_pixels: int) -> None:
    """Raises TooLarge for frames of more than ``max_pixels``, BadRequest for a file that does not tell their size."""
    left = 4 * len(data)
    for item in _items(data):
        left -= len(item)
        _check(left >= 0)
        for width, height in _frames(item):
            if width * height > max_pixels:
                raise TooLarge(f"the AVIF has frames of {width}x{height} pixels, valid are at most {max_pixels}")


def _check(usual: bool) -> None:
    if not usual:
        raise BadRequest("the AVIF does not tell the size of its frames as encoders do, and cannot be decoded")


def _items(data: bytes) -> Iterator[bytes]:
    """Yields the stretches of the file that a decoder may read frames from."""
    file = io.BytesIO(data)

    def number(size: int) -> int:
        return int.from_bytes(file.read(size), "big")

    for count, box in enumerate(re.finditer(b"stco|co64|iloc", data)):
        _check(count < _MOST_BOXES)
        file.seek(box.end())
        if box[0] != b"iloc":
            number(8)
            yield data[number(4 if box[0] == b"stco" else 8) :]
            continue
        version, sizes = number(4) >> 24, number(2)
        of_id = 4 if version == 2 else 2
        items = number(of_id)
        _check(items <= _MOST_ITEMS)
        for _ in range(items):
            number(of_id)
            in_idat = version and number(2) & 15 == 1
            number(2)  # the file that the item is in
            start = number(sizes >> 4 & 15) + (data.find(b"idat") + 4 if in_idat else 0)
            extents, item = number(2), b""
            _check(extents <= _MOST_EXTENTS)
            for _ in range(extents):
                number(sizes & 15 if version else 0)
                place, size = start + number(sizes >> 12), number(sizes >> 8 & 15)
                item += data[place : place + size if size else None]
            yield item


def _frames(item: bytes) -> Iterator[tuple[int, int]]:
    """Yields the largest width and height that each sequence header of AV1 data allows."""
    place = 0
    for _ in range(_MOST_UNITS):
        if place >= len(item):
            return
        header, size = item[place], 0
        place += 1 + (header >> 2 & 1)
        for shift in range(0, 56, 7) if header & 2 else ():
            byte = item[place] if place < len(item) else 0
            place, size = place + 1, size | (byte & 127) << shift
            if byte < 128:
                break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield _size_of(item[place : place + _HEADER_BYTES])
        place += size if header & 2 else len(item)
    _check(False)


def _size_of(sequence_header: bytes) -> tuple[int, int]:
    bits = io.StringIO("".join(f"{byte:08b}" for byte in sequence_header.ljust(_HEADER_BYTES, b"\0")))

    def take(count: int) -> int:
        return int(bits.read(count), 2)

    take(4)  # profile, still picture
    if take(1):  # the header of a still picture
        take(5)
    else:
        _check(not take(1))  # times
        delays = take(1)
        for _ in range(take(5) + 1):
            if take(17) & 31 > 7:  # level
                take(1)
            if delays and take(1):
                take(4)
    wide, high = take(4) + 1, take(4) + 1
    return take(wide) + 1, take(high) + 1
