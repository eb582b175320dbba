import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.io import ImageReadMode, decode_image

from handler import decode as decoding
from handler.decode import decode
from handler.errors import BadRequest, NotAnImage, RequestError, TooLarge

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (23, 37, 3), np.uint8)
RGB, ALPHA = Image.fromarray(PIXELS), Image.fromarray(RNG.integers(0, 256, (23, 37), np.uint8))
GREY, PALETTE = RGB.convert("L"), RGB.quantize(17)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(shape: tuple[int, ...]) -> bytes:
    """16 bits per value, which Pillow cannot write."""
    return cv2.imencode(".png", RNG.integers(0, 1 << 16, shape, np.uint16))[1].tobytes()


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


UPLOADS = {
    "jpeg": encoded(RGB, "JPEG"),
    "jpeg-444": encoded(RGB, "JPEG", subsampling=0, quality=95),
    "jpeg-422": encoded(RGB, "JPEG", subsampling=1),
    "jpeg-progressive": encoded(RGB, "JPEG", progressive=True),
    "jpeg-grey": encoded(GREY, "JPEG"),
    "jpeg-cmyk": encoded(RGB.convert("CMYK"), "JPEG"),
    "jpeg-cmyk-turned": encoded(RGB.convert("CMYK"), "JPEG", exif=oriented(6)),
    "jpeg-mpo": encoded(RGB, "MPO", save_all=True, append_images=[RGB.rotate(180)]),
    "png": encoded(RGB, "PNG"),
    "png-grey": encoded(GREY, "PNG"),
    "png-1-bit": encoded(RGB.convert("1"), "PNG"),
    "png-palette": encoded(PALETTE, "PNG"),
    "png-palette-transparent": encoded(PALETTE, "PNG", transparency=3),
    "png-palette-alphas": encoded(PALETTE, "PNG", transparency=bytes(range(0, 170, 10))),
    "png-grey-alpha": encoded(with_alpha(GREY), "PNG"),
    "png-alpha": encoded(with_alpha(RGB), "PNG"),
    "png-16-bit": deep_png((23, 37, 3)),
    "png-16-bit-alpha": deep_png((23, 37, 4)),
    "png-animated": encoded(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)]),
    "webp": encoded(RGB, "WEBP"),
    "webp-lossless": encoded(RGB, "WEBP", lossless=True),
    "webp-alpha": encoded(with_alpha(RGB), "WEBP"),
    "webp-lossless-alpha": encoded(with_alpha(RGB), "WEBP", lossless=True, exact=True),
    "webp-animated": encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)]),
    "bmp": encoded(RGB, "BMP"),
    "bmp-alpha": encoded(with_alpha(RGB), "BMP"),
    "bmp-palette": encoded(PALETTE, "BMP"),
    "bmp-1-bit": encoded(RGB.convert("1"), "BMP"),
    "gif": encoded(PALETTE, "GIF"),
    "gif-grey": encoded(GREY, "GIF"),
    "gif-transparent": encoded(PALETTE, "GIF", transparency=3),
    "gif-animated": encoded(PALETTE, "GIF", save_all=True, append_images=[RGB.rotate(180).quantize(9)]),
    "tiff": encoded(RGB, "TIFF"),
    "tiff-lzw": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "tiff-grey": encoded(GREY, "TIFF"),
    "tiff-1-bit": encoded(RGB.convert("1"), "TIFF", compression="group4"),
    "tiff-palette": encoded(PALETTE, "TIFF"),
    "tiff-alpha": encoded(with_alpha(RGB), "TIFF"),
    "tiff-cmyk": encoded(RGB.convert("CMYK"), "TIFF"),
    "tiff-pages": encoded(RGB, "TIFF", save_all=True, append_images=[RGB.rotate(180)]),
}
TURNED = {
    f"{kind}-{orientation}": encoded(RGB, kind, exif=oriented(orientation))
    for kind in ["JPEG", "PNG", "WEBP", "TIFF"]
    for orientation in range(1, 9)
}
ONE_PIXEL = {f"{kind}-1x1": encoded(RGB.crop((0, 0, 1, 1)), kind) for kind in decoding.FORMATS}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("name", [*UPLOADS, *TURNED, *ONE_PIXEL])
def test_pixels_are_pillows(name):
    data = (UPLOADS | TURNED | ONE_PIXEL)[name]
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = decode(data)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_the_orientations_differ():
    assert len({decode(TURNED[f"PNG-{orientation}"]).tobytes() for orientation in range(1, 9)}) == 8


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # torchvision's, of its decode_image
def test_16_bit_grey_is_scaled_to_8_bits_as_torchvision_reads_it():
    data = deep_png((23, 37))
    deep = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    assert deep.dtype == torch.uint16
    found = decode(data).astype(float)
    assert found.std() > 50
    for channel in range(3):
        assert np.abs(found[:, :, channel] - deep[0].to(torch.float64).numpy() / 257).max() <= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "begins with the bytes  "),
        (b"a plain text", r"begins with the bytes 61 20 70 6c 61 69 6e 20 \(a plain \), valid are JPEG, PNG"),
        (b"<svg/>\n\xff", r"3c 73 76 67 2f 3e 0a ff \(<svg/>\.\.\)"),
        (b"%PDF-1.7", "25 50 44 46"),
        (b"P6 1 1 255 abc", "50 36"),  # Pillow could, FORMATS says no
        (bytes(100), "00 00 00 00"),
        (RNG.bytes(5000), "begins with the bytes"),
        (b"\x89PNG\r\n\x1a\n", "89 50 4e 47"),
    ],
    ids=["empty", "text", "svg", "pdf", "ppm", "zeros", "noise", "signature"],
)
def test_what_is_no_picture_is_refused_by_its_first_bytes(data, message):
    with pytest.raises(NotAnImage, match=message):
        decode(data)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.75, 0.9, 0.97])
