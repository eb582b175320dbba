"""Limits the cost of a request, before the engine runs."""

from collections.abc import Sequence

from handler.errors import TooLarge
from handler.explanation.maps import AUGMENTATIONS, MAP_KINDS
from handler.protocol.options import PICTURES
from handler.rendering.render import Canvas

_BYTES_PER_NUMBER = {"npy": 16 / 3, "list": 8.0, "tensor": 16 / 3}  # of encoded text; most lists take more
_LONGEST_SIDE = {"jpeg": 65_500, "webp": 16_383}  # pixels that the formats' encoders take
_MOST_PIXELS = 16_000_000  # of all pictures of an answer
MOST_EXPLANATIONS = 40  # per request: more, by a large network, would outlast responseTimeout, which kills the worker
_LESS = "ask for fewer targets or maps, fewer pictures at once, a smaller size (layer, input) or another encoding (png)"


class Budget:
    """Adds up the cost of a request's pictures, and refuses a request above the limits."""

    def __init__(self, max_upload_pixels: int, max_answer_bytes: int, max_passes: int = 1024) -> None:
        self._max_upload_pixels = max_upload_pixels  # of all decoded pictures together
        self._max_answer_bytes = max_answer_bytes
        self._max_passes = max_passes  # masked pictures, and tests of maps, that the network is asked about
        self._decoded = self._drawn = 0  # pixels
        self._listed = 0.0  # bytes
        self._explained = self._masked = 0

    def decode(self, height: int, width: int) -> None:
        """Counts a decoded picture's pixels, and raises TooLarge if the request's pictures together have too many."""
        self._decoded += height * width
        told = "the request's pictures have {} pixels together"
        check_size(self._decoded, self._max_upload_pixels, told, "; send them in several requests")

    def mask(self, passes: int) -> None:
        """Counts masked pictures, each of which takes a forward pass; raises TooLarge beyond the limit."""
        self._masked += passes
        less = "; ask for fewer passes, targets or layers, or for no trust"
        check_size(self._masked, self._max_passes, "the request asks for {} masked pictures or more", less)

    def draw(self, canvas: Canvas, maps: Sequence[str], targets: int, shown: int = 0) -> None:
        """Counts explanations, pixels or numbers of maps, and bytes shown beside; TooLarge says how to ask for less."""
        copies = 1 + len(AUGMENTATIONS) if "augment" in canvas.options.smooth else 1
        self._explained += targets * copies if maps else 0
        less = " in all, and smooth=augment makes six of each; send its pictures in several requests"
        check_size(self._explained, MOST_EXPLANATIONS, "the request asks for {} explanations or more", less)
        height, width = (canvas.seen.picture if canvas.upload is None else canvas.upload).shape[:2]
        drawn = [name for name in maps if MAP_KINDS[name].channels > 1 or canvas.options.size != "layer"]
        if canvas.options.encoding in PICTURES:
            side, form = max(height, width) if drawn else 0, canvas.options.encoding
            told = f"the {form} pictures would have sides of {{}} pixels"
            check_size(side, _LONGEST_SIDE.get(form, side), told, "; ask for png or for size=input")
            self._drawn += height * width * len(drawn) * targets
        else:
            channels = canvas.seen.picture.shape[2]
            numbers = height * width * sum(channels if MAP_KINDS[name].channels > 1 else 1 for name in drawn) * targets
            self._listed += numbers * _BYTES_PER_NUMBER[canvas.options.encoding] + shown
        check_size(self._drawn, _MOST_PIXELS, "the pictures would have {} pixels")
        check_size(int(self._listed), self._max_answer_bytes)


def check_size(size: int, most: int, told: str = "the answer would take {} bytes", less: str = f"; {_LESS}") -> None:
    """Raises TooLarge above ``most``, of bytes unless told otherwise: TorchServe kills a worker above its own limit."""
    if size > most:
        raise TooLarge(f"{told.format(size)}, valid are at most {most}{less}")
