"""Decodes the bytes of an upload to an upright RGB picture, whose pixels equal Pillow's to the last bit.

cv2 decodes JPEGs to the same pixels, in half the time, and Pillow the rest. Pillow reads the header first, so that size
and format are checked before a pixel is decoded; ``bombs.py`` checks what the header does not tell. docs/API.md says
what becomes of transparency, of animations and of values of more than 8 bits.
"""

import io
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError, features
from PIL.ExifTags import Base as Tag

from handler.errors import BadRequest, NotAnImage, TooLarge, in_one_line
from handler.picture.bombs import MOST_SCANS, check_frames, count_scans

with suppress(ImportError):  # its licence (libheif, x265) is not everyone's: no extra of this project installs it
    import_module("pillow_heif").register_heif_opener()
OPTIONAL = {  # format: whether it can be read, how its files begin behind four bytes, what reads it
    "AVIF": ("avif" in features.modules and features.check("avif"), (b"ftypav",), "Pillow 11.3 or newer"),
    "HEIF": ("HEIF" in Image.OPEN, (b"ftyphe", b"ftypmi", b"ftypms"), "the package pillow-heif"),
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *(kind for kind, (known, *_) in OPTIONAL.items() if known))
_FURTHER = (".npy", ".dcm", ".heic", ".heif", ".avif")  # what cannot be read of these is refused with what reads it
_JPEG = ("JPEG", "MPO")
DEFAULT_MAX_PIXELS = 50_000_000
LONGEST_SIDE = 65_535  # pixels; JPEG's own limit

_LIMIT = threading.Lock()  # Pillow has one limit for the whole process
_VALUES = "whole numbers without a sign, of at most 16 bits, as values"
_FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF's orientation to the axes that cv2 flips


def endings() -> set[str]:
    """How the names of picture files end."""
    return {*_FURTHER, *(ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS)}


def quieten() -> None:
    """Silences warnings of Pillow, cv2 and pydicom about bad files, for the whole process: they would fill a log.

    ``decode`` limits pixels itself, so that Pillow's warning says nothing new. Lines of libjpeg stay.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decodes a picture to uint8 RGB (H, W, 3), upright.

    NotAnImage says that the format is none of ``FORMATS``, with the first bytes, or that the values do not say what
    they look like. TooLarge, before a pixel is decoded, says that there are more than ``max_pixels``, a side above
    ``LONGEST_SIDE``, or more scans than any encoder writes; BadRequest that the file is truncated or corrupt.
    """
    image, tile, unclear = _open(data, max_pixels)
    check_pixels(image.height, image.width, max_pixels)
    if tile > max_pixels:
        raise TooLarge(f"the picture's tiles have {tile} pixels, valid are at most {max_pixels}")
    if unclear:
        raise NotAnImage(f"the {image.format} picture {unclear}")
    if image.format in _JPEG and count_scans(data) > MOST_SCANS:
        raise TooLarge(f"the JPEG picture has more than {MOST_SCANS} scans, valid are at most {MOST_SCANS}")
    if image.format == "AVIF":
        check_frames(data, max_pixels)
    try:
        if image.format in _JPEG and image.mode != "CMYK":  # which cv2 converts one grey level off
            how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            return _upright(cv2.imdecode(np.frombuffer(data, np.uint8), how), image)  # None cannot be turned
        with pillows_limit(max_pixels):  # a TIFF's tiles are judged once more when it is loaded
            if image.format == "PNG":  # whose checksums Pillow reads for this alone
                Image.open(io.BytesIO(data), formats=FORMATS).verify()
            image.load()
        return _pixels(image)
    except Exception as error:  # both raise exceptions of many types
        raise BadRequest(f"the {image.format} picture is truncated or corrupt and cannot be decoded") from error


def check_pixels(height: int, width: int, max_pixels: int) -> None:
    """Raises TooLarge if a picture has more than ``max_pixels`` pixels, or a side above ``LONGEST_SIDE``."""
    if max(width, height) > LONGEST_SIDE:
        raise TooLarge(f"the picture is {width}x{height}, valid are sides of at most {LONGEST_SIDE} pixels")
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width}x{height} = {width * height} pixels, valid are at most {max_pixels}")


