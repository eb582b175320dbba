"""Lays out a sheet: captioned panels on white, with colour bars, in letters that can be read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handler.protocol.options import COLORMAPS

Picture = npt.NDArray[np.uint8]  # (H, W, 3) RGB
_NARROWEST = 192  # pixels of a panel
_MARGIN = 8  # pixels around panels
_GREY = 90  # of letters that are less important
_FINE = 4  # letters are drawn so many times as large, because small ones begin at whole pixels and run together
_pillow = lru_cache(64)(ImageFont.load_default)  # its font of a size


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture on a sheet, with the texts around the picture."""

    picture: Picture
    title: str
    note: str = ""  # below the title
    ends: tuple[str, str] = ("", "")  # below the picture, on the left and on the right
    colormap: str = ""  # of the colour bar between both ends, a name out of ``COLORMAPS``; empty: there is no bar
    stamp: str = ""  # across the picture


def sheet(rows: Sequence[tuple[Callable[[Callable[[str], bool]], str], Sequence[Panel]]]) -> Picture:
    """Lays out rows of panels; a row's heading is given what says whether a text fits into the row.

    All pictures have the same size, all rows the same length. Narrow pictures are enlarged by a whole factor.
    """
    across = rows[0][1][0].picture.shape[1]
    factor = -(-_NARROWEST // across)
    size = max(15, factor * across // 20)  # pixels of letters
    head, drawn = size * 5 // 4, list[Picture]()
    for heading, panels in rows:
        body = np.hstack([_panel(panel, factor, size) for panel in panels])
        room = body.shape[1] - _MARGIN
        said = heading(lambda text, room=room: _extent(text, head * _FINE) <= room * _FINE)  # type: ignore[misc]
        drawn += [_framed(write(said, head, room), top=_MARGIN), body]
    return _framed(np.vstack(drawn), left=0, right=_MARGIN)


def write(text: str, size: int, width: int, *, align: float = 0, ink: int = 0) -> Picture:
    """A line of text on white, (``size`` · 8 / 5, ``width``, 3), in smaller letters where it would be wider.

    ``size`` is the letters' in pixels, ``align`` 0 for a text on the left, 1 for one on the right, ``ink`` a grey.
    """
    text, room = _drawable(text), width * _FINE
    fitting = next((fine for fine in range(size * _FINE, _FINE, -1) if _extent(text, fine) <= room), _FINE)
    line = np.full((size * 8 // 5 * _FINE, room + fitting, 3), 255, np.uint8)  # at its edge a text would be wrapped
    left, base, colour = int(align * (room - _extent(text, fitting))), size * _FINE * 8 // 7, (ink, ink, ink)
    if font := _font():
        cv2.putText(line, text, (left, base), colour, font, fitting)
    else:
        draw = ImageDraw.Draw(image := Image.fromarray(line))
        for place, letter in enumerate(text):
            draw.text((left + _extent(text[:place], fitting), base), letter, colour, _pillow(fitting), anchor="ls")
        line = np.array(image)
    return np.asarray(cv2.resize(line[:, :room], (width, size * 8 // 5), interpolation=cv2.INTER_AREA), np.uint8)


def coloured(values: npt.NDArray[np.float32], colormap: str) -> Picture:
    """The colours (H, W, 3) of values (H, W) on [0, 1]."""
    heat = cv2.applyColorMap(np.uint8(255 * values), COLORMAPS[colormap])  # type: ignore[call-overload]
    return np.asarray(cv2.cvtColor(heat, cv2.COLOR_BGR2RGB), np.uint8)


def _panel(panel: Panel, factor: int, size: int) -> Picture:
    picture = panel.picture.repeat(factor, axis=0).repeat(factor, axis=1)
    (height, width), small = picture.shape[:2], size * 7 // 8
    if panel.stamp:
        _paste(picture, write(panel.stamp, size, width, align=0.5)[:height], 0)
    left, right = (write(text, small, width, align=end, ink=_GREY) for end, text in enumerate(panel.ends))
    foot = np.minimum(left, right)
    if panel.colormap:
        begin, end = (int(_extent(text, small * _FINE) / _FINE) + _MARGIN for text in panel.ends)
        values = np.linspace(0, 1, max(1, width - begin - end), dtype=np.float32)[None]
        _paste(foot, coloured(values, panel.colormap).repeat(small * 3 // 4, axis=0), begin)
    title, note = write(panel.title, size, width), write(panel.note, small, width, ink=_GREY)
    return _framed(np.vstack([title, note, picture, foot]))


def _framed(picture: Picture, *, top: int = 0, left: int = _MARGIN, right: int = 0) -> Picture:
    return np.pad(picture, ((top, 0), (left, right), (0, 0)), constant_values=255)


def _paste(picture: Picture, part: Picture, left: int) -> None:
    top = (len(picture) - len(part)) // 2
    picture[top : top + len(part), left : left + part.shape[1]] = part


def _drawable(text: str) -> str:
    """A text without line breaks, and with escapes for what is not ASCII where Pillow's own letters are drawn."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if _font() else line.encode("ascii", "backslashreplace").decode()


def _extent(text: str, size: int) -> float:
    """Pixels that a text is wide; between Pillow's letters, which would touch, there is a sixteenth of their size."""
    if font := _font():
        return float(cv2.getTextSize((0, 0), _drawable(text), (0, 0), font, size)[2])
    return float(_pillow(size).getlength(text := _drawable(text)) + len(text) * size / 16)


@cache
def _font() -> Any:
    """OpenCV 5's own font of nearly all scripts; None for older versions, which have none."""
    return cv2.FontFace("uni") if hasattr(cv2, "FontFace") else None
