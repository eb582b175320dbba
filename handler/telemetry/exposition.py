"""Metrics in Prometheus' format, under the names and labels by which TorchServe exposes them."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from handler.telemetry.metrics import Sample

_KINDS = {"counter": (Counter, "inc"), "histogram": (Histogram, "observe"), "gauge": (Gauge, "set")}


class Exposition:
    """The metrics of several models; ``registry`` is what prometheus_client serves."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Any] = {}

    def add(self, samples: Iterable[Sample], model: str) -> None:
        """Adds the samples of a model."""
        for sample in samples:
            labels = {**dict(sample.labels), "ModelName": model, "Level": "Model"}
            kind, change = _KINDS[sample.kind]
            if sample.name not in self._metrics:
                self._metrics[sample.name] = kind(sample.name, f"in {sample.unit}", [*labels], registry=self.registry)
            getattr(self._metrics[sample.name].labels(**labels), change)(sample.value)
