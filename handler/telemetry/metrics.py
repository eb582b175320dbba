"""Counters, histograms and a gauge, which a front hands to its server.

Label values come from fixed sets, so that no client can add series, or lines to TorchServe's metrics protocol.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from handler.explanation.methods import METHODS
from handler.protocol.answer import GRADIENT_ALONE, NONE, OUTCOMES, STAGES, Answer

ENGINE_DISAGREEMENTS = "explainer_engine_disagreements_total"  # outputs on which the engines disagreed at start-up
REQUESTS = "explainer_requests_total"
MAPS = "explainer_maps_total"
DEGENERATE = "explainer_degenerate_maps_total"
REQUEST_SECONDS = "explainer_request_seconds"  # time in the handler of the request's whole batch
RESIDENT = "explainer_resident_bytes"  # of the worker that answered last
STAGE_SECONDS = {stage: f"explainer_{stage}_seconds" for stage in STAGES}
# the values that each label of a metric can have
LABELS = {"engine": ("onnx", "torch", NONE), "method": (*METHODS, GRADIENT_ALONE, NONE), "outcome": OUTCOMES}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of a metric: an increase of a counter, an entry of a histogram, or a gauge."""

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()  # in the order of LABELS
    kind: str = "counter"  # "counter", "histogram" or "gauge"

    @property
    def unit(self) -> str:
        """The unit that ``deploy/metrics.yaml`` declares for the metric."""
        return {"counter": "count", "histogram": "s", "gauge": "B"}[self.kind]


class Metrics:
    """Collects counts and measurements; ``take`` hands them out."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._measured: list[Sample] = []

    def count(self, name: str, amount: int = 1, labels: Mapping[str, str] = {}) -> None:
        """Increases a counter; 0 makes it known. A label's value that ``LABELS`` does not list becomes "other"."""
        self._counts[name, _in_order(labels)] += amount

    def measure(self, name: str, seconds: float, labels: Mapping[str, str]) -> None:
        """Adds a value, rounded to microseconds, to a histogram; name and labels are as ``count``'s."""
        self._measured.append(Sample(name=name, value=round(seconds, 6), labels=_in_order(labels), kind="histogram"))

    def take(self) -> list[Sample]:
        """Returns all samples since the last call."""
        counted = [Sample(name=name, value=count, labels=labels) for (name, labels), count in self._counts.items()]
        measured, self._measured = self._measured, []
        self._counts.clear()
        return counted + measured


def resident_memory() -> Sample:
    """The resident memory of this process in bytes."""
    import psutil  # not above: the extra "serve" brings it, and the counters of this module work without

    return Sample(name=RESIDENT, value=psutil.Process().memory_info().rss, kind="gauge")


def _in_order(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, labels[name] if labels[name] in LABELS[name] else "other") for name in LABELS if name in labels)


def record(metrics: Metrics, answer: Answer, seconds: float) -> None:
    """Counts and measures a request, answered ``seconds`` after the batch's arrival in the handler."""
    first = answer.observed[0].labels if answer.observed else {"engine": NONE, "method": NONE}
    outcome = {"outcome": answer.outcome}
    metrics.count(REQUESTS, 1, first | outcome)
    metrics.measure(REQUEST_SECONDS, seconds, first | outcome)
    for picture in answer.observed:
        for stage, milliseconds in picture.stages_ms.items():
            if milliseconds > 0:  # a graph that explains has no separate forward pass
                metrics.measure(STAGE_SECONDS[stage], milliseconds / 1e3, picture.labels | outcome)
        if picture.map_count:
            metrics.count(MAPS, picture.map_count, picture.labels)
            metrics.count(DEGENERATE, picture.degenerate, picture.labels)
