"""Image classifiers of Hugging Face's transformers: ``hf/FOLDER`` or ``hf/ID``, read by the library's own loaders.

No code of a repository runs. A checkpoint keeps the configuration in its options, so that a server builds the network
without the folder. What the image processor does to a picture is measured, because it is code of each model's own.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from handler.errors import ModelError, in_one_line
from handler.explanation.evidence import Floats
from handler.model.checkpoint import Checkpoint
from handler.model.registry import ASSUMED
from handler.picture.preprocess import Preprocessing, preprocess

_EQUAL = 1e-6  # the most difference of normalised values
_ONE_LEVEL = 1.0  # the most difference of grey levels, by which backends of the library round differently


@contextmanager
def _guarded(architecture: str) -> Iterator[str]:
    """Gives the folder or the id; raises ModelError for whatever the library raises inside the block."""
    try:
        yield architecture.partition("/")[2]
    except ModelError:
        raise
    except Exception as error:  # of the network, of files and of their content
        raise ModelError(
            f"{architecture} could not be loaded ({in_one_line(error)}); valid is an image classifier: a folder that "
            "save_pretrained wrote, or an id of the hub, which is downloaded or lies in the cache at HF_HOME"
        ) from error


def declare(architecture: str) -> Checkpoint:
    """What the configuration and the image processor say, without the weights."""
    from transformers import AutoConfig, AutoImageProcessor

    with _guarded(architecture) as place:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        name = Path(place).resolve().name if Path(place).is_dir() else place
        known = json.loads(config.to_json_string(use_diff=False))
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        try:
            processor = AutoImageProcessor.from_pretrained(place, backend="pil", trust_remote_code=False)
        except (OSError, ValueError):  # there is none
            how, flipped, beside = None, False, ""
        else:
            how, flipped, beside = _measured(processor)
    for part in ("_name_or_path", "id2label", "label2id"):
        known.pop(part, None)
    told = f"as {name}'s image processor has it{beside}"
    return Checkpoint(
        architecture=f"hf/{name}",
        labels=labels,
        preprocessing=how,
        state={},
        options={"config": known, "flipped": flipped},
        origins={"labels": f"as {name}'s configuration has them", "preprocessing": f"{told}: {ASSUMED}"},
    )


def find(architecture: str, weights: str | None) -> Checkpoint:
    """The checkpoint of a folder or an id; the ModelError says what is missing."""
    from transformers import AutoModelForImageClassification

    if weights not in (None, "DEFAULT"):
        raise ModelError(f"weights {weights!r} are torchvision's; {architecture} has its own, valid is weights=DEFAULT")
    found = declare(architecture)
    with _guarded(architecture) as place:
        module, report = AutoModelForImageClassification.from_pretrained(
            place, output_loading_info=True, trust_remote_code=False
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{architecture} has no weights for {', '.join(missing[:3])}: it is no trained classifier")
    told = {part: origin.removesuffix(f": {ASSUMED}") for part, origin in found.origins.items()}
    return replace(found, state=module.state_dict(), origins=told)


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network of a complete checkpoint, from the configuration in its options; its logits are its scores."""
    from transformers import AutoConfig, AutoModelForImageClassification

    with _guarded(str(checkpoint.architecture)):
        config = AutoConfig.for_model(**checkpoint.options["config"])
        config.num_labels = len(checkpoint.labels or [])
        module: nn.Module = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    if checkpoint.options.get("flipped"):
        module.register_forward_pre_hook(lambda _, pictures: (pictures[0].flip(1), *pictures[1:]))
    module.register_forward_hook(lambda _module, _pictures, output: output.logits)
    return module


def _measured(processor: Any) -> tuple[Preprocessing | None, bool, str]:
    """Finds the preprocessing that equals a processor.

    Returns:
        The preprocessing, or None if none comes within a grey level; whether the processor returns blue first; and what
        is to be said of the rest.
    """

    def run(picture: Any) -> Floats:
        found = processor(images=Image.fromarray(picture.astype(np.uint8)), return_tensors="np")["pixel_values"][0]
        return np.asarray(found, np.float32)

    black, white = (run(np.full((64, 128, 3), level)) for level in (0, 255))
    height, width = black.shape[1:]
    low, high = (found[:, height // 2, width // 2].astype(np.float64) for found in (black, white))
    mean, std = (tuple(np.round(values, 7).tolist()) for values in (-low / (high - low), 1 / (high - low)))
    known = {"mean": mean, "std": std, "interpolation": Image.Resampling(processor.resample).name.lower()}
    picture = np.kron(np.random.default_rng(0).integers(0, 256, (16, 32, 3)), np.ones((16, 16, 1)))
    wanted, best = run(picture), (np.inf, False, False, None)
    for mode, margin in product(("squash", "center"), range(max(height, width) // 2)):
        sizes = {"resize_size": (height + margin, width + margin), "crop_size": (height, width)}
        how = Preprocessing(**sizes, **known, crop_mode=mode)
        found = preprocess(picture.astype(np.uint8), how).tensor
        for flipped, down, right in product((False, True), (0, 1), (0, 1)):
            theirs = (wanted[::-1] if flipped else wanted)[:, down:, right:]
            off = float(np.abs(theirs - found[:, : height - down, : width - right]).max())
            best = min(best, (off, down + right > 0, flipped, how), key=lambda one: one[:2])
    off, _, flipped, how = best
    levels = 255 * off * min(std)
    if levels > _ONE_LEVEL:
        return None, False, ""
    beside = "" if off <= _EQUAL else f", whose own pictures differ by up to {levels:.1f} grey levels"
    if how is not None and (how.crop_mode == "center" or (how.resized[0] - height) % 2):
        beside += "; its crops of an odd margin lie one pixel further up or left"
    return how, flipped, beside
