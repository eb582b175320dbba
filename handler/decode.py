"""From the bytes of an upload to an upright RGB picture.

cv2 decodes, which gives Pillow's very pixels in half the time, except for a few kinds that Pillow decodes itself.
Pillow reads the header first, so that size and format are judged before a single pixel is decoded; ``unpacking.py``
judges what the header does not tell.

What becomes of unusual pictures:

* grey and palette pictures become RGB; of a GIF's or a TIFF's pages the first is taken;
* transparency is dropped, as in Pillow's ``convert("RGB")``: the picture is laid over nothing, the colours stored under
  transparent pixels show;
* 16-bit values are scaled to 8 bits (Pillow's ``convert("RGB")`` clips 16-bit grey instead, which leaves it white);
* a camera's EXIF orientation is applied.
"""

import io
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from handler.errors import BadRequest, NotAnImage, TooLarge
from handler.unpacking import check_chunks, check_scans, tile_pixels, without_profile

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
DEFAULT_MAX_PIXELS = 50_000_000
LONGEST_SIDE = 65_535  # pixels; JPEG's own limit

# Pillow's own guard warns above max_pixels, which is judged here, and raises above twice as many.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# cv2's own lines about bent files only fill the server's log (those of libpng and libjpeg cannot be turned off).
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


_CHECKS = {"PNG": check_chunks, "JPEG": check_scans, "MPO": check_scans}  # of what the header does not tell


@dataclass(frozen=True)
class _Header:
    format: str
    width: int
    height: int
    mode: str  # Pillow's name: "L", "P", "RGB", "CMYK", …
    tile: int = 0  # pixels that are unpacked at once, if that is not the picture


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decodes a picture to uint8 RGB (H, W, 3), upright.

    Raises:
        NotAnImage: none of ``FORMATS``; the message names the first bytes.
        TooLarge: more than ``max_pixels``, a side above ``LONGEST_SIDE``, or more scans than any encoder writes;
            nothing was decoded.
        BadRequest: one of ``FORMATS``, but truncated or corrupt.
    """
    header = _read_header(data, max_pixels)
    if max(header.width, header.height) > LONGEST_SIDE:
        raise TooLarge(
            f"the picture is {header.width}x{header.height}, valid are sides of at most {LONGEST_SIDE} pixels"
        )
    if header.width * header.height > max_pixels:
        raise TooLarge(
            f"the picture has {header.width}x{header.height} = {header.width * header.height} pixels, "
            f"valid are at most {max_pixels}"
        )
    if header.tile > max_pixels:
        raise TooLarge(f"the picture's tiles have {header.tile} pixels, valid are at most {max_pixels}")
    _CHECKS.get(header.format, lambda _data: None)(data)
    if header.format == "PNG":
        data = without_profile(data)
    image = _decode_with_pillow(data) if _differs_in_cv2(header) else _decode(data)
    if image is None:
        raise BadRequest(f"the {header.format} picture is truncated or corrupt and cannot be decoded")
    return image


def _read_header(data: bytes, max_pixels: int) -> _Header:
    Image.MAX_IMAGE_PIXELS = max_pixels  # the only limit to what Pillow sets aside for a GIF's frame as it opens it
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            tile = tile_pixels(image.tag_v2) if isinstance(image, TiffImageFile) else 0
            return _Header(str(image.format), image.width, image.height, image.mode, tile)
    except UnidentifiedImageError as error:
        raise NotAnImage(
            f"not a picture: the upload begins with the bytes {data[:8].hex(' ')} ({_printable(data[:8])}), "
            f"valid are {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture has more than {2 * max_pixels} pixels, valid are at most {max_pixels}") from error
    except Exception as error:  # Pillow's parsers raise whatever a bent header makes them stumble over
        raise BadRequest("the picture's header is truncated or corrupt") from error


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def _decode(data: bytes) -> npt.NDArray[np.uint8] | None:
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        return None
    return None if decoded is None else np.asarray(decoded, np.uint8)


def _differs_in_cv2(header: _Header) -> bool:
    """Whether cv2's pixels would not be Pillow's.

    Its CMYK is one grey level off, and it blanks or premultiplies transparent pixels of GIF and TIFF. 16-bit grey is
    cv2's all the same, because Pillow clips it.
    """
    return header.mode == "CMYK" or (header.format in ("GIF", "TIFF") and not header.mode.startswith("I;16"))


def _decode_with_pillow(data: bytes) -> npt.NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # as above: a bent file, whatever Pillow calls it
        return None
