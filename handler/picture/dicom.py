"""Decodes the first frame of a DICOM file, with its window applied, by the package pydicom."""

import io

import numpy as np

from handler.errors import BadRequest, NotAnImage, in_one_line
from handler.picture.decode import check_pixels
from handler.picture.preprocess import Pixels

_GREY = ("MONOCHROME1", "MONOCHROME2")  # in the first, 0 is white
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # the syntax of compressed files, which unpack to any size


def read_dicom(data: bytes, max_pixels: int) -> Pixels:
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
        raise NotAnImage(
            f"the DICOM picture is {kind} of {bits} bits, valid are {', '.join(_GREY)}, RGB and YBR of 8 bits"
        )
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
