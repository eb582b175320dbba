"""What the network's answers say of a map: deletion and insertion curves, against random orders of the same grain.

The protocol is RISE's (Petsiuk et al. 2018, arXiv 1806.07421, ``evaluation.py``), which leaves the order of equal
pixels open: pixels go in the map's order, brightest first; the probability is that of one class, by the network's head;
deletion leaves zeros of the normalised space, insertion begins with a blurred picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import Engine, EngineTarget, Evidence, Floats, Indices, Needs, probabilities
from handler.explanation.maps import Map, check_evidence, check_scores, needs_of, resize

Maps = Mapping[str, Map]
SHARES = (0.0, 0.1, 0.25, 0.45, 0.7, 1.0)  # of the pixels, in each picture of a curve: curves bend early
# two curves in the map's order and in two random orders, without their ends; emptied, blurred, kept; with noise
PASSES = 3 * 2 * (len(SHARES) - 2) + 3 + 1


@dataclass(frozen=True, kw_only=True)
class Trust:
    """What the network's answers say of one map. Where there is nothing to test, all numbers are None."""

    value: float | None = None  # -1 to 1: how far both AUCs are ahead of random orders, on average; 0: no better
    sentence: str
    deletion_auc: float | None = None  # 0 to 1, lower is better
    insertion_auc: float | None = None  # 0 to 1, higher is better
    random: Mapping[str, float] | None = None  # both AUCs of random orders
    kept_fifth_probability: float | None = None  # of the picture with the map's top fifth alone, zeros elsewhere
    stability: float | None = None  # -1 to 1: correlation with the noisy picture's map; None also for many-pass maps
    passes: int = 0  # further forward passes; that of ``stability`` has a backward pass, too


def pixel_order(values: Floats, ties: Indices | None = None) -> Indices:
    """The flat indices (H * W,) of a map's pixels (H, W), brightest first, equal ones as in ``ties``, or by rows."""
    flat = values.ravel()
    return np.argsort(-flat, kind="stable") if ties is None else ties[np.argsort(-flat[ties], kind="stable")]


