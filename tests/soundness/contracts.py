"""What the product must keep to, one function each: it returns what is wrong, and figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from handler.explanation.evidence import Engine, Needs, softmax
from handler.graphs.onnx_engine import OnnxEngine
from tests.soundness.behind import maps_behind
from tests.soundness.layout import Layout
from tests.soundness.pictures import EDGES, followed, with_edges
from tests.soundness.place import find_place
from tests.soundness.product import Answer, answer, ask
from tests.soundness.rectifiers import nonlinear_nodes
from tests.soundness.reference import Reference

FLOORS = {"scores": 1e-4, "activation": 1e-4, "gradient": 1e-3, "pixels": 1e-2}  # relative RMS errors
TIMES_OWN = 4  # float32's own error, the worst of all pictures, times this is allowed, too
AT_MOST = 0.1  # whatever float32's own error is
STEPS = (1e-7, 1e-5, 1e-3, 1e-2)  # of central differences, as parts of what they move
DIRECTIONS = 2
NO_GRADIENT = 1e-9  # of the activation's norm, per unit of score


@dataclass
class Finding:
    """Of one contract."""

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One network, the product's answers to it and the references."""

    engine: Engine
    layer: str
    layout: Layout
    exact: Reference  # float64, where the network can
    own: Reference  # float32
    pictures: Tensor  # three of different content
    classes: int  # how many scores there are
    guided: bool

    def ask(self, rows: Sequence[int], engine: Engine | None = None) -> Answer:
        """The product's answer to a batch of some of the pictures."""
        batch, seconds = self.pictures[list(rows)], [self.second(row) for row in rows]
        return ask(answer, engine or self.engine, batch, self.layer, guided=self.guided, seconds=seconds)

    def second(self, number: int) -> int:
        """The class that is explained beside a picture's top one: another one for each picture."""
        return number % self.classes

    @cached_property
    def truths(self) -> list[dict[int, "Evidence"]]:
        """Of each picture, by class."""
        return [self._truths(self.exact, number) for number in range(len(self.pictures))]

    @cached_property
    def limits(self) -> dict[str, float]:
        """The largest relative RMS errors, by output."""
        limits = dict(FLOORS)
        for number, exact in enumerate(self.truths):
            its = self._truths(self.own, number, classes=list(exact))
            for target, found in its.items():
                for name, value in found.parts().items():
                    error = _error(value, exact[target].parts()[name])
                    limits[name] = min(max(limits[name], TIMES_OWN * error), AT_MOST)
        return limits

    def _truths(self, reference: Reference, number: int, classes: Sequence[int] | None = None) -> dict[int, "Evidence"]:
        picture = self.pictures[number][None]
        if classes is None:
            top = int(reference.scores(picture).argmax())
            classes = list(dict.fromkeys((top, self.second(number))))
        found = reference.truths(picture, classes)
        pixels = reference.guided(picture, classes)[0] if self.guided else [one.saliency for one in found]
        return {
            target: Evidence(one.scores, one.activation, one.gradient, seen)
            for target, one, seen in zip(classes, found, pixels, strict=True)
        }


@dataclass(frozen=True)
class Evidence:
    """Of one picture and class."""

    scores: Tensor
    activation: Tensor
    gradient: Tensor | None
    pixels: Tensor | None  # guided, or plain where guided is not offered

    def parts(self) -> dict[str, Tensor]:
        """What there is, by name, in float64."""
        return {name: value.double() for name, value in vars(self).items() if value is not None}


def _error(found: Tensor, expected: Tensor) -> float:
    """Relative RMS error; infinite where the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-30))


def _compare(case: Case, rows: Sequence[int], found: Answer) -> list[str]:
    """What is wrong with an answer to a batch, in sentences that name another picture's evidence as such."""
    wrong: dict[tuple[int, str], str] = {}  # one for each output of a row
    for place, (row, target) in enumerate(found.pairs):
        truths = case.truths[rows[row]]
        if target not in truths:
            wrong[row, "class"] = f"row {row} of {len(rows)} explains class {target}, not its top class"
            continue
        its = Evidence(found.scores[row], found.activation[place], found.gradient[place], found.pixels[place]).parts()
        for name, expected in truths[target].parts().items():
            error = _error(its[name], expected)
            if not error <= case.limits[name]:
                others = [one for one in range(len(case.pictures)) if one != rows[row]]
                owner = next((one for one in others if _is_of(case, one, target, name, its[name])), None)
                whose = "" if owner is None else f": it is picture {owner}'s"
                what = ("guided gradient" if case.guided else "saliency") if name == "pixels" else name
                wrong.setdefault((row, name), f"row {row} of {len(rows)}: {what} off by {error:.1g}{whose}")
    return list(wrong.values())


