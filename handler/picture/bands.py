"""Decodes an upload to as many bands as the network has channels.

Pictures become RGB or grey, by Pillow's "L", for networks with 3 channels or 1. NumPy's ``.npy`` files, uint8 (H, W) or
(H, W, C), must have the network's channels; so must TIFFs with any other number of bands, which are of 8 bits each and
stay in the file's order. Of a DICOM file the first frame is read, with its window applied, by the package pydicom.
"""

import io
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base as Tag

from handler.errors import BadRequest, NotAnImage, in_one_line
from handler.picture.decode import DEFAULT_MAX_PIXELS, check_pixels, decode, pillows_limit, turned
from handler.picture.preprocess import Pixels, by_band

_NUMPY, _DICOM = b"\x93NUMPY", b"DICM"  # the second behind a preamble of 128 bytes
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_TIFF = {b"II*\0": "<", b"MM\0*": ">"}  # how files begin, and their order of bytes
_KEPT = (Tag.ImageLength, Tag.Compression, Tag.FillOrder, Tag.RowsPerStrip, Tag.TileLength)
_PLACES = (Tag.StripOffsets, Tag.StripByteCounts, Tag.TileOffsets, Tag.TileByteCounts)
_GREY = ("MONOCHROME1", "MONOCHROME2")  # of a DICOM file; in the first, 0 is white
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the syntax of compressed DICOM files, which unpack to any size


def read_picture(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, channels: int = 3) -> Pixels:
    """Decodes a picture to uint8 (H, W, C) with that many channels, upright; errors are those of ``decode``."""
    if data.startswith(_NUMPY):
        return _read_array(data, max_pixels, channels)
    if data[:4] in _TIFF and channels not in (1, 3):
        return _read_tiff(data, max_pixels, channels)
    pixels = _read_dicom(data, max_pixels) if data[128:132] == _DICOM else decode(data, max_pixels)
    if channels not in (1, 3):
        raise BadRequest(f"the network takes {channels} bands, valid are TIFF and NumPy files (.npy) with so many")
    return in_colours(pixels, channels)


def in_colours(pixels: Pixels, channels: int) -> Pixels:
    """A picture, grey or RGB (H, W, 1 or 3), as RGB or grey for networks with 3 channels or 1."""
    if channels == 1 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return pixels.repeat(3, axis=2) if channels == 3 and pixels.shape[2] == 1 else pixels


def _check_bands(bands: int, channels: int) -> None:
    if bands != channels:
        raise BadRequest(f"the picture has {bands} band{'s' * (bands != 1)}, and the network takes {channels}")


def _read_array(data: bytes, max_pixels: int, channels: int) -> Pixels:
    try:
        file = io.BytesIO(data)
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # the header is text that a parser of Python reads
        raise BadRequest("the NumPy file's header is truncated or corrupt") from error
    if dtype != np.uint8 or len(shape) not in (2, 3) or 0 in shape:
        raise NotAnImage(f"the NumPy file holds {dtype} {shape}, valid is uint8 (H, W) or (H, W, C)")
    _check_bands((*shape, 1)[2], channels)
    check_pixels(shape[0], shape[1], max_pixels)
    try:
        return np.ascontiguousarray(np.load(io.BytesIO(data), allow_pickle=False).reshape(*shape[:2], -1))
    except ValueError as error:
        raise BadRequest("the NumPy file is truncated or corrupt") from error


def _read_tiff(data: bytes, max_pixels: int, channels: int) -> Pixels:
    """The first page of a TIFF with any number of bands, which Pillow reads as grey ones beside each other."""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        size, bands = (int(tags[Tag.ImageLength]), int(tags[Tag.ImageWidth])), int(tags.get(Tag.SamplesPerPixel, 1))
        bits, signs = tags.get(Tag.BitsPerSample, (1,)), tags.get(Tag.SampleFormat, (1,))
        tile = (int(tags.get(Tag.TileLength, 1)), int(tags.get(Tag.TileWidth, 1)))
    except Exception as error:  # as in ``decode``
        raise BadRequest("the TIFF picture's header is truncated or corrupt") from error
    if {*bits} != {8} or {*signs} != {1} or tags.get(Tag.Compression) in (6, 7):
        valid = "whole numbers of 8 bits, without a sign and without JPEG"
        raise NotAnImage(f"the TIFF picture's bands are valid as {valid}")
    _check_bands(bands, channels)
    for height, width in (size, tile):
        check_pixels(height, width, max_pixels)
    try:
        with pillows_limit(max_pixels * bands):
            pixels = _read_samples(data, tags, size, bands)
    except Exception as error:
        raise BadRequest("the TIFF picture is truncated or corrupt and cannot be decoded") from error
    return by_band(partial(turned, orientation=tags.get(Tag.Orientation)), pixels)


