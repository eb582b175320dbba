"""How far a graph in other numbers agrees with the same network in float32, on pictures it was not calibrated by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.explanation.evidence import TOP, Floats, probabilities

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Arrays], Arrays]
MAPS = ("gradcam", "guided_backprop", "saliency")  # outputs that are maps


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The agreement over all pictures, each explained for float32's best class."""

    pictures: int
    same_top: float  # share of the pictures whose best class is the same
    most_difference: float  # of a probability
    mean_difference: float  # of the picture's most different probability
    rank_correlation: dict[str, tuple[float, float]]  # of each map, Spearman's: the mean, and the picture's with least

    @classmethod
    def of(cls, float32: Run, other: Run, pictures: Floats, head: str, classes: int) -> "Agreement":
        """Compares what two runs answer for pictures (N, C, H, W); runs without targets are of predictions."""
        same, differences, alike = [], [], dict[str, list[float]]()
        for picture in pictures[:, None]:
            inputs = {"input": picture, "target": np.array([TOP]), "weights": np.zeros((1, classes), np.float32)}
            expected = float32(inputs)
            best = expected["logits"].argmax(axis=1)
            found = other({**inputs, "target": best})
            same.append(bool(found["logits"].argmax(axis=1) == best))
            chances = [probabilities(one["logits"], head).astype(np.float64) for one in (found, expected)]
            differences.append(float(np.abs(chances[0] - chances[1]).max()))
            for name in {*MAPS} & {*expected}:
                alike.setdefault(name, []).append(rank_correlation(expected[name], found[name]))
        correlations = {name: (float(np.mean(each)), float(np.min(each))) for name, each in sorted(alike.items())}
        means = {"same_top": float(np.mean(same)), "mean_difference": float(np.mean(differences))}
        most = float(np.max(differences))
        return cls(pictures=len(pictures), most_difference=most, rank_correlation=correlations, **means)

    def suffices(self, needed: float) -> bool:
        """Whether both the share of equal best classes and the mean rank correlation of each map reach a threshold."""
        return all(value >= needed for value in (self.same_top, *(mean for mean, _ in self.rank_correlation.values())))

    def __str__(self) -> str:
        maps = (f", rank correlation of {name} {mean:.4f}, at least {least:.4f}" for name, (mean, least) in self._maps)
        differ = f"probabilities differ by {self.mean_difference:.4f} on average, at most {self.most_difference:.4f}"
        return f"best class the same for {self.same_top:.1%}, {differ}{''.join(maps)}"

    @property
    def _maps(self) -> Any:
        return self.rank_correlation.items()


def rank_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Spearman's correlation of two arrays of one shape: Pearson's of their ranks, equal values sharing a mean rank.

    Of values that are all the same it is 1 if the other's are, too, and 0 otherwise.
    """
    ranks = [_ranks(values.ravel()) for values in (one, other)]
    flat = [bool(np.ptp(each) == 0) for each in ranks]
    return float(all(flat)) if any(flat) else float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
