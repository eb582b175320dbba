"""What is counted and measured for an answer, and that all of it is declared; no server, no torch."""

import psutil
import pytest
import yaml

from handler import errors
from handler.explanation.methods import METHODS
from handler.protocol.answer import FAILURE, OK, OUTCOMES, Answer, Observation, error_answer
from handler.telemetry.metrics import (
    DEGENERATE,
    ENGINE_DISAGREEMENTS,
    LABELS,
    MAPS,
    REQUEST_SECONDS,
    REQUESTS,
    RESIDENT,
    STAGE_SECONDS,
    Metrics,
    Sample,
    record,
    resident_memory,
)
from tests.support.serving import ROOT

STAGES = {"decode": 4.0, "infer": 0.0, "explain": 20.0, "render": 6.0}
SEEN = Observation(
    labels={"engine": "onnx", "method": "gradcam"},
    maps=("gradcam", "guided_backprop"),
    targets=3,
    degenerate=1,
    pixels=480 * 640,
    stages_ms=STAGES,
)


def recorded(answer):
    metrics = Metrics()
    record(metrics, answer, 0.05)
    return metrics.take()


def test_counts_add_up_until_they_are_taken():
    metrics = Metrics()
    metrics.count("a")
    metrics.count("a", 2)
    metrics.count("a", 1, {"outcome": OK})
    assert metrics.take() == [Sample(name="a", value=3), Sample(name="a", value=1, labels=(("outcome", "ok"),))]
    assert metrics.take() == []


def test_an_explained_request_is_counted_and_each_stage_that_ran_is_measured():
    labels = (("engine", "onnx"), ("method", "gradcam"))
    with_outcome = (*labels, ("outcome", "ok"))
    assert sorted(recorded(Answer(body=b"", content_type="", observed=(SEEN,))), key=lambda one: one.name) == sorted(
        [
            Sample(name=REQUESTS, value=1, labels=with_outcome),
            Sample(name=REQUEST_SECONDS, value=0.05, labels=with_outcome, kind="histogram"),
            Sample(name=STAGE_SECONDS["decode"], value=0.004, labels=with_outcome, kind="histogram"),
            Sample(name=STAGE_SECONDS["explain"], value=0.02, labels=with_outcome, kind="histogram"),
            Sample(name=STAGE_SECONDS["render"], value=0.006, labels=with_outcome, kind="histogram"),
            Sample(name=MAPS, value=6, labels=labels),
            Sample(name=DEGENERATE, value=1, labels=labels),
        ],
        key=lambda one: one.name,
    )


def test_several_pictures_of_a_request_are_one_request():
    samples = recorded(Answer(body=b"", content_type="", observed=(SEEN, SEEN)))
    assert [one.value for one in samples if one.name == REQUESTS] == [1]
    assert [one.value for one in samples if one.name == MAPS] == [12]
    assert len([one for one in samples if one.name == STAGE_SECONDS["render"]]) == 2


def test_a_refused_request_is_counted_by_its_error():
    refused = recorded(error_answer(errors.TooLarge("…")))
    labels = (("engine", "none"), ("method", "none"), ("outcome", "TooLarge"))
    assert refused == [
        Sample(name=REQUESTS, value=1, labels=labels),
        Sample(name=REQUEST_SECONDS, value=0.05, labels=labels, kind="histogram"),
    ]
    assert dict(recorded(error_answer(OSError()))[0].labels)["outcome"] == FAILURE


def test_every_error_is_an_outcome():
    kinds = [kind.__name__ for kind in errors.RequestError.__subclasses__()]
    assert sorted(OUTCOMES) == sorted([OK, *kinds, FAILURE])


def test_text_of_a_client_never_becomes_a_label():
    metrics = Metrics()
    metrics.count(REQUESTS, 1, {"outcome": "x|#Level:\n[METRICS]", "engine": "", "method": "gradcam"})
    (one,) = metrics.take()
    assert one.labels == (("engine", "other"), ("method", "gradcam"), ("outcome", "other"))
    harmless = {value for values in LABELS.values() for value in values}
    assert all(value.replace("+", "").replace("_", "").isalnum() for value in harmless)
    assert set(METHODS) <= harmless


def test_everything_is_declared_with_its_labels_in_their_order():
    """TorchServe matches values with the declared names by position, and drops what is not declared."""
    declared = yaml.safe_load((ROOT / "deploy/metrics.yaml").read_text(encoding="utf-8"))["model_metrics"]
    of_torchserve = ["ModelName", "Level"]
    metrics = Metrics()
    record(metrics, Answer(body=b"", content_type="", observed=(SEEN,)), 0.05)
    metrics.measure(STAGE_SECONDS["infer"], 0.1, {"engine": "torch", "method": "none", "outcome": "ok"})
    metrics.count(ENGINE_DISAGREEMENTS, 0)
    emitted = {
        (one.kind, one.name, one.unit, *(name for name, _ in one.labels))
        for one in [*metrics.take(), resident_memory()]
    }
    expected = {
        (kind, one["name"], one["unit"], *(name for name in one["dimensions"] if name not in of_torchserve))
        for kind, specifications in declared.items()
        for one in specifications
        if one["name"] != "PredictionTime"
    }
    assert emitted == expected
    assert all(one["dimensions"][-2:] == of_torchserve for kind in declared.values() for one in kind)


def test_resident_memory_is_that_of_this_process():
    sample = resident_memory()
    assert sample.name == RESIDENT
    assert sample.value == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