def _is_of(case: Case, number: int, target: int, name: str, value: Tensor) -> bool:
    theirs = case.truths[number].get(target)
    return theirs is not None and _error(value, theirs.parts()[name]) <= case.limits[name]


def evidence(case: Case) -> Finding:
    """Alone, every output equals the float64 reference."""
    wrong, coverages = [], set()
    for number in range(len(case.pictures)):
        found = case.ask([number])
        wrong += _compare(case, [number], found)
        coverages.add(found.coverage)
    return Finding(wrong, {"limits": {name: f"{limit:.0e}" for name, limit in case.limits.items()}})


def rows(case: Case) -> Finding:
    """In batches of 2 and 3 each row equals its picture's reference, whatever the others are; and references differ."""
    wrong = [said for batch in ([0, 1], [2, 1], [2, 0, 1]) for said in _compare(case, batch, case.ask(batch))]
    alike = []
    for one, other in combinations(case.truths, 2):
        first, second = next(iter(one.values())).parts(), next(iter(other.values())).parts()
        alike += [
            name for name in ("scores", "activation") if _error(first[name], second[name]) < 10 * case.limits[name]
        ]
    if alike:
        wrong.append(f"pictures of different content have the same {' and '.join(sorted(set(alike)))}")
    return Finding(wrong)


def differences(case: Case) -> Finding:
    """Central differences of the score agree with the gradients, at the cells and at the picture."""
    picture = case.pictures[:1]
    target, truth = next(iter(case.truths[0].items()))
    (exact,) = case.exact.truths(picture, [target])
    product = case.ask([0])
    gradients = {"picture": exact.saliency, "layer": truth.gradient}
    if gradients["layer"] is None:  # autograd reaches nothing: the product's own gradient is held to the differences
        gradients["layer"] = product.gradient[0]
    wrong, figures = [], {}
    random = torch.Generator().manual_seed(3)
    for where, gradient in gradients.items():
        if gradient is None:
            continue
        gaps = [_gap(case, picture, target, where, gradient, random) for _ in range(DIRECTIONS)]
        figures[where] = float(f"{max(gaps):.1g}")
        if not max(gaps) <= 1e-2:
            wrong.append(f"the gradient at the {where} is off central differences by {max(gaps):.1g} of its norm")
    return Finding(wrong, figures)


def _gap(case: Case, picture: Tensor, target: int, where: str, gradient: Tensor, random: torch.Generator) -> float:
    """|difference - <gradient, direction>| by the gradient's norm, at the best of the steps."""
    cells = case.truths[0][target].activation
    moved = picture if where == "picture" else cells
    direction = torch.randn(gradient.shape, generator=random, dtype=torch.float64)
    expected, norm = float((gradient.double() * direction).sum()), float(gradient.double().norm().clamp(min=1e-30))
    gaps = []
    for step in STEPS:
        size = step * float(moved.double().square().mean().sqrt().clamp(min=1e-12))
        up, down = (_moved_score(case, picture, target, where, sign * size * direction) for sign in (1, -1))
        gaps.append(abs((up - down) / (2 * size) - expected) / norm)
        if gaps[-1] <= 1e-4:
            break
    return min(gaps)


def _moved_score(case: Case, picture: Tensor, target: int, where: str, by: Tensor) -> float:
    by = by.to(case.exact.dtype)
    if where == "picture":
        return float(case.exact.scores(picture.to(case.exact.dtype) + by)[target])
    parts = iter(by.chunk(len(case.layout.counted)))
    return float(case.exact.scores(picture, lambda cells: cells + next(parts, 0))[target])


