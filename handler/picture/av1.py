"""Finds the sizes of an AVIF file's frames, which may be far above the size that its header says.

A decoder allocates and decodes what the AV1 sequence header says, and then scales the picture to the header's size.
Items (``iloc``) and the first chunk of each track (``stco``, ``co64``) are looked for in the whole file. A file with
more of anything than encoders write is refused: to read it would take longer than to decode a picture.
"""

import io
import re
from collections.abc import Iterator

from handler.errors import BadRequest, TooLarge

_MOST_BOXES, _MOST_ITEMS, _MOST_EXTENTS, _MOST_UNITS = 16, 1000, 8, 100
_SEQUENCE_HEADER = 1  # a kind of the units that AV1 data consist of
_LONGEST_HEADER = 128  # bytes, with room to spare


def check_frames(data: bytes, max_pixels: int) -> None:
    """Raises TooLarge for frames of more than ``max_pixels``, BadRequest for a file that does not tell their size."""
    left = 4 * len(data)
    for item in _items(data):
        left -= len(item)
        _check(left >= 0)
        for width, height in _frames(item):
            if width * height > max_pixels:
                raise TooLarge(
                    f"the AVIF picture has frames of {width}x{height} pixels, valid are at most {max_pixels}"
                )


def _check(usual: bool) -> None:
    if not usual:
        raise BadRequest("the AVIF does not tell the size of its frames as encoders do, and cannot be decoded")


def _items(data: bytes) -> Iterator[bytes]:
    """Yields the stretches of the file that a decoder may read frames from."""
    file = io.BytesIO(data)
    for count, box in enumerate(re.finditer(b"stco|co64|iloc", data)):
        _check(count < _MOST_BOXES)
        file.seek(box.end())
        if box[0] != b"iloc":
            _number(file, 8)
            yield data[_number(file, 4 if box[0] == b"stco" else 8) :]
            continue
        version, sizes = _number(file, 4) >> 24, _number(file, 2)
        of_id = 4 if version == 2 else 2
        items = _number(file, of_id)
        _check(items <= _MOST_ITEMS)
        for _ in range(items):
            _number(file, of_id)
            method = _number(file, 2) & 15 if version else 0
            _number(file, 2)  # of another file
            start = _number(file, sizes >> 4 & 15) + (data.find(b"idat") + 4 if method == 1 else 0)
            extents = _number(file, 2)
            _check(extents <= _MOST_EXTENTS)
            item = b""
            for _ in range(extents):
                _number(file, sizes & 15 if version else 0)
                place, size = start + _number(file, sizes >> 12), _number(file, sizes >> 8 & 15)
                item += data[place : place + size if size else None]
            yield item


def _number(file: io.BytesIO, size: int) -> int:
    return int.from_bytes(file.read(size), "big")


def _frames(item: bytes) -> Iterator[tuple[int, int]]:
    """Yields the largest width and height that each sequence header of AV1 data allows."""
    place, found = 0, False
    for _ in range(_MOST_UNITS):
        if place >= len(item):
            return
        header = item[place]
        place += 1 + (header >> 2 & 1)
        size = 0
        for shift in range(0, 56, 7) if header & 2 else ():
            byte = item[place] if place < len(item) else 0
            place, size = place + 1, size | (byte & 127) << shift
            if byte < 128:
                break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            found = True
            yield _size_of(item[place : place + _LONGEST_HEADER])
        place += size if header & 2 else len(item)
    _check(found)


def _size_of(sequence_header: bytes) -> tuple[int, int]:
    bits = io.StringIO("".join(f"{byte:08b}" for byte in sequence_header.ljust(_LONGEST_HEADER, b"\0")))

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
