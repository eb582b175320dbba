"""Judges what a file takes to unpack beyond its pixels, before any decoder trusts the file.

* PNG: cv2 sets aside as many bytes as a chunk claims to have, up to 4 GB, before it sees that the file has fewer.
* JPEG: each scan goes over all pixels, in a few bytes of the file: ten thousand would decode for an hour.
* TIFF: a tile is unpacked whole, however small the picture is.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler.errors import BadRequest, TooLarge

MOST_SCANS = 100  # encoders write about ten
_NEXT_MARKER = re.compile(
    rb"\xff+[^\x00\xff\xd0-\xd7]"
)  # behind a scan's data, whose 0xFF are followed by 0 or a restart
_START_OF_SCAN, _END_OF_IMAGE, _ALONE = 0xDA, 0xD9, (0x01, 0xD8)  # the last two have no length
_TILE_SIDES = (322, 323)  # tags


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the chunks of a PNG: kind, first byte, and where the next chunk begins."""
    end, kind = 8, b""
    while kind != b"IEND" and end + 8 <= len(data):
        start, kind = end, data[end + 4 : end + 8]
        end += 12 + int.from_bytes(data[end : end + 4], "big")
        yield kind, start, end


def chunk_kinds(data: bytes) -> set[bytes]:
    """The kinds of a PNG's chunks: ``b"IHDR"``, ``b"IDAT"`` and so on."""
    return {kind for kind, _, _ in _chunks(data)}


def check_chunks(data: bytes) -> None:
    """Refuses a PNG with a chunk that claims to be longer than the file.

    Raises:
        BadRequest: as for any other truncated picture.
    """
    if any(end > len(data) + 4 for _, _, end in _chunks(data)):  # decoders forgive a missing checksum at the end
        raise BadRequest("the PNG picture is truncated or corrupt and cannot be decoded")


def without_profile(data: bytes) -> bytes:
    """A checked PNG without its colour profile, which changes no pixel here.

    libpng complains of a bad profile with the name that the file gives it, line breaks included, on the standard error
    output, which TorchServe reads line by line for metrics.
    """
    if b"iCCP" not in data:  # most: not copied
        return data
    kept, end = [data[:8]], 8
    for kind, start, end in _chunks(data):
        if kind != b"iCCP":
            kept.append(data[start:end])
    return b"".join([*kept, data[end:]])


def check_scans(data: bytes) -> None:
    """Refuses a JPEG of more than ``MOST_SCANS`` scans.

    Raises:
        TooLarge: naming the limit.
    """
    if (scans := count_scans(data)) > MOST_SCANS:
        raise TooLarge(f"the JPEG picture has more than {scans - 1} scans, valid are at most {MOST_SCANS}")


def count_scans(data: bytes) -> int:
    """The scans of a JPEG up to its end of image; counting stops beyond ``MOST_SCANS``."""
    scans, place = 0, 2
    while scans <= MOST_SCANS and (found := _NEXT_MARKER.search(data, place)):
        marker, place = data[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker not in _ALONE:
            place += max(2, int.from_bytes(data[place : place + 2], "big"))
        scans += marker == _START_OF_SCAN
    return scans


def tile_pixels(tags: Mapping[int, Any]) -> int:
    """The pixels of one of a TIFF's tiles; 0 if it has none."""
    width, height = (int(tags.get(tag, 0)) for tag in _TILE_SIDES)
    return width * height