def place(case: Case) -> Finding:
    """Where an object is in the picture, there the cells change: upright, not mirrored, edge to edge."""
    changes, centres = followed(case.own.changes, case.pictures)
    found = find_place(changes, centres)
    base = case.pictures[:1]
    seen = case.own.changes(base, with_edges(base)).flatten(1).norm(dim=1)
    unseen = [edge for edge, change in zip(EDGES, seen.tolist(), strict=True) if not change > 0]
    return Finding(found.wrong + [f"the picture's {edge} edge changes no cell" for edge in unseen], found.figures)


def lively(case: Case) -> Finding:
    """The cells have a gradient."""
    target, truth = next(iter(case.truths[0].items()))
    gradient = case.ask([0]).gradient[0] if truth.gradient is None else truth.gradient
    activation = truth.activation.double().norm()
    share = float(gradient.double().norm() * activation / truth.scores.double().abs().max().clamp(min=1e-30))
    figures = {"gradient": float(f"{share:.1g}")}
    return Finding([] if share > NO_GRADIENT else ["the gradient at the layer is zero"], figures)


def guided(case: Case) -> Finding:
    """Coverage claims no more ReLUs than there are, and no fewer non-linearities."""
    picture, target = case.pictures[:1], next(iter(case.truths[0]))
    _, rectifiers = case.exact.guided(picture, [target])
    if not case.guided:
        return Finding([f"guided backprop is refused, {rectifiers} ReLUs are there"] if rectifiers else [])
    coverage = case.ask([0]).coverage
    claimed, of = (int(word) for word in (coverage or "").split() if word.isdigit())
    all_of_them = nonlinear_nodes(case.own.recorded_scores(picture))
    wrong = []
    if claimed != rectifiers:
        wrong.append(f"{claimed} ReLUs are called guided, {rectifiers} are there")
    if of < all_of_them:
        wrong.append(f"coverage is told of {of} activations, {all_of_them} are there")
    return Finding(wrong, {"coverage": coverage})


def last(case: Case) -> Finding:
    """The layer runs as often as the product says, nothing goes around its cells, and no map lies behind it.

    Around the last block's norm of a transformer with class tokens goes what those tokens have gathered before.
    """
    picture, target = case.pictures[:1], next(iter(case.truths[0]))
    if case.exact.runs != len(case.layout.runs):
        return Finding([f"the layer runs {case.exact.runs} times, {len(case.layout.runs)} of them are told"])
    if case.truths[0][target].gradient is None:
        return Finding()
    bypass = case.exact.bypass(picture, target)
    figures = {"bypass": float(f"{bypass:.1g}")}
    if case.exact.has_others:
        return Finding([], figures)
    wrong = [f"{bypass:.0%} of the gradient at the picture goes around the layer"] if bypass > 1e-6 else []
    return Finding(wrong + [f"a map lies behind the layer: {path}" for path in maps_behind(case.own, picture)], figures)


def scores(case: Case) -> Finding:
    """The scores are logits of a softmax: several, not probabilities already; the product's softmax adds up to 1."""
    found = torch.stack([next(iter(one.values())).scores.double() for one in case.truths])
    wrong = []
    if found.shape[1] == 1:
        wrong.append("one score: its softmax is always 1")
    elif bool(((found >= 0) & (found <= 1)).all()):
        wrong.append("the scores are probabilities already")
    elif float(found.logsumexp(1).abs().max()) < 1e-4:
        wrong.append("the scores are log-probabilities")
    if not bool(found.isfinite().all()):
        wrong.append("the scores are not finite")
    told = torch.from_numpy(softmax(found.float().numpy())).double()
    if _error(told, found.softmax(1)) > 1e-5:
        wrong.append("the probabilities are no softmax of the scores")
    return Finding(wrong)


CONTRACTS: dict[str, Callable[[Case], Finding]] = {
    one.__name__: one for one in (evidence, rows, scores, differences, place, lively, last, guided)
}


def graphs(case: Case, engine: OnnxEngine) -> Finding:
    """The ONNX graphs' answers equal the reference at batch 1, 2 and 3."""
    if not engine.covers(Needs(layers=(case.layer,), guided=case.guided, saliency=not case.guided)):
        return Finding()
    wrong = [said for batch in ([0], [2, 1], [2, 0, 1]) for said in _compare(case, batch, case.ask(batch, engine))]
    return Finding(wrong)
