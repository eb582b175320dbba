"""Two engines: which of them answers, and whether they agree: ONNX Runtime, CPU or file can have changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handler.explanation.evidence import BEHIND, TOP, Engine, Evidence, Floats, Needs, Targets
from handler.explanation.maps import needs_of
from handler.explanation.methods import ATTENTION_METHODS
from handler.graphs.description import KIND_ATTENTION, KIND_BEHIND, KIND_LAYERS, KINDS
from handler.graphs.onnx_engine import OnnxEngine
from handler.picture.preprocess import Preprocessing

TOLERANCE = 1e-4  # of the largest value: several times the difference of float32 sums in another order
# Where a ReLU's input is within rounding of zero, the gate can open in one engine alone, which changes a few pixels
# much, in an early layer, or all pixels a little, in a late one. With other weights, most pixels would differ much.
GATE_TOLERANCE = 0.02  # of the largest value
GATE_SHARE = 0.01  # share of the pixels that may differ by more


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine that answers, chosen once at start-up."""

    engine: Engine
    configured: str  # the setting explain.engine
    graphs: Mapping[str, str] = field(default_factory=dict)  # kinds of the graphs in use, to the file's SHA-256
    reason: str | None = None  # why "auto" uses no graphs; None if it uses them
    use_threads: Callable[[int], None] = lambda _: None  # gives the graphs another number of threads
    disagreements: Sequence[str] = ()  # a line for each output in which the graphs differ from PyTorch

    def to_dict(self) -> dict[str, Any]:
        """The choice in the model's description and in the answer to a readiness probe."""
        return {"configured": self.configured, "graphs": list(self.graphs), "reason": self.reason}


class EitherEngine:
    """Leaves each pass to one of two engines; the evidence names which ran."""

    def __init__(self, name: str, first: Engine, other: Engine, takes: Callable[[Needs], bool]) -> None:
        """``takes`` is asked before each pass whether the first engine runs it, by the evidence that is needed."""
        self.name = name
        self._first, self._other, self._takes = first, other, takes

    def run(self, inputs: Floats, targets: Targets, needs: Needs) -> Evidence:
        """See ``Engine.run``."""
        return self._engine_for(needs).run(inputs, targets, needs)

    def behind(self, inputs: Floats, layer: str, activations: Floats) -> Floats:
        """See ``Engine.behind``."""
        return self._engine_for(Needs(layers=(layer,), beside=BEHIND)).behind(inputs, layer, activations)

    def _engine_for(self, needs: Needs) -> Engine:
        return self._first if self._takes(needs) else self._other


def disagreements(graphs: OnnxEngine, hooks: Engine, preprocessing: Preprocessing) -> list[str]:
    """A line for each output in which a graph and hooks differ on the fixed picture, for the top class or class 0."""
    picture, targets = fixed_picture(preprocessing)[None].repeat(2, axis=0), [[TOP], [0]]
    layers = {KIND_LAYERS: graphs.layers}
    held = {kind: needs_of(KINDS[kind].maps, layers.get(kind, graphs.layers[:1])) for kind in graphs.files}
    maps = [name for kind in held for name in KINDS[kind].maps]
    reference = hooks.run(picture, targets, needs_of(maps, graphs.layers))
    found = [(kind, graphs.run(picture, targets, needs), reference) for kind, needs in held.items()]
    for needs in [Needs(attention=name) for name in ATTENTION_METHODS if KIND_ATTENTION in held]:
        found.append((KIND_ATTENTION, graphs.run(picture, targets, needs), hooks.run(picture, targets, needs)))
    lines = [f"{kind} graph: {line}" for kind, *both in found for line in _differing(*both)]
    if KIND_BEHIND in held:
        layer = graphs.layers[0]
        activation = hooks.run(picture, targets, Needs(layers=(layer,))).layers[layer].activation
        changed = activation * np.arange(2, dtype=np.float32)[:, None, None, None]  # none, and all
        logits, expected = (engine.behind(picture[:1], layer, changed) for engine in (graphs, hooks))
        lines += [f"{KIND_BEHIND} graph: {line}" for line in _beyond("logits", logits, expected)]
    return lines


def fixed_picture(how: Preprocessing) -> Floats:
    """A normalised picture (C, H, W) of waves: several lengths and directions, another mixture per channel."""
    height, width = how.size
    y, x = np.mgrid[:height, :width] / np.reshape(how.size, (2, 1, 1))
    three = [(3, 2, 5), (1, 7, 3), (11, 4, 2)]  # per channel: down, right, diagonally
    waves = [(three[k % 3][0] + k // 3, *three[k % 3][1:]) for k in range(how.channels)]
    channels = [np.sin(6 * a * y) + np.sin(6 * b * x) * np.cos(6 * c * (x + y)) for a, b, c in waves]
    return how.normalise((255 * (np.stack(channels, axis=2) + 2) / 4).astype(np.uint8))


def _differing(found: Evidence, reference: Evidence) -> Iterator[str]:
    yield from _beyond("logits", found.logits, reference.logits)
    if not np.array_equal(found.classes, reference.classes):
        yield f"the top class is {found.classes[0]}, not {reference.classes[0]}"
    for path, layer in found.layers.items():
        yield from _beyond(f"activation at {path}", layer.activation, reference.layers[path].activation)
        yield from _beyond(f"gradient at {path}", layer.gradient, reference.layers[path].gradient)
    if found.guided is not None and found.coverage != reference.coverage:
        yield f"guided are {found.coverage or 'unknown activations'}, not {reference.coverage}"
    gated = (GATE_TOLERANCE, GATE_SHARE) if reference.coverage else ()  # a network without a ReLU has no gates
    for part, name in (("guided", "guided gradient"), ("attention", "maps of attention"), ("saliency", "saliency")):
        if (values := getattr(found, part)) is not None:
            yield from _beyond(name, values, getattr(reference, part), *(gated if part != "attention" else ()))


def _beyond(name: str, found: Floats, reference: Floats, tolerance: float = TOLERANCE, share: float = 0) -> list[str]:
    """A line if more than ``share`` of the values differ by more than ``tolerance`` of the largest value."""
    if found.shape != reference.shape:
        return [f"{name} has shape {found.shape}, not {reference.shape}"]
    largest = float(np.abs(reference).max())
    error = np.abs(found.astype(np.float64) - reference)
    beyond = 1 - float((error <= tolerance * largest).mean())  # NaN is beyond
    if beyond <= share:
        return []
    how_many = f"{beyond:.2%} of the values differ by more than {tolerance:.0e} of that, allowed are {share:.2%}"
    return [f"{name} differs by up to {float(error.max()):.2e} where values reach {largest:.2e}; {how_many}"]
