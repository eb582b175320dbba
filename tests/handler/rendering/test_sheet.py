"""A sheet's letters, colour bars and places, read off its pixels."""

import cv2
import numpy as np
import pytest

from handler.rendering import sheet as rendering
from handler.rendering.sheet import Panel, sheet, write

needs_font = pytest.mark.skipif(not hasattr(cv2, "FontFace"), reason="OpenCV before 5 has no font of its own")
SIZE, SMALL, HEAD = 15, 13, 18  # pixels of the letters of titles, of notes and ends, and of headings
ABOVE = 8 + HEAD * 8 // 5 + SIZE * 8 // 5 + SMALL * 8 // 5  # pixels above a panel's picture
BELOW = SMALL * 8 // 5
PICTURES = np.random.default_rng(0).integers(0, 256, (4, 20, 200, 3), np.uint8)


def heading(text):
    return lambda fits: text


def of(*panels, head=""):
    """A sheet with one row."""
    return sheet([(heading(head), panels)])


def panel(picture=PICTURES[0], **said):
    return Panel(**{"picture": picture, "title": "", **said})


def ink(picture):
    """The rows and the columns that are not white."""
    return tuple(np.flatnonzero((picture < 255).any(axis=axes)) for axes in ((1, 2), (0, 2)))


def test_rows_of_panels_are_laid_out_on_white():
    rows = [
        (heading("first"), [panel(PICTURES[0], title="one"), panel(PICTURES[1], title="two", note="what")]),
        (heading(""), [panel(PICTURES[2], title="drei: für 🦊"), panel(PICTURES[3], ends=("", "9"))]),
    ]
    laid = sheet(rows)
    height = ABOVE + 20 + BELOW
    assert laid.shape == (2 * height, 3 * 8 + 2 * 200, 3)
    expected = np.full_like(laid, 255)
    for index, (top, left) in enumerate([(0, 8), (0, 216), (height, 8), (height, 216)]):
        expected[top + ABOVE : top + ABOVE + 20, left : left + 200] = PICTURES[index]
    for text, size, row, left in [
        ("first", HEAD, 8, 8),
        ("one", SIZE, 36, 8),
        ("two", SIZE, 36, 216),
        ("drei: für 🦊", SIZE, height + 36, 8),
    ]:
        expected[row : row + size * 8 // 5, left : left + 200] = write(text, size, 200)
    expected[60 : 60 + BELOW, 216:416] = write("what", SMALL, 200, ink=90)
    expected[-BELOW:, 216:416] = write("9", SMALL, 200, align=1, ink=90)
    np.testing.assert_array_equal(laid, expected)


@pytest.mark.parametrize(("width", "factor"), [(1, 192), (32, 6), (96, 2), (191, 2), (192, 1), (224, 1), (640, 1)])
def test_narrow_pictures_are_enlarged_by_a_whole_factor_and_letters_grow_with_wide_ones(width, factor):
    picture = np.random.default_rng(0).integers(0, 200, (3, width, 3), np.uint8)
    laid = of(panel(picture))
    assert laid.shape[1] == factor * width + 16
    rows, columns = ink(laid)
    letters = max(15, factor * width // 20)
    above = 8 + sum(size * 8 // 5 for size in (letters * 5 // 4, letters, letters * 7 // 8))
    assert (rows.min(), columns.min(), columns.max()) == (above, 8, 7 + factor * width)
    shown = laid[rows.min() : rows.max() + 1, 8:-8]
    np.testing.assert_array_equal(shown[::factor, ::factor], picture)
    np.testing.assert_array_equal(shown[factor - 1 :: factor, factor - 1 :: factor], picture)


@pytest.mark.parametrize("colormap", ["jet", "viridis", "inferno"])
def test_a_colour_bar_has_the_colours_of_the_map_from_0_to_1(colormap):
    foot = of(panel(ends=("0", "0.483"), colormap=colormap))[-BELOW:, 8:-8]
    bare = of(panel(ends=("0", "0.483")))[-BELOW:, 8:-8]
    changed = (foot != bare).any(axis=2)
    top, left, bottom, right = (edge(axis) for edge in (np.min, np.max) for axis in np.nonzero(changed))
    bar = foot[top : bottom + 1, left : right + 1]
    assert (bar == bar[:1]).all()
    values = np.uint8(255 * np.linspace(0, 1, right - left + 1, dtype=np.float32))
    known = cv2.applyColorMap(values[None], getattr(cv2, f"COLORMAP_{colormap.upper()}"))
    np.testing.assert_array_equal(bar[:1], known[..., ::-1])
    assert len(bar) > 6
    assert bar.shape[1] > 100
    for beside, end in ((bare[:, :left], "0"), (bare[:, right + 1 :], "0.483")):
        assert ink(beside)[1].size, f"{end} stands beside the bar"
    assert not ink(bare[:, left : right + 1])[1].size, "no letter lies under the bar"


@pytest.mark.parametrize("ends", [("7.04e-05", "1.23e+03"), ("-123456 to 123456", "-123456789 to 123456789 " * 3)])
def test_long_numbers_leave_their_place_to_no_bar(ends):
    assert of(panel(ends=ends, colormap="jet")).shape == of(panel()).shape


def test_a_stamp_lies_across_the_middle_of_a_picture_alone():
    picture = np.full((60, 200, 3), 77, np.uint8)
    stamped, plain = (of(panel(picture, stamp=stamp)) for stamp in ("no evidence at this layer", ""))
    rows = np.flatnonzero((stamped != plain).any(axis=(1, 2)))
    assert (rows.min(), rows.max() + 1) == (ABOVE + 18, ABOVE + 18 + SIZE * 8 // 5)
    np.testing.assert_array_equal(
        stamped[rows.min() : rows.max() + 1, 8:-8], write("no evidence at this layer", SIZE, 200, align=0.5)
    )
    of(panel(np.full((3, 200, 3), 77, np.uint8), stamp="no evidence"))  # lower than its letters
    assert (picture == 77).all()


def test_a_heading_is_asked_for_until_it_fits_its_row():
    asked = []

    def longest(fits):
        asked.extend((length, fits("m" * length)) for length in range(1, 60))
        return "m" * max(length for length, does in asked if does)

    columns = ink(sheet([(longest, [panel(), panel()])])[:ABOVE])[1]
    assert columns.max() < 8 + 2 * 200 + 8
    assert columns.max() > 8 + 2 * 200 + 8 - 30
    assert 10 < sum(does for _, does in asked) < 50


@needs_font
@pytest.mark.parametrize("text", ["gjpqy|ÅÉÑ", "Ậ Ỗ ẫ", "العربية إ", "猫 고양이"])
@pytest.mark.parametrize("size", [10, 13, 15, 40])
def test_no_letter_is_cut(text, size):
    line = write(text, size, 40 * size)
    roomy = np.full((8 * size, 160 * size, 3), 255, np.uint8)
    cv2.putText(roomy, text, (0, 5 * size), (0, 0, 0), cv2.FontFace("uni"), 4 * size)
    drawn, whole = ((255.0 - picture).sum() for picture in (line, roomy))
    assert drawn == pytest.approx(whole / 16, rel=0.02)
    assert ink(line)[1].max() < 38 * size


@pytest.mark.parametrize("align", [0, 0.5, 1])
@pytest.mark.parametrize("text", ["a title that is much too long for it", "-123456789 to 123456789 to 1"])
def test_a_long_text_is_shrunk_to_its_place(text, align):
    line, roomy = write(text, 15, 60, align=align), write(text, 15, 600)
    rows, columns = ink(line)
    assert line.shape == (24, 60, 3)
    assert columns.max() - columns.min() > 50
    assert np.ptp(rows) < np.ptp(ink(roomy)[0])
    assert 0 < 60 - columns.max() < 9


def test_a_text_begins_on_the_left_or_ends_on_the_right():
    left, middle, right = (ink(write("0.483", 15, 100, align=align))[1] for align in (0, 0.5, 1))
    assert left.min() <= 2
    assert right.max() >= 97
    assert abs(middle.min() + middle.max() - 99) <= 3


@pytest.mark.parametrize("size", [SMALL, SIZE, HEAD])
@pytest.mark.parametrize("older", [False, True], ids=["this cv2", "an older cv2"])
def test_letters_do_not_run_together(monkeypatch, older, size):
    """Between two letters of the number there is a column that is white, or nearly."""
    if older:
        monkeypatch.setattr(rendering, "_font", lambda: None)
    line = write("0.00", size, 100)
    dark = (line.min(axis=(0, 2)) < 200).astype(int)
    assert (np.diff(dark, prepend=0) == 1).sum() == 4


@pytest.mark.parametrize("label", ["кошка", "猫", "고양이", "γάτα", "חתול", "žluťoučký", "ねこ"])
def test_labels_of_any_script_are_drawn_as_they_are(label):
    drawn, unknown, turned = (write(text, 15, 200) for text in (label, "?" * len(label), label[::-1]))
    assert (drawn != unknown).any()
    assert (drawn != turned).any() or len(label) == 1


def test_an_older_cv2_draws_escapes_and_never_question_marks(monkeypatch):
    monkeypatch.setattr(rendering, "_font", lambda: None)
    np.testing.assert_array_equal(write("ёж 0.75", 15, 200), write(r"\u0451\u0436 0.75", 15, 200))
    assert (write("ёж 0.75", 15, 200) != write("?? 0.75", 15, 200)).any()
    rows, columns = ink(write("gjpqy| 0.00 " * 9, 15, 200))
    assert 0 < rows.min() < rows.max() < 23
    assert 150 < columns.max() < 200


def test_line_breaks_are_drawn_as_blanks():
    np.testing.assert_array_equal(write("a\nb\tc", 15, 200), write("a b c", 15, 200))


@needs_font
def test_this_cv2_has_a_font_of_its_own():
    assert hasattr(cv2, "FontFace")