def brightest(order: Indices, steps: int | Sequence[float], size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which pixels of an order (H * W,) come first: (steps + 1, H, W), in row k a share k / steps, or ``steps[k]``."""
    shares = np.linspace(0, 1, steps + 1) if isinstance(steps, int) else np.array(steps)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    return rank.reshape(1, *size) < np.rint(shares * order.size)[:, None, None]


def deletion(tensor: Floats, order: Indices, steps: int | Sequence[float]) -> Floats:
    """The pictures (steps + 1, C, H, W) from the network's input (C, H, W) to zeros; RISE has a step per 224 pixels."""
    return tensor * ~brightest(order, steps, tensor.shape[1:])[:, None]


def insertion(tensor: Floats, order: Indices, steps: int | Sequence[float]) -> Floats:
    """As ``deletion``, from the blurred picture to the whole one: the brightest pixels are sharp first."""
    return np.where(brightest(order, steps, tensor.shape[1:])[:, None], tensor, blurred(tensor))


def blurred(tensor: Floats) -> Floats:
    """A picture (C, H, W) blurred by 11 pixels of a Gaussian of deviation 5, without its tails; zeros lie beyond."""
    return np.stack([cv2.GaussianBlur(channel, (11, 11), 5.0, borderType=cv2.BORDER_CONSTANT) for channel in tensor])


def auc(probabilities: Floats, shares: Sequence[float] | None = None) -> Floats:
    """The mean (…) of curves (…, steps + 1) by the trapezoid rule, as RISE's, which has equal steps (None)."""
    widths = np.diff(np.linspace(0, 1, probabilities.shape[-1]) if shares is None else shares)
    return np.asarray((probabilities[..., 1:] + probabilities[..., :-1]) / 2 @ widths)


def random_orders(cells: tuple[int, ...], size: tuple[int, ...], seed: int) -> tuple[Indices, Indices]:
    """Two random orders (H * W,): of a map uniform on [0, 1) in cells (h, w), upsampled to (H, W) as a map is.

    Networks answer to holes at single random pixels as to noise. The second order is the first one backwards, so that,
    for linear answers and equal steps, their mean AUC is exactly the mean of the whole and the empty picture.
    """
    forwards = pixel_order(resize(np.random.default_rng(seed).random(cells, np.float32), *size))
    return forwards, forwards[::-1]


@dataclass(frozen=True, kw_only=True)
class Question:
    """What maps were made of."""

    tensor: Floats  # (C, H, W), the network's input
    target: EngineTarget
    weights: Floats  # (K,) class weights of the probabilities that decide: 1 for the target alone
    measure: str  # their weighted sum in words: "the probability of heart"
    method: str  # that made the map at a layer, a name out of METHODS
    head: str = "softmax"  # what makes probabilities of logits
    remake: Callable[[Evidence, int, Sequence[str]], Maps] | None  # of other evidence; None: that takes many passes


def examine(engine: Engine, evidence: Evidence, pair: int, maps: Maps, question: Question, seed: int) -> Trust:
    """Tests one map of a pair in at most ``PASSES`` passes: gradcam, or the first where gradcam was not made.

    At a pixel with three values, as of saliency, the largest absolute value counts (Simonyan et al., arXiv 1312.6034).
    """
    tensor, remake = question.tensor, question.remake
    name, size = min(maps, key=lambda made: made != "gradcam"), tensor.shape[1:]
    values = _plane(maps[name], size)
    if maps[name].degenerate or np.ptp(values) == 0:
        why = "without evidence" if maps[name].degenerate else "the same everywhere"
        return Trust(sentence=f"The map is {why}, so that there is nothing to test.")

    def chances(pictures: Floats) -> Floats:
        logits = engine.run(pictures, [()] * len(pictures), Needs()).logits
        check_scores(logits)
        return probabilities(logits, question.head) @ question.weights

    def curves(order: Indices) -> Floats:
        inner = [pictures(tensor, order, SHARES[1:-1]) for pictures in (deletion, insertion)]
        deleted, inserted = np.split(chances(np.concatenate(inner)), 2)
        return np.array([[whole, *deleted, empty], [blurry, *inserted, whole]])

    forwards, backwards = random_orders(maps[name].cells or size, size, seed)
    order = pixel_order(values, forwards)
    whole = probabilities(evidence.logits[evidence.rows[pair]], question.head) @ question.weights
    ends = [np.zeros_like(tensor), blurred(tensor), tensor * brightest(order, (0.2,), size)[0]]
    empty, blurry, kept_fifth = chances(np.stack(ends)).tolist()
    found = auc(curves(order), SHARES).tolist()
    by_chance = auc(np.stack([curves(forwards), curves(backwards)]), SHARES).mean(axis=0).tolist()
    stability = None
    if remake:
        noise = np.random.default_rng((seed, 1)).standard_normal(tensor.shape, np.float32)
        inputs = tensor + np.float32(0.02) * np.ptp(tensor) * noise  # 5 of 255 grey levels
        needs = needs_of([name], list(evidence.layers), question.method)
        changed = engine.run(inputs[None], [[question.target]], needs)
        check_evidence(changed, 0)
        again = _plane(remake(changed, 0, [name])[name], size)
        stability = float(np.corrcoef(values.ravel(), again.ravel())[0, 1]) if np.ptp(again) else 0.0
    value = (by_chance[0] - found[0] + found[1] - by_chance[1]) / 2
    return Trust(
        value=value,
        sentence=_sentence(question.measure, value, found, by_chance),
        deletion_auc=found[0],
        insertion_auc=found[1],
        random=dict(zip(("deletion_auc", "insertion_auc"), by_chance, strict=True)),
        kept_fifth_probability=kept_fifth,
        stability=stability,
        passes=PASSES if remake else PASSES - 1,
    )


def _plane(made: Map, size: tuple[int, ...]) -> Floats:
    values = made.values if made.values.ndim == 2 else np.abs(made.values).max(axis=2)
    return values if values.shape == size else resize(values, *size)


def _sentence(measure: str, value: float, found: Sequence[float], by_chance: Sequence[float]) -> str:
    lead = "level with" if abs(value) < 0.005 else f"{abs(value):.2f} {'ahead of' if value > 0 else 'behind'}"
    return (
        f"Removing the map's brightest pixels first, {measure} is {found[0]:.2f} on average (deletion AUC; random "
        f"orders {by_chance[0]:.2f}), showing them first, it is {found[1]:.2f} (insertion AUC; random orders "
        f"{by_chance[1]:.2f}): the map is {lead} chance."
    )
