"""Refuses files whose decoding costs more than their pixels, before a decoder reads them.

* JPEG: a scan takes a few bytes of the file and a pass over all pixels: ten thousand scans decode for an hour.
* AVIF: a decoder decodes frames of the size in the AV1 sequence header, then scales them to the size in the file's.
* TIFF: a tile is unpacked whole, however small the picture is; ``decode`` checks its size by the header's tags.
"""

import re
import struct
from collections.abc import Iterator

from handler.errors import BadRequest, TooLarge

MOST_SCANS = 100  # encoders write about ten
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # not the 0 or the restart that follows 0xFF in a scan's data
_START_OF_SCAN, _END_OF_IMAGE, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)  # markers

_MOST_ITEMS, _MOST_UNITS = 1000, 500  # of an AVIF, and of one of its items
_UNUSUAL = "the AVIF does not tell the size of its frames as encoders do, and cannot be decoded"
# where the boxes are that say where frames are: a track's first chunk; version, widths of numbers and count of items
_BOX = re.compile(rb"(?s)stco(?=.{8}(.{4}))|co64(?=.{8}(.{8}))|iloc(?=(.)...(..)(....))")
_SEQUENCE_HEADER = 1  # a kind of the units that AV1 data consist of
_UNIT_SIZE = re.compile(rb"[\x80-\xff]{0,7}[\0-\x7f]")
# the bits of a header: of a still picture with a level, or of a film with one level and without times. The size of the
# frames follows them
_FRAME_SIZE = re.compile(r".{4}(?:1.{5}|0{8}.{12}(?:00.{3}|(?:01|1.).{4}))(.{4})(.{4})(.{32})")


def count_scans(data: bytes) -> int:
    """Counts the scans of a JPEG up to the end of the image, at most one beyond ``MOST_SCANS``."""
    scans, offset = 0, 2
    while scans <= MOST_SCANS and (found := _NEXT_MARKER.search(data, offset)):
        marker, offset = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker not in _WITHOUT_LENGTH:
            offset += max(2, int.from_bytes(data[offset : offset + 2], "big"))
        scans += marker == _START_OF_SCAN
    return scans


def check_frames(data: bytes, max_pixels: int) -> None:
    """Raises TooLarge for AVIF frames of more than ``max_pixels``, BadRequest if they are not told as encoders do."""
    for count, item in enumerate(_items(data)):
        if count == _MOST_ITEMS:
            raise BadRequest(_UNUSUAL)
        for header in _sequence_headers(item):
            found = _FRAME_SIZE.match("".join(f"{byte:08b}" for byte in header.ljust(16, b"\0")))
            if not found:
                raise BadRequest(_UNUSUAL)
            wide, high = int(found[1], 2) + 1, int(found[2], 2) + 1  # bits
            width, height = int(found[3][:wide], 2) + 1, int(found[3][wide : wide + high], 2) + 1
            if width * height > max_pixels:
                size = f"{width}x{height} pixels"
                raise TooLarge(f"the AVIF picture has frames of {size}, valid are at most {max_pixels}")


def _items(data: bytes) -> Iterator[memoryview]:
    """Yields the stretches of an AVIF that a decoder may read frames from, wherever the boxes are."""
    view, inside = memoryview(data), data.find(b"idat") + 4
    for count, box in enumerate(_BOX.finditer(data)):
        if box[3] is None:
            yield view[int.from_bytes(box[1] or box[2]) :]
            continue
        (version,), (start, length, base, index) = box[3], (int(digit, 16) for digit in box[4].hex())
        of_item, later = 4 if version == 2 else 2, version > 0
        items = int.from_bytes(box[5][:of_item])
        # an item's number, way of counting, other file, base, count of parts, index, start and length
        kept = struct.Struct(f"{of_item}s{2 * later}s2s{base}s2s{index * later}s{start}s{length}s")
        table = view[box.end() + 6 + of_item :][: items * kept.size]
        if max(count, items) > _MOST_ITEMS or len(table) < items * kept.size:
            raise BadRequest(_UNUSUAL)
        for fields in kept.iter_unpack(table):
            _, method, _, base, parts, _, start, length = map(int.from_bytes, fields)
            if parts != 1:
                raise BadRequest(_UNUSUAL)
            yield view[base + start + (inside if method & 15 == 1 else 0) :][: length or None]


def _sequence_headers(item: memoryview) -> Iterator[bytes]:
    """Yields the sequence headers of AV1 data; the last unit, or what is no AV1 data, has no size."""
    place = 0
    for _ in range(_MOST_UNITS):
        header = item[place] if place < len(item) else 0
        size = _UNIT_SIZE.match(item, place + 1 + (header >> 2 & 1))
        if not header & 2 or not size:
            return
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield bytes(item[size.end() :][:16])
        place = size.end() + sum((byte & 127) << 7 * digit for digit, byte in enumerate(size[0]))
    raise BadRequest(_UNUSUAL)