@contextmanager
def pillows_limit(pixels: int) -> Iterator[None]:
    """Limits the pixels that Pillow allocates when it opens a file, and restores the caller's limit afterwards."""
    with _LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open(data: bytes, max_pixels: int) -> tuple[Image.Image, int, str]:
    """The image, not decoded yet; the pixels of a TIFF's tile, 0 without tiles; what ``_unclear`` says."""
    try:
        with pillows_limit(max_pixels):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        tags = _tags(image)
        return image, int(tags.get(Tag.TileWidth, 0)) * int(tags.get(Tag.TileLength, 0)), _unclear(image)
    except UnidentifiedImageError as error:
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[:8])
        first = f"the first bytes are {data[:8].hex(' ')} ({text})" if data else "there are no bytes"
        for kind, (known, beginnings, needed) in OPTIONAL.items():
            first = f"{kind} needs {needed}" if not known and data[4:10] in beginnings else first
        valid = f"{', '.join(FORMATS)} with {_VALUES}"
        raise NotAnImage(f"not a picture that can be read: {first}, valid are {valid}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture has more than {2 * max_pixels} pixels, valid are at most {max_pixels}") from error
    except Exception as error:  # Pillow's parsers raise exceptions of many types on a bad header
        raise BadRequest("the picture's header is truncated or corrupt, or of a kind that cannot be read") from error


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """A TIFF's tags; empty for other formats."""
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _unclear(image: Image.Image) -> str:
    """Why the values of an image do not say what they look like; empty if they do."""
    tags = _tags(image)
    if image.mode in ("I", "F") or set(tags.get(Tag.SampleFormat, (1,))) != {1}:
        values = "values with a sign, with a fraction or of 32 bits"
        return f"has {values}, and nothing says which are black and which are white; valid are {_VALUES}"
    plain = set(tags.get(Tag.BitsPerSample, (1,))) == {8} and tags.get(Tag.PhotometricInterpretation) != 0
    if tags.get(Tag.PlanarConfiguration) == 2 and tags.get(Tag.Compression, 1) == 1 and not plain:
        # Pillow 13.0 unpacks all planes as 8 bits (TiffImagePlugin: one letter of the raw mode per plane)
        return "has uncompressed planes that are not of 8 bits; valid are compressed planes and channels side by side"
    return ""


def turned(pixels: Any, orientation: Any) -> Any:
    """Turns a picture upright by EXIF's orientation: those from 5 to 8 lie on their side."""
    pixels = cv2.transpose(pixels) if orientation in (5, 6, 7, 8) else pixels
    return cv2.flip(pixels, _FLIPS[orientation]) if orientation in _FLIPS else pixels


def _upright(pixels: Any, image: Image.Image) -> npt.NDArray[np.uint8]:
    """Applies EXIF's orientation, if one can be read; Pillow turns a TIFF upright when it loads the pixels."""
    orientation = None
    with suppress(Exception):  # as above; the picture is good even if the metadata are bad
        orientation = image.getexif().get(Tag.Orientation)
    return np.ascontiguousarray(turned(pixels, orientation), np.uint8)


def from_pillow(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Converts a Pillow image to uint8 RGB (H, W, 3), upright, as ``decode`` converts the file.

    NotAnImage says that the values do not say what they look like, BadRequest that there are no pixels, or that Pillow
    cannot load or convert them.
    """
    if not image.width * image.height:
        raise BadRequest(f"the Pillow image has {image.width}x{image.height} pixels, valid is at least one")
    try:
        image.load()
        unclear = _unclear(image)
        if not unclear:
            return _pixels(image)
    except Exception as error:  # as above
        raise BadRequest(f"the Pillow image of mode {image.mode} cannot be read ({in_one_line(error)})") from error
    raise NotAnImage(f"the Pillow image of mode {image.mode} {unclear}")


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of a loaded image: uint8 RGB (H, W, 3), upright."""
    return _upright(np.asarray(_of_8_bits(image).convert("RGB")), image)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """The picture in a mode that Pillow converts to RGB right: values of 16 bits become their highest 8 bits.

    Pillow would clip these to white, and read those whose 0 is white as if it were black.
    """
    if image.mode == "La" or isinstance(image.info.get("transparency"), bytes):  # of palettes Pillow would warn
        return image.convert("LA" if image.mode == "La" else "RGBA")
    if not image.mode.startswith("I;16"):
        return image
    tags = _tags(image)
    (bits,), white = tags.get(Tag.BitsPerSample, (16,)), tags.get(Tag.PhotometricInterpretation) == 0
    highest = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(~highest if white else highest)
