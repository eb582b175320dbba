"""An engine and a model for tests of batches: no server, exact in any batch, failing on demand."""

import base64

import numpy as np

from handler.errors import Unprocessable
from handler.explanation.class_weights import Pairs
from handler.explanation.evidence import Evidence, LayerEvidence
from handler.picture.preprocess import Preprocessing
from handler.protocol.model_card import ModelCard
from handler.protocol.options import Options
from handler.protocol.row import Row
from handler.rendering.render import encode_png
from handler.serving.answering import Answering
from handler.serving.explainer import Explainer
from handler.serving.settings import Settings

SIDE = 8
CARD = ModelCard(
    name="m",
    version="1.0",
    architecture="tiny",
    labels=["dark", "light"],
    preprocessing=Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0, 0, 0), std=(1, 1, 1)),
    default_layer="c",
    layers={"c": (1, 2, 2)},
)


def answering(engine, settings=None, card=CARD):
    return Answering(Explainer(engine, card), settings or Settings(defaults=Options(maps=("gradcam",))))


def rows_of(fields, said=None):
    """Rows with these fields, and what else is said of each of them."""
    return [Row(fields=one, **more) for one, more in zip(fields, said or [{}] * len(fields), strict=True)]


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
        pairs = Pairs.of(targets, 2)
        rows, classes = pairs.rows, pairs.classes(logits[pairs.rows])
        cell = np.ones((len(rows), 1, 2, 2), np.float32) * classes[:, None, None, None]
        return Evidence(
            logits=logits,
            input_size=(SIDE, SIDE),
            rows=rows,
            classes=classes,
            layers={layer: LayerEvidence(cell, cell) for layer in needs.layers},
        )


def picture(value):
    return encode_png(np.full((SIDE, SIDE, 3), value, np.uint8))


def text_of(value):
    return base64.b64encode(picture(value)).decode()
