import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from handler.errors import BadRequest, NotAnImage, RequestError, TooLarge
from handler.picture import decode as decoding
from handler.picture.decode import decode, quieten

AVIF = ["AVIF"] if tuple(map(int, PIL.__version__.split(".")[:2])) >= (11, 3) else []  # Pillow's wheels read it since
PILLOW_13 = int(PIL.__version__.partition(".")[0]) >= 13
ROOT = Path(__file__).parents[3]
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


def ifd(tags: dict[int, tuple[int, list]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of one strip, by hand: tag to (type, values). Without data it is a block of EXIF."""
    letters = {1: "B", 2: "B", 3: "H", 4: "I", 5: "2I", 6: "b", 7: "B", 11: "f", 12: "d"}
    held = {tag: (kind, len(values), values) for tag, (kind, values) in tags.items()}
    if data:
        held |= {273: (4, 1, [0]), 279: (4, 1, [len(data)])}

    def packed(kind, values):
        flat = [part for value in values for part in (value if kind == 5 else [value])]
        return struct.pack(order + letters[kind][-1] * len(flat), *flat)

    end = 14 + 12 * len(held)
    long = {tag: packed(kind, values) for tag, (kind, _, values) in held.items() if len(packed(kind, values)) > 4}
    places, place = {}, end
    for tag, value in sorted(long.items()):
        places[tag], place = place, place + len(value)
    if data:
        held[273] = (4, 1, [place])
    entries = b"".join(
        struct.pack(order + "HHI", tag, kind, count)
        + (struct.pack(order + "I", places[tag]) if tag in long else packed(kind, values).ljust(4, b"\0"))
        for tag, (kind, count, values) in sorted(held.items())
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(held))
    return start + entries + bytes(4) + b"".join(long[tag] for tag in sorted(long)) + data


def tiff(values: np.ndarray, bits: int, photometric: int = 1, order: str = "<", **tags: int) -> bytes:
    """Values (H, W) as they are; ``format_`` is unsigned, signed or floating: 1, 2, 3."""
    shape = {256: (3, [values.shape[1]]), 257: (3, [values.shape[0]]), 278: (3, [values.shape[0]])}
    what = {258: (3, [bits]), 262: (3, [photometric]), 277: (3, [1]), 339: (3, [tags.get("format_", 1)])}
    if "planar" in tags:
        what[284] = (3, [tags["planar"]])
    return ifd(shape | what, values.astype(values.dtype.newbyteorder(order)).tobytes(), order)


def bmp(bits: int, masks: tuple[int, ...] = (), height: int = 23, os2: bool = False) -> bytes:
    """37 pixels wide, of noise; masks make it BITFIELDS."""
    data = RNG.bytes((37 * bits + 31) // 32 * 4 * abs(height))
    header = (
        struct.pack("<IHHHH", 12, 37, height, 1, bits)
        if os2
        else struct.pack("<IiiHHIIiiII", 40, 37, height, 1, bits, 3 * bool(masks), len(data), 0, 0, 0, 0)
    )
    palette = RNG.bytes((3 if os2 else 4) << bits) if bits <= 8 else b""
    before = header + struct.pack(f"<{len(masks)}I", *masks) + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(before) + len(data), 0, 0, 14 + len(before)) + before + data


def chunked(data: bytes, kind: bytes, content: bytes, last: bool) -> bytes:
    """A PNG with one more chunk, behind its header or behind its pixels."""
    place = len(data) - 12 if last else 33
    return data[:place] + chunk(kind, content) + data[place:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
UPLOADS |= {
    "png-animated-hidden-still": encoded(
        RGB, "PNG", save_all=True, default_image=True, append_images=[RGB.rotate(180), RGB]
    ),
    "png-animated-hidden-still-alpha": encoded(
        with_alpha(RGB), "PNG", save_all=True, default_image=True, append_images=[with_alpha(GREY).convert("RGBA")]
    ),
    "bmp-555": bmp(16),
    "bmp-555-downwards": bmp(16, height=-23),
    "bmp-555-fields": bmp(16, (0x7C00, 0x3E0, 0x1F)),
    "bmp-565": bmp(16, (0xF800, 0x7E0, 0x1F)),
    "bmp-32": bmp(32),
    "bmp-32-high": bmp(32, (0xFF000000, 0xFF0000, 0xFF00)),
    "bmp-os2": bmp(24, os2=True),
    "bmp-os2-palette": bmp(4, os2=True),
    "tiff-white-is-0": tiff(PIXELS[:, :, 0], 8, photometric=0),
    "tiff-lab": encoded(RGB.convert("LAB"), "TIFF"),
    **({"tiff-ycbcr": encoded(RGB.convert("YCbCr"), "TIFF")} if PILLOW_13 else {}),  # older ones cannot read it
    "tiff-jpeg": encoded(RGB, "TIFF", compression="jpeg"),
    "tiff-xmp": encoded(RGB, "TIFF", tiffinfo={700: b'<x tiff:Orientation="6"/>'}),
}
ORIENTATION = 0x0112
ORIENTATIONS = {  # of EXIF's types: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, FLOAT, DOUBLE
    "byte": (1, [6]),
    "text": (2, [ord("6"), 0]),
    "short": (3, [6]),
    "long": (4, [6]),
    "rational": (5, [(6, 1)]),
    "rational-of-0": (5, [(6, 0)]),
    "signed": (6, [6]),
    "undefined": (7, [6]),
    "float": (11, [6.0]),
    "double": (12, [6.0]),
    "two": (3, [6, 1]),
    "three": (3, [6, 3, 1]),
    "none": (3, []),
    "zero": (3, [0]),
    "nine": (3, [9]),
}
XMPS = {
    "attribute": b'<rdf:Description tiff:Orientation="6"/>',
    "element": b"<tiff:Orientation>8</tiff:Orientation>",
    "bent": b"<tiff:Orientation>",
}


def tagged() -> dict[str, bytes]:
    found = {}
    for name, (kind, values) in ORIENTATIONS.items():
        for order in "<>":
            block = ifd({ORIENTATION: (kind, values)}, order=order)
            for format_ in ("JPEG", "PNG", "WEBP"):
                found[f"{format_}-{name}{order}"] = encoded(RGB, format_, exif=b"Exif\0\0" + block)
            found[f"PNG-{name}{order}-last"] = chunked(UPLOADS["png"], b"eXIf", block, last=True)
            shape = {256: (3, [37]), 257: (3, [23]), 258: (3, [8]), 262: (3, [1]), 278: (3, [23])}
            grey = PIXELS[:, :, 0].tobytes()
            found[f"TIFF-{name}{order}"] = ifd({**shape, ORIENTATION: (kind, values)}, grey, order)
    for name, text in XMPS.items():
        for format_ in ("JPEG", "WEBP"):
            found[f"{format_}-xmp-{name}"] = encoded(RGB, format_, xmp=text)
        content = b"XML:com.adobe.xmp" + bytes(5) + text
        for last in (False, True):
            found[f"PNG-xmp-{name}-{last}"] = chunked(UPLOADS["png"], b"iTXt", content, last)
    profile = b"Exif\0\0" + ifd({ORIENTATION: (3, [6])})
    lines = f"\nexif\n{len(profile):8}\n{profile.hex()}\n".encode()
    found["PNG-raw-profile"] = chunked(
        UPLOADS["png"], b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines), False
    )
    return found


TAGGED = tagged()
TURNED = {
    f"{kind}-{orientation}": encoded(RGB, kind, exif=oriented(orientation))
    for kind in ["JPEG", "PNG", "WEBP", "TIFF", *AVIF]
    for orientation in range(1, 9)
}
if AVIF:
    UPLOADS |= {
        "avif": encoded(RGB, "AVIF"),
        "avif-4:4:4": encoded(RGB, "AVIF", subsampling="4:4:4", quality=100),
        "avif-grey": encoded(GREY, "AVIF"),
        "avif-alpha": encoded(with_alpha(RGB), "AVIF"),
        "avif-animated": encoded(RGB, "AVIF", save_all=True, append_images=[RGB.rotate(180)]),
    }
ONE_PIXEL = {f"{kind}-1x1": encoded(RGB.crop((0, 0, 1, 1)), kind) for kind in decoding.FORMATS}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # Pillow's own conversion
@pytest.mark.parametrize("name", [*UPLOADS, *TURNED, *TAGGED, *ONE_PIXEL])
def test_pixels_are_pillows(name):
    data = (UPLOADS | TURNED | TAGGED | ONE_PIXEL)[name]
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = decode(data)
    assert (found.dtype, found.shape) == (np.uint8, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_the_orientations_differ():
    assert len({decode(TURNED[f"PNG-{orientation}"]).tobytes() for orientation in range(1, 9)}) == 8


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_turns_the_picture_whatever_whole_number_it_is_written_as(format_):
    for order in "<>":
        shapes = [decode(TAGGED[f"{format_}-{name}{order}"]).shape for name in ("short", "long", "rational", "nine")]
        assert shapes == [(37, 23, 3)] * 3 + [(23, 37, 3)]


@pytest.mark.filterwarnings("ignore")  # Pillow's, about bent metadata
@pytest.mark.parametrize("block", [b"Exif\0\0junk that is none", b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff\xff\xff"])
@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_metadata_that_cannot_be_read_leave_the_picture_as_it_is(format_, block):
    np.testing.assert_array_equal(decode(encoded(RGB, format_, lossless=True, exif=block)), PIXELS)


def test_a_text_that_pillow_takes_for_xmp_leaves_the_picture_as_it_is():
    np.testing.assert_array_equal(decode(chunked(UPLOADS["png"], b"tEXt", b"xmp\0hello", last=False)), PIXELS)


DEEP = RNG.integers(0, 1 << 16, (23, 37), np.uint16)


def twelve_bits(values: np.ndarray) -> bytes:
    """Two values in three bytes; (H, W) with an even W."""
    left, right = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=2).astype(np.uint8)
    shape = {256: (3, [values.shape[1]]), 257: (3, [values.shape[0]]), 278: (3, [values.shape[0]])}
    return ifd(shape | {258: (3, [12]), 262: (3, [1]), 277: (3, [1])}, packed.tobytes())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(DEEP, 16), DEEP >> 8),
        (tiff(DEEP, 16, order=">"), DEEP >> 8),
        (tiff(DEEP, 16, photometric=0), 255 - (DEEP >> 8)),
        (encoded(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"), DEEP >> 8),
        (encoded(Image.fromarray(DEEP), "TIFF", tiffinfo={274: 6}), np.rot90(DEEP >> 8, -1)),
        (encoded(Image.fromarray(DEEP), "PNG"), DEEP >> 8),
        (encoded(Image.fromarray(DEEP), "PNG", exif=oriented(8)), np.rot90(DEEP >> 8)),
        (twelve_bits(DEEP[:, :36] >> 4), DEEP[:, :36] >> 8),
    ],
    ids=["tiff", "big-endian", "white-is-0", "lzw", "turned", "png", "png-turned", "12-bit"],
)
def test_of_values_of_more_than_8_bits_the_highest_8_are_taken(data, expected):
    np.testing.assert_array_equal(decode(data), np.stack([expected] * 3, axis=2))


@pytest.mark.skipif(not PILLOW_13, reason="older ones cannot read it")
def test_premultiplied_grey_is_divided_by_its_alpha():
    grey, alpha = np.full((23, 36), 50, np.uint8), np.full((23, 36), 100, np.uint8)
    shape = {256: (3, [36]), 257: (3, [23]), 278: (3, [23]), 277: (3, [2]), 338: (3, [1])}
    data = ifd(shape | {258: (3, [8, 8]), 262: (3, [1])}, np.stack([grey, alpha], axis=2).tobytes())
    assert np.unique(decode(data)).tolist() == [50 * 255 // 100]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("type_", "format_"),
    [("i1", 2), ("i2", 2), ("u4", 1), ("i4", 2), ("u8", 1), ("f2", 3), ("f4", 3), ("f8", 3)],
)
def test_values_without_a_range_are_refused_by_what_is_valid(type_, format_, photometric, order):
    values = (RNG.random((23, 37)) * 100).astype(type_)
    with pytest.raises(NotAnImage, match="whole numbers without a sign, of at most 16 bits"):
        decode(tiff(values, 8 * values.itemsize, photometric, order, format_=format_))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_what_has_no_range_is_refused_before_it_is_decoded(mode, no_decoding):
    data = encoded(Image.new(mode, (37, 23), 100), "TIFF", compression="tiff_lzw")
    with pytest.raises(NotAnImage, match=r"a sign, with a fraction or of 32 bits"):
        decode(data)


@pytest.mark.parametrize(("bits", "photometric"), [(8, 0), (16, 1), (16, 0)])
def test_uncompressed_planes_that_pillow_takes_for_others_are_refused(bits, photometric):
    values = DEEP if bits == 16 else PIXELS[:, :, 0]
    assert decode(tiff(values, bits, photometric, planar=1)).shape == (23, 37, 3)
    with pytest.raises(NotAnImage, match="uncompressed planes"):
        decode(tiff(values, bits, photometric, planar=2))


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # torchvision's, of its decode_image
def test_16_bit_grey_is_scaled_to_8_bits_as_torchvision_reads_it():
    torch, reader = pytest.importorskip("torch"), pytest.importorskip("torchvision.io")
    data = deep_png((23, 37))
    deep = reader.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), reader.ImageReadMode.UNCHANGED)
    assert deep.dtype == torch.uint16
    found = decode(data).astype(float)
    assert found.std() > 50
    for channel in range(3):
        assert np.abs(found[:, :, channel] - deep[0].to(torch.float64).numpy() / 257).max() <= 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "there are no bytes, valid are JPEG"),
        (b"a plain text", r"the first bytes are 61 20 70 6c 61 69 6e 20 \(a plain \), valid are JPEG, PNG"),
        (b"<svg/>\n\xff", r"3c 73 76 67 2f 3e 0a ff \(<svg/>\.\.\)"),
        (b"%PDF-1.7", "25 50 44 46"),
        (b"P6 1 1 255 abc", "50 36"),  # Pillow could, FORMATS says no
        (bytes(100), "00 00 00 00"),
        (RNG.bytes(5000), "the first bytes are"),
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


KINDS = ["PNG", "JPEG", "JPEG-CMYK", "WEBP", "BMP"]


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_000, 6_000), (12_000, 8_000), (16_000, 15_000)], ids=["60MP", "96MP", "240MP"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(kind, size):
    with pytest.raises(TooLarge, match="pixels.* 50000000"):
        decode(header_only(kind, *size))


@pytest.mark.parametrize("name", ["png", "webp-lossless", "bmp", "tiff-lzw", "png-animated"])
def test_a_picture_within_max_pixels_is_decoded_also_where_pillow_would_call_it_a_bomb(name, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # below half of the picture's pixels
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(UPLOADS[name]))
    np.testing.assert_array_equal(decode(UPLOADS[name], max_pixels=23 * 37), PIXELS)
    assert Image.MAX_IMAGE_PIXELS == 100


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


READ = ", ".join(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", *AVIF])
VALUES = "whole numbers without a sign, of at most 16 bits, as values"
WIDE = encoded(Image.new("L", (70_000, 1)), "PNG")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (
            b"\x1f \x7e\x7f",
            NotAnImage,
            f"not a picture that can be read: the first bytes are 1f 20 7e 7f (. ~.), valid are {READ} with {VALUES}",
        ),
        (
            b"123456789",
            NotAnImage,
            "not a picture that can be read: the first bytes are 31 32 33 34 35 36 37 38 (12345678), "
            f"valid are {READ} with {VALUES}",
        ),
        (WIDE, TooLarge, "the picture is 70000x1, valid are sides of at most 65535 pixels"),
        (
            encoded(Image.new("L", (500, 300)), "PNG"),
            TooLarge,
            "the picture has 500x300 = 150000 pixels, valid are at most 100000",
        ),
        (
            encoded(Image.new("L", (500, 401)), "PNG"),
            TooLarge,
            "the picture has more than 200000 pixels, valid are at most 100000",
        ),
        (
            tiff(np.ones((23, 37), np.float32), 32, format_=3),
            NotAnImage,
            "the TIFF picture has values with a sign, with a fraction or of 32 bits, and nothing says which are black "
            f"and which are white; valid are {VALUES}",
        ),
        (
            tiff(PIXELS[:, :, 0], 8, 0, planar=2),
            NotAnImage,
            "the TIFF picture has uncompressed planes that are not of 8 bits; valid are compressed planes and channels "
            "side by side",
        ),
        (
            UPLOADS["png"][:-100],
            BadRequest,
            "the PNG picture is truncated or corrupt and cannot be decoded",
        ),
        (
            b"BM" + bytes(12) + b"\x63" + bytes(99),
            BadRequest,
            "the picture's header is truncated or corrupt, or of a kind that cannot be read",
        ),
    ],
    ids=["bytes", "8 bytes", "side", "pixels", "bomb", "values", "planes", "truncated", "header"],
)
def test_a_refusal_says_what_is_valid(data, kind, said):
    with pytest.raises(kind) as refused:
        decode(data, max_pixels=100_000)
    assert type(refused.value) is kind
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("brand", "needed"),
    [
        (b"avif", "AVIF needs Pillow 11.3 or newer"),
        (b"heic", "HEIF needs the package pillow-heif"),
        (b"mif1", "HEIF needs the package pillow-heif"),
        (b"mp42", "the first bytes are 00 00 00 18 66 74 79 70 (....ftyp)"),
    ],
)
def test_a_format_whose_decoder_is_not_there_is_told_with_what_has_it(monkeypatch, brand, needed):
    absent = {kind: (False, *rest) for kind, (_, *rest) in decoding.OPTIONAL.items()}
    monkeypatch.setattr(decoding, "OPTIONAL", absent)
    monkeypatch.setattr(decoding, "FORMATS", ("PNG",))
    with pytest.raises(NotAnImage) as refused:
        decode(b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic")
    assert str(refused.value) == f"not a picture that can be read: {needed}, valid are PNG with {VALUES}"


@pytest.mark.parametrize("size", [(65_536, 1), (1, 65_536)])
def test_a_side_that_no_camera_makes_is_refused_by_the_header(monkeypatch, size):
    longest = encoded(Image.new("L", tuple(side - (side > 1) for side in size), 7), "PNG")
    assert np.unique(decode(longest)).tolist() == [7]
    larger = encoded(Image.new("L", size), "PNG")
    monkeypatch.setattr(Image.Image, "load", None)
    with pytest.raises(TooLarge, match=f"{size[0]}x{size[1]}, valid are sides of at most 65535"):
        decode(larger)


def test_a_server_is_quiet_about_bad_files_and_nothing_else():
    before = cv2.utils.logging.getLogLevel()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            quieten()
            Image.open(io.BytesIO(header_only("PNG", 12_000, 8_000)))  # above Pillow's own limit
            with pytest.raises(UserWarning, match="other"):
                warnings.warn("other", UserWarning, stacklevel=1)
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    finally:
        cv2.utils.logging.setLogLevel(before)


def test_a_programs_own_limits_of_pillow_and_cv2_stay_as_they_are():
    code = (
        "import warnings, cv2; from PIL import Image\n"
        "def state(): return Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel(), list(warnings.filters)\n"
        "before = state()\n"
        "from handler.picture.decode import decode\n"
        f"decode(open({str(ROOT / 'examples/shapes/one.jpg')!r}, 'rb').read())\n"
        "sys.exit(before != state())"
    )
    assert subprocess.run([sys.executable, "-c", f"import sys\n{code}"], cwd=ROOT, check=False).returncode == 0
