"""What networks with other than three channels are given: grey pictures, TIFFs with many bands, NumPy files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from handler.errors import BadRequest, NotAnImage, RequestError, TooLarge
from handler.picture.bands import read_picture

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (23, 35, 3), np.uint8)


def npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values, *, planar=False, rows=None, deflated=False, differences=False, order="<", tags=None):
    """A TIFF (H, W, C) of 8 bits, written by hand: no library writes all of these here."""
    height, width, bands = values.shape
    rows = rows or height
    if differences:
        values = np.diff(values, axis=1, prepend=np.zeros((height, 1, bands), np.uint8))
    planes = [values[:, :, band] for band in range(bands)] if planar else [values]
    strips = [plane[row : row + rows].tobytes() for plane in planes for row in range(0, height, rows)]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    places = np.cumsum([8, *map(len, strips)]).tolist()
    entries = {
        256: [width], 257: [height], 258: [8] * bands, 259: [8 if deflated else 1], 262: [1], 273: places[:-1],
        277: [bands], 278: [rows], 279: [len(strip) for strip in strips], 284: [2 if planar else 1],
        **({317: [2]} if differences else {}), **(tags or {}),
    }  # fmt: skip
    body, extra = b"", b""
    behind = places[-1] + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}I", behind + len(extra))
        extra += packed if len(packed) > 4 else b""
        body += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, places[-1])
    return head + b"".join(strips) + struct.pack(f"{order}H", len(entries)) + body + bytes(4) + extra


@pytest.mark.parametrize("bands", [2, 4, 5, 8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("how", [{}, {"rows": 7}, {"deflated": True}, {"deflated": True, "differences": True}])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_keeps_its_bands_in_the_files_order(bands, planar, how, order):
    values = np.random.default_rng(bands).integers(0, 256, (23, 35, bands), np.uint8)
    np.testing.assert_array_equal(read_picture(tiff(values, planar=planar, order=order, **how), channels=bands), values)


def test_a_tiff_of_many_bands_is_turned_upright():
    values = RNG.integers(0, 256, (5, 9, 6), np.uint8)
    found = read_picture(tiff(values, tags={274: [6]}), channels=6)
    np.testing.assert_array_equal(found, np.rot90(values, -1))


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 2), (4, 6, 3), (4, 6, 16), (1, 1)])
@pytest.mark.parametrize("memory", ["C", "F"])
def test_a_numpy_file_is_the_picture(shape, memory):
    values = np.array(RNG.integers(0, 256, shape, np.uint8), order=memory)
    channels = (*shape, 1)[2]
    np.testing.assert_array_equal(read_picture(npy(values), channels=channels), values.reshape(*shape[:2], channels))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGB", "RGBA"])
def test_pictures_become_grey_by_pillows_l(mode):
    image = Image.fromarray(PICTURE).convert(mode)
    expected = np.asarray(image.convert("RGB").convert("L"))
    found = read_picture(encoded(image, "PNG"), channels=1)
    np.testing.assert_array_equal(found, expected[:, :, None])
    if mode in ("L", "LA"):  # grey stays grey
        np.testing.assert_array_equal(found[:, :, 0], np.asarray(image.convert("L")))


def test_grey_of_16_bits_is_its_highest_8():
    values = RNG.integers(0, 65536, (9, 7), np.uint16)
    found = read_picture(encoded(Image.fromarray(values), "PNG"), channels=1)
    np.testing.assert_array_equal(found[:, :, 0], values >> 8)


def test_a_grey_jpeg_stays_what_pillow_reads():
    data = encoded(Image.fromarray(PICTURE[:, :, 0]), "JPEG")
    np.testing.assert_array_equal(read_picture(data, channels=1)[:, :, 0], np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize(
    ("data", "channels", "error", "said"),
    [
        (npy(np.zeros((4, 6, 4), np.uint8)), 3, BadRequest, "^the picture has 4 bands, and the network takes 3$"),
        (npy(np.zeros((4, 6), np.uint8)), 3, BadRequest, "^the picture has 1 band, and the network takes 3$"),
        (npy(np.zeros((4, 6, 3), np.uint8)), 1, BadRequest, "has 3 bands, and the network takes 1"),
        (tiff(np.zeros((4, 6, 5), np.uint8)), 4, BadRequest, "has 5 bands, and the network takes 4"),
        (npy(np.zeros((4, 6, 3), np.float32)), 3, NotAnImage, r"holds float32 \(4, 6, 3\), valid is uint8"),
        (npy(np.zeros((4, 6, 3), np.uint16)), 3, NotAnImage, "holds uint16"),
        (npy(np.zeros((2, 4, 6, 3), np.uint8)), 3, NotAnImage, "valid is uint8"),
        (npy(np.zeros((0, 6, 3), np.uint8)), 3, NotAnImage, "valid is uint8"),
        (npy(np.array([[{}]], object)), 1, NotAnImage, "holds object"),
        (npy(np.zeros((4, 6), np.uint8))[:-1], 1, BadRequest, "NumPy file is truncated"),
        (b"\x93NUMPY\x01\x00\x08\x00{'descr'", 1, BadRequest, "NumPy file's header"),
        (b"\x93NUMPY\x09\x00", 1, BadRequest, "NumPy file's header"),
        (encoded(Image.fromarray(PICTURE), "PNG"), 4, BadRequest, "takes 4 bands, valid are TIFF and NumPy files"),
        (b"nonsense", 4, NotAnImage, "not a picture"),
        (tiff(np.zeros((4, 6, 4), np.uint8), tags={258: [16] * 4}), 4, NotAnImage, "whole numbers of 8 bits"),
        (tiff(np.zeros((4, 6, 4), np.uint8), tags={339: [2] * 4}), 4, NotAnImage, "without a sign"),
        (tiff(np.zeros((4, 6, 4), np.uint8), tags={257: [400]}), 4, BadRequest, "truncated or corrupt and cannot be"),
        (b"II*\0\xff\xff\0\0", 4, BadRequest, "TIFF picture's header"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(data, channels, error, said):
    with pytest.raises(error, match=said) as refused:
        read_picture(data, channels=channels)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "channels"),
    [
        (npy(np.zeros((20, 20, 5), np.uint8)), 5),
        (npy(np.zeros((20, 20, 5), np.uint8)).replace(b"(20, 20, 5)", b"(9**9, 9,5)"), 5),
        (npy(np.zeros((1, 20), np.uint8)).replace(b"(1, 20)", b"(70000, 1)"), 1),
        (tiff(np.zeros((20, 20, 5), np.uint8)), 5),
        (tiff(np.zeros((2, 2, 5), np.uint8), tags={256: [20], 257: [20]}), 5),
        (tiff(np.zeros((2, 2, 5), np.uint8), tags={322: [2048], 323: [2048]}), 5),
    ],
)
def test_too_many_pixels_are_refused_before_they_are_decoded(data, channels):
    with pytest.raises((TooLarge, BadRequest)) as refused:
        read_picture(data, max_pixels=399, channels=channels)
    assert isinstance(refused.value, TooLarge) or "header" in str(refused.value)


@pytest.mark.parametrize("kind", ["tiff", "npy"])
def test_damaged_files_never_raise_anything_else(kind):
    values = RNG.integers(0, 256, (6, 7, 4), np.uint8)
    whole = tiff(values, deflated=True, rows=2) if kind == "tiff" else npy(values)
    rng = np.random.default_rng(1)
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(0, 256)
        try:
            assert read_picture(bytes(data[: rng.integers(1, len(data) + 1)]), 10_000, 4).shape[2] == 4
        except RequestError as error:
            assert "\n" not in str(error)  # noqa: PT017 - any message