@pytest.mark.parametrize(
    "name",
    ["jpeg", "jpeg-progressive", "jpeg-cmyk", "png", "png-palette", "webp", "webp-lossless", "bmp", "gif", "tiff"],
)
def test_a_truncated_picture_is_refused(name, share):
    data = UPLOADS[name]
    with pytest.raises((BadRequest, NotAnImage), match=r"truncated or corrupt|not a picture"):
        decode(data[: int(len(data) * share)])


def header_only(kind: str, width: int, height: int) -> bytes:
    """A picture that ends where its pixels would begin."""
    if kind == "PNG":
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"")]
        packed = [struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
    if kind in ("JPEG", "JPEG-CMYK"):
        components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 4 + (kind == "JPEG-CMYK")))
        frame = struct.pack(">BHHB", 8, height, width, len(components) // 3) + components
        return b"\xff\xd8\xff\xc0" + struct.pack(">H", 2 + len(frame)) + frame + b"\xff\xda\0\x02"
    if kind == "WEBP":
        body = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0"
        return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def no_decoding(monkeypatch):
    """Fails the test as soon as anything decodes pixels."""

    def reached(*_args, **_options):
        pytest.fail("decoding was reached")

    monkeypatch.setattr(cv2, "imdecode", reached)
    monkeypatch.setattr(decoding, "_decode_with_pillow", reached)


KINDS = ["PNG", "JPEG", "JPEG-CMYK", "WEBP", "BMP"]


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 6_000), (12_000, 8_000), (16_000, 15_000)], ids=["60MP", "96MP", "240MP"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(kind, size):
    with pytest.raises(TooLarge, match="pixels.* 50000000"):
        decode(header_only(kind, *size))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_picture_within_max_pixels_is_decoded_also_where_pillow_would_call_it_a_bomb(kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)  # there is nothing to decode
    with pytest.raises(BadRequest, match="truncated or corrupt"):
        decode(header_only(kind, 16_000, 15_000), max_pixels=240_000_000)


def test_max_pixels_is_counted_exactly():
    assert decode(UPLOADS["png"], max_pixels=23 * 37).shape == (23, 37, 3)
    with pytest.raises(TooLarge, match="37x23 = 851 pixels, valid are at most 850"):
        decode(UPLOADS["png"], max_pixels=23 * 37 - 1)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about bent metadata
@pytest.mark.parametrize("name", UPLOADS)
def test_a_bent_file_gives_a_picture_or_the_rows_own_error(name):
    rng = np.random.default_rng(len(name))
    for _ in range(20):
        data = bytearray(UPLOADS[name])
        end = int(rng.choice([60, 400, len(data)]))  # the header, the tables, all of it
        for place in rng.integers(0, min(end, len(data)), rng.integers(1, 4)):
            data[place] ^= 1 << int(rng.integers(8))
        try:
            found = decode(bytes(data), max_pixels=100_000)
        except RequestError:
            continue
        assert (found.dtype, found.ndim, found.shape[2]) == (np.uint8, 3, 3)
        assert 0 < found.shape[0] * found.shape[1] <= 100_000


def test_a_side_that_no_camera_makes_is_refused_by_the_header(monkeypatch):
    data = io.BytesIO()
    Image.new("L", (70_000, 1)).save(data, "PNG")
    monkeypatch.setattr(decoding.cv2, "imdecode", None)
    with pytest.raises(TooLarge, match="70000x1, valid are sides of at most 65535"):
        decoding.decode(data.getvalue())
