"""DICOM files, written with pydicom: what the window makes of the values is computed here by the standard's formula."""

import io
import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from handler.errors import BadRequest, NotAnImage, TooLarge
from handler.picture.bands import read_picture

STORED = np.random.default_rng(0).integers(0, 4096, (12, 17), np.uint16)


def dicom(values, syntax=ExplicitVRLittleEndian, **tags):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    bits = values.dtype.itemsize * 8
    known = {
        "Rows": values.shape[-2] if values.ndim < 4 else values.shape[1], "Columns": values.shape[-1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(values.dtype.kind == "i"),
    }  # fmt: skip
    for name, value in {**known, **tags}.items():
        setattr(file, name, value)
    file.PixelData = values.tobytes()
    written = io.BytesIO()
    pydicom.dcmwrite(written, file, enforce_file_format=True)
    return written.getvalue()


def windowed(values, centre, width):
    """DICOM's linear window, PS3.3 C.11.2.1.2, on 0 to 255."""
    share = (values.astype(np.float64) - (centre - 0.5)) / (width - 1) + 0.5
    return np.rint(share.clip(0, 1) * 255)


def assert_grey(data, expected):
    grey = read_picture(data, channels=1)
    assert (grey.dtype, grey.shape) == (np.uint8, (*expected.shape, 1))
    assert np.abs(grey[:, :, 0] - expected).max() <= 1
    np.testing.assert_array_equal(read_picture(data), grey.repeat(3, axis=2))


@pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1000, 300), (40, 80)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (2, -1024), (0.5, 3)])
def test_the_window_is_applied_to_rescaled_values(centre, width, slope, intercept):
    tags = {"WindowCenter": centre, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": intercept}
    assert_grey(
        dicom(STORED, BitsStored=12, HighBit=11, **tags),
        windowed(STORED.astype(float) * slope + intercept, centre, width),
    )


def test_signed_values_have_a_window():
    values = STORED.astype(np.int16) - 2000
    assert_grey(dicom(values, WindowCenter=-100, WindowWidth=900), windowed(values, -100, 900))


def test_the_first_of_several_windows_counts():
    data = dicom(STORED, WindowCenter=[500, 2000], WindowWidth=[100, 4000])
    assert_grey(data, windowed(STORED, 500, 100))


def test_in_monochrome1_the_lowest_value_is_white():
    tags = {"WindowCenter": 2000, "WindowWidth": 1000}
    assert_grey(dicom(STORED, PhotometricInterpretation="MONOCHROME1", **tags), 255 - windowed(STORED, 2000, 1000))


def test_without_a_window_the_values_go_from_black_to_white():
    low, high = int(STORED.min()), int(STORED.max())
    assert_grey(dicom(STORED), np.rint((STORED - low) / (high - low) * 255))
    assert_grey(dicom(np.full((3, 4), 7, np.uint16)), np.zeros((3, 4)))


def test_a_table_takes_the_place_of_a_window():
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], np.arange(4096, dtype=np.uint16)[::-1] * 16
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    table.LUTData = (np.arange(4096)[::-1] * 16).tolist()
    data = dicom(STORED, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    assert_grey(data, np.rint((4095 - STORED) * 16 / 65535 * 255))


def test_the_first_frame_of_several_is_read():
    frames = np.stack([STORED, STORED[::-1]])
    tags = {"NumberOfFrames": 2, "WindowCenter": 2048, "WindowWidth": 4096, "Rows": 12, "Columns": 17}
    assert_grey(dicom(frames, **tags), windowed(STORED, 2048, 4096))


def test_colours_stay():
    values = np.random.default_rng(1).integers(0, 256, (6, 7, 3), np.uint8)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Rows": 6, "Columns": 7}
    np.testing.assert_array_equal(read_picture(dicom(values, **tags)), values)


@pytest.mark.parametrize(
    ("data", "limit", "error", "said"),
    [
        (dicom(STORED), 203, TooLarge, "17x12 = 204 pixels"),
        (dicom(STORED)[:-20], 10_000, BadRequest, "the DICOM picture cannot be decoded"),
        (dicom(STORED)[:140], 10_000, BadRequest, "the DICOM file cannot be read"),
        (bytes(128) + b"DICM", 10_000, BadRequest, "the DICOM file cannot be read"),
        (dicom(STORED, DeflatedExplicitVRLittleEndian), 10_000, BadRequest, "deflated files are not read"),
        (dicom(STORED, PhotometricInterpretation="PALETTE COLOR"), 10_000, NotAnImage, "is PALETTE COLOR of 16 bits"),
    ],
    ids=["large", "truncated", "header", "empty", "deflated", "palette"],
)
def test_what_cannot_be_read_is_refused_in_a_line(data, limit, error, said):
    with pytest.raises(error, match=said) as refused:
        read_picture(data, limit, 1)
    assert "\n" not in str(refused.value)


def test_a_network_with_many_channels_takes_no_dicom():
    with pytest.raises(BadRequest, match="takes 4 bands, valid are TIFF and NumPy files"):
        read_picture(dicom(STORED), channels=4)


def test_without_pydicom_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(NotAnImage, match=r"need pydicom: pip install 'shufflenet-cam\[dicom\]'"):
        read_picture(dicom_bytes())


def dicom_bytes():
    return bytes(128) + b"DICM"
