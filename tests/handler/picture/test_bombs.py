import random
import re
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.reliability.fuzz.bombs import jpeg_of_scans, png_chunk, tiff_of_sides
from benchmarks.reliability.fuzz.corpus import SEEDS
from benchmarks.reliability.fuzz.pictures import bent_picture
from handler.errors import BadRequest, TooLarge
from handler.picture.bombs import MOST_SCANS, count_scans
from handler.picture.decode import decode
from tests.support.serving import ONE, ROOT, encoded

PNG, GIF, TIFF = (SEEDS[name] for name in ("PNG-plain", "GIF-plain", "TIFF-plain"))


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("length", [2**31 + 71, 2**32 - 1, 400])
def test_a_png_chunk_longer_than_the_file_is_refused(length):
    """cv2 would set aside, and fill with zeros, as many bytes."""
    start = PNG.index(b"IDAT") - 4
    assert length > len(PNG) - start
    tracemalloc.start()
    with pytest.raises(BadRequest, match="PNG picture is truncated"):
        decode(PNG[:start] + length.to_bytes(4, "big") + PNG[start + 4 :])
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_png_whose_checksum_is_not_its_pixels_is_refused():
    """Pillow alone would decode what was damaged on the way."""
    place = PNG.index(b"IEND") - 5
    with pytest.raises(BadRequest, match="PNG picture is truncated or corrupt"):
        decode(PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :])


@pytest.mark.parametrize("profile", [b"\0\0\1\0" + b"\0" * 300, b""])
def test_the_name_of_a_colour_profile_does_not_reach_the_log(tmp_path, profile):
    """TorchServe would take such a line for a metric."""
    named = png_chunk(b"iCCP", b"x\n[METRICS]evil_7f3a.ms:9|#Level:M\n\0\0" + zlib.compress(profile))
    (tmp_path / "named.png").write_bytes(PNG[:33] + named + PNG[33:])
    read = f"open({str(tmp_path / 'named.png')!r}, 'rb').read()"
    code = f"from handler.picture.decode import decode; print(decode({read}).sum())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "evil_7f3a" not in done.stdout + done.stderr
    assert int(done.stdout) == decode(PNG).sum()


def test_png_chunks_end_with_the_last_one():
    expected = decode(PNG)
    for data in (PNG + b"\xff" * 99, PNG[:-4]):  # the second without its last checksum
        np.testing.assert_array_equal(decode(data), expected)
    with pytest.raises(BadRequest, match="truncated"):
        decode(PNG[:-5])


@pytest.mark.usefixtures("no_decoding")
def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_refused():
    with pytest.raises(TooLarge, match="more than 100 scans, valid are at most 100"):
        decode(jpeg_of_scans(64, MOST_SCANS - 5))  # and six of its own
    assert count_scans(jpeg_of_scans(64, MOST_SCANS - 6)) == MOST_SCANS
    with pytest.raises(TooLarge, match="more than 100 scans"):
        decode(jpeg_of_scans(64, MOST_SCANS))


def test_scans_are_counted_up_to_the_end_of_the_picture():
    progressive = encoded(Image.open(ONE), "JPEG", progressive=True)
    assert count_scans(ONE.read_bytes()) == 1
    assert count_scans(progressive) == 10
    assert count_scans(progressive + b"\xff\xda" * 5000) == 10  # what cameras append: a film, another picture
    with_thumbnail = progressive[:2] + b"\xff\xe1\x0f\x02" + b"\xff\xda" * 1920 + progressive[2:]
    assert count_scans(with_thumbnail) == 10
    assert count_scans(SEEDS["JPEG-restarts"]) == 1
    assert count_scans(jpeg_of_scans(64, 90)) == 96
    assert decode(jpeg_of_scans(64, 90)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("data", "scans"),
    [
        (b"", 0),
        (b"\xff\xd8", 0),
        (b"\xff\xd8\xff", 0),
        (b"\xff\xd8\xff\xda", 1),
        (b"\xff\xd8\xff\xe0\0\0\xff", 0),
        (b"\xff\xd8\xff\xda\0\2\xff\xda\xff\xff\0", 2),  # of which the last has no end
    ],
)
def test_counting_ends_where_the_file_does(data, scans):
    assert count_scans(data) == scans


@pytest.mark.usefixtures("no_decoding")
def test_a_tiff_tile_larger_than_any_picture_is_refused():
    """libtiff unpacks it whole: 162 bytes took 2 GB."""
    with pytest.raises(TooLarge, match=f"tiles have {30_000 // 16 * 16 * 8000} pixels, valid are at most 50000000"):
        decode(tiff_of_sides(30_000, 8_000, tiled=True))


@pytest.mark.usefixtures("no_decoding")
def test_a_gif_frame_larger_than_its_screen_is_refused_as_it_is_opened():
    """Pillow sets aside a frame that is to be cleared afterwards, be it 38845x25180."""
    frame = GIF.rindex(b"\x2c\0\0\0\0")
    control = b"\x21\xf9\x04\x08\0\0\0\0"  # clear it
    large = GIF[:frame] + control + GIF[frame : frame + 5] + b"\xff\xff\xff\xff" + GIF[frame + 9 :]
    with pytest.raises(TooLarge, match="valid are at most 50000000"):
        decode(large)


def test_no_hostile_picture_takes_more_memory_than_the_largest_valid_one():
    """In a process of its own, whose peak tells."""
    script = (
        "import random, resource, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from benchmarks.reliability.fuzz.bombs import bomb, real_png\n"
        "from benchmarks.reliability.fuzz.pictures import bent_picture\n"
        "from handler.picture.decode import decode\n"
        "from handler.errors import RequestError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "decode(real_png(7000, 7000))\n"
        "largest = peak()\n"
        "for make, count in ((bomb, 150), (bent_picture, 1500)):\n"
        "    for number in range(count):\n"
        "        name, data = make(random.Random(number))\n"
        "        try:\n"
        "            decode(data)\n"
        "        except RequestError:\n"
        "            pass\n"
        "print(largest, peak())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    largest, peak = map(int, re.findall(r"\d+", done.stdout))
    assert peak < largest + 150, "megabytes"


@pytest.mark.filterwarnings("ignore")  # Pillow's, about bent metadata
@pytest.mark.parametrize("name", sorted(SEEDS.keys() - {"TIFF-float"}))  # which is refused for its values
def test_what_follows_a_picture_changes_none_of_its_pixels(name):
    data = SEEDS[name]
    expected = decode(data)
    assert expected.std() > 1
    for seed in range(3):
        np.testing.assert_array_equal(decode(data + bent_picture(random.Random(seed))[1]), expected)