def _read_samples(data: bytes, tags: Mapping[int, Any], size: tuple[int, int], bands: int) -> Pixels:
    (height, width), order = size, _TIFF[data[:4]]
    planes = bands if tags.get(Tag.PlanarConfiguration) == 2 else 1
    beside = bands // planes  # bands whose values lie beside each other
    down, across = tags.get(Tag.TileLength, tags.get(Tag.RowsPerStrip, height)), tags.get(Tag.TileWidth, width)
    parts = (planes, -(-height // down) * -(-width // across))  # must all be there: Pillow would leave others black
    grey: dict[int, Any] = {Tag.BitsPerSample: [8], Tag.PhotometricInterpretation: [1], Tag.SamplesPerPixel: [1]}
    grey |= {tag: np.ravel(tags[tag]) for tag in _KEPT if tag in tags}
    grey |= {tag: np.ravel(tags[tag]) * beside for tag in (Tag.ImageWidth, Tag.TileWidth) if tag in tags}
    found = []
    for plane in range(planes):
        known = grey | {tag: np.reshape(tags[tag], parts)[plane] for tag in _PLACES if tag in tags}
        file = data[:4] + struct.pack(f"{order}I", len(data)) + data[8:] + _directory(order, known, len(data))
        with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
            found.append(np.asarray(image).reshape(height, width, beside))
    pixels = np.concatenate(found, axis=2)
    if tags.get(Tag.Predictor) != 2:
        return pixels
    starts = np.arange(0, width, across)[1:]  # differences begin anew in a tile
    return np.concatenate([part.cumsum(1, np.uint8) for part in np.split(pixels, starts, axis=1)], axis=1)


def _directory(order: str, tags: Mapping[int, Sequence[int]], start: int) -> bytes:
    """A TIFF's directory of whole numbers, which begins at ``start``."""
    entries, values, behind = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *map(int, numbers))
        place = packed if len(numbers) == 1 else struct.pack(f"{order}I", behind + len(values))
        values += packed if len(numbers) > 1 else b""
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + place
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


def _read_dicom(data: bytes, max_pixels: int) -> Pixels:
    """Decodes the first frame to uint8 grey or RGB, (H, W, 1 or 3).

    Grey values go through the file's rescaling, and its window or table; without these, the frame's lowest value is
    black and its highest white. NotAnImage says that pydicom is not installed, or that the values are neither grey nor
    colours of 8 bits; BadRequest that pydicom cannot read or decode the file; the other error is ``check_pixels``'s.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise NotAnImage("DICOM pictures need pydicom: pip install 'shufflenet-cam[dicom]'") from error
    try:
        if _DEFLATED in data:
            raise ValueError("deflated files are not read")
        file = dcmread(io.BytesIO(data))
        size, kind, bits = (int(file.Rows), int(file.Columns)), str(file.PhotometricInterpretation), file.BitsAllocated
    except Exception as error:  # pydicom's parsers raise exceptions of many types
        raise BadRequest(f"the DICOM file cannot be read ({in_one_line(error)})") from error
    check_pixels(*size, max_pixels)
    if kind not in _GREY and (bits != 8 or not kind.startswith(("RGB", "YBR"))):
        valid = f"{', '.join(_GREY)}, RGB and YBR of 8 bits"
        raise NotAnImage(f"the DICOM picture is {kind} of {bits} bits, valid are {valid}")
    try:
        frame = pixel_array(file, index=0)
        if kind not in _GREY:
            return np.ascontiguousarray(frame, np.uint8)
        values = apply_modality_lut(frame, file)
        with np.errstate(over="ignore"):
            seen = apply_voi_lut(values, file)
            if "VOILUTSequence" in file:
                low, high = 0, 2 ** int(file.VOILUTSequence[0].LUTDescriptor[2]) - 1
            else:  # far beyond both ends of a window, or the frame's own ends
                ends = [-1e9, 1e9] if "WindowWidth" in file else [values.min(), values.max()]
                low, high = apply_voi_lut(np.array(ends), file)
        grey = np.rint((seen.astype(np.float64) - low) / max(float(high) - float(low), 1e-9) * 255).clip(0, 255)
    except Exception as error:
        raise BadRequest(f"the DICOM picture cannot be decoded ({in_one_line(error)})") from error
    return np.asarray(255 - grey if kind == _GREY[0] else grey, np.uint8)[:, :, None]
