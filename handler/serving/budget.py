"""Limits what one request may cost, before anything is computed."""

from collections.abc import Sequence

from handler.errors import TooLarge
from handler.explanation.maps import MAP_KINDS
from handler.rendering.canvas import Canvas

_BYTES_PER_NUMBER = {"npy": 16 / 3, "list": 8.0}  # of the encoded text; lists mostly have more
_MOST_PIXELS = 16_000_000  # of all pictures of an answer
MOST_EXPLANATIONS = 40  # in all: of a large network, more would outlast responseTimeout, which kills the worker
_ADVICE = (
    "ask for fewer targets or maps, fewer pictures in one request, a smaller size (layer, input) "
    "or another encoding (png)"
)


class Budget:
    """Adds up the cost of a request's pictures and refuses the request above its limits."""

    def __init__(self, max_upload_pixels: int, max_answer_bytes: int) -> None:
        self._max_upload_pixels = max_upload_pixels
        self._max_answer_bytes = max_answer_bytes
        self._decoded = 0  # pixels
        self._drawn = 0  # pixels
        self._listed = 0.0  # bytes
        self._explained = 0

    def decode(self, height: int, width: int) -> None:
        """Counts a picture that was decoded: many small uploads may not hold more pixels than a large one.

        Raises:
            TooLarge: more than one request may have.
        """
        self._decoded += height * width
        if self._decoded > self._max_upload_pixels:
            raise TooLarge(
                f"the request's pictures have {self._decoded} pixels together, valid are at most "
                f"{self._max_upload_pixels}; send them in several requests"
            )

    def draw(self, canvas: Canvas, maps: Sequence[str], targets: int) -> None:
        """Counts what a picture's maps add to the answer, so that a request is refused before anything is computed.

        Args:
            canvas: what would be drawn on.
            maps: the maps of each target.
            targets: how many.

        Raises:
            TooLarge: the message names what would be smaller.
        """
        self._explained += targets if maps else 0
        if self._explained > MOST_EXPLANATIONS:
            raise TooLarge(
                f"the request asks for {self._explained} explanations or more, valid are at most {MOST_EXPLANATIONS} "
                "in all; send its pictures in several requests"
            )
        height, width = (canvas.seen.picture if canvas.upload is None else canvas.upload).shape[:2]
        drawn = [name for name in maps if MAP_KINDS[name].channels > 1 or canvas.options.size != "layer"]
        if canvas.options.encoding == "png":
            self._drawn += height * width * len(drawn) * targets
        else:
            numbers = height * width * sum(MAP_KINDS[name].channels for name in drawn) * targets
            self._listed += numbers * _BYTES_PER_NUMBER[canvas.options.encoding]
        if self._drawn > _MOST_PIXELS:
            raise TooLarge(f"the pictures would have {self._drawn} pixels, valid are at most {_MOST_PIXELS}; {_ADVICE}")
        check_size(int(self._listed), self._max_answer_bytes)


def check_size(size: int, most: int) -> None:
    """Refuses an answer that TorchServe's frontend would kill the worker for.

    Raises:
        TooLarge: more than ``most`` bytes.
    """
    if size > most:
        raise TooLarge(f"the answer would take {size} bytes, valid are at most {most}; {_ADVICE}")
