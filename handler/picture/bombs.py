"""Refuses files whose decoding costs more than their pixels, before a decoder reads them.

* PNG: cv2 allocates as many bytes as a chunk claims to have, up to 4 GB, before it notices that the file is shorter.
* JPEG: a scan takes a few bytes of the file and a pass over all pixels: ten thousand scans decode for an hour.
* AVIF: frames may be larger than the header says; ``av1.py`` finds their sizes.
* TIFF: a tile is unpacked whole, however small the picture is; ``decode`` checks its size by the header's tags.
"""

import re
from collections.abc import Iterator

from handler.errors import BadRequest, TooLarge

MOST_SCANS = 100  # encoders write about ten
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # not the 0 or the restart that follows 0xFF in a scan's data
_START_OF_SCAN, _END_OF_IMAGE, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)  # markers


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields the chunks of a PNG: kind, offset of the first byte, offset of the next chunk."""
    end, kind = 8, b""
    while kind != b"IEND" and end + 8 <= len(data):
        start, kind = end, data[end + 4 : end + 8]
        end += 12 + int.from_bytes(data[end : end + 4], "big")
        yield kind, start, end


def check_chunks(data: bytes) -> None:
    """Raises BadRequest if a chunk of a PNG claims to be longer than the file."""
    if any(end > len(data) + 4 for _, _, end in chunks(data)):  # decoders forgive a missing checksum at the end
        raise BadRequest("the PNG picture is truncated or corrupt and cannot be decoded")


def without_profile(data: bytes) -> bytes:
    """A checked PNG without its colour profile, which neither decoder applies.

    libpng reports a bad profile on standard error, by the name that the file gives it, line breaks included; TorchServe
    reads metrics from those lines.
    """
    if b"iCCP" not in data:  # most files: no copy
        return data
    kept, end = [data[:8]], 8
    for kind, start, end in chunks(data):
        if kind != b"iCCP":
            kept.append(data[start:end])
    return b"".join([*kept, data[end:]])


def check_scans(data: bytes) -> None:
    """Raises TooLarge if a JPEG has more than ``MOST_SCANS`` scans."""
    if (scans := count_scans(data)) > MOST_SCANS:
        raise TooLarge(f"the JPEG picture has more than {scans - 1} scans, valid are at most {MOST_SCANS}")


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
