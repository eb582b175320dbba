"""An engine and a model for tests of batches: no server, no torch, exact in any batch, failing on demand."""

import base64

import numpy as np

from handler.errors import Unprocessable
from handler.explanation.evidence import Evidence, LayerEvidence, resolve_pairs
from handler.picture.preprocess import Preprocessing
from handler.protocol.model_card import ModelCard
from handler.rendering.render import encode_png

SIDE = 8
CARD = ModelCard(
    "m", "1.0", "tiny", ["dark", "light"], Preprocessing(SIDE, SIDE, (0, 0, 0), (1, 1, 1)), "c", {"c": (1, 2, 2)}
)


class BrightnessEngine:
    """Scores a picture by its brightness; fails on pictures that are all white."""

    name = "test"

    def __init__(self):
        self.batches = []  # pictures of each pass
        self.targets = []  # of each pass, of each of its pictures

    def run(self, inputs, targets, needs):
        self.batches.append(len(inputs))
        self.targets.append([list(its) for its in targets])
        if (inputs.reshape(len(inputs), -1).min(axis=1) == 1).any():
            raise RuntimeError("too bright: secret detail")
        if (inputs.reshape(len(inputs), -1).max(axis=1) == 0).any():
            raise Unprocessable("too dark")
        light = inputs.mean(axis=(1, 2, 3))
        logits = np.stack([1 - light, light], axis=1)
        rows, classes = resolve_pairs(targets, logits)
        cell = np.ones((len(rows), 1, 2, 2), np.float32) * classes[:, None, None, None]
        return Evidence(
            logits, (SIDE, SIDE), rows, classes, {layer: LayerEvidence(cell, cell) for layer in needs.layers}
        )


def picture(value):
    return encode_png(np.full((SIDE, SIDE, 3), value, np.uint8))


def text_of(value):
    return base64.b64encode(picture(value)).decode()
