"""What prometheus_client shows of the samples; no server."""

from prometheus_client import generate_latest

from handler.telemetry.exposition import Exposition
from handler.telemetry.metrics import ENGINE_DISAGREEMENTS, REQUEST_SECONDS, REQUESTS, RESIDENT, Metrics, Sample

LABELS = {"engine": "onnx", "method": "none", "outcome": "ok"}
SHOWN = {"Level": "Model", "ModelName": "m"}


def value(exposition, name, **labels):
    return exposition.registry.get_sample_value(name, {**SHOWN, **labels})


def samples(count, seconds=()):
    metrics = Metrics()
    metrics.count(REQUESTS, count, LABELS)
    for one in seconds:
        metrics.measure(REQUEST_SECONDS, one, LABELS)
    return metrics.take()


def test_counters_add_up_and_keep_their_names():
    exposition = Exposition()
    exposition.add(samples(2), "m")
    exposition.add(samples(3), "m")
    assert value(exposition, REQUESTS, **LABELS) == 5
    text = generate_latest(exposition.registry).decode()
    assert f"# TYPE {REQUESTS} counter" in text
    assert "_total_total" not in text
    assert "_created" not in text


def test_a_counter_of_0_is_shown():
    exposition = Exposition()
    exposition.add([Sample(name=ENGINE_DISAGREEMENTS, value=0)], "m")
    assert value(exposition, ENGINE_DISAGREEMENTS) == 0


def test_histograms_are_in_seconds():
    exposition = Exposition()
    exposition.add(samples(1, [0.02, 0.3, 30]), "m")
    assert value(exposition, f"{REQUEST_SECONDS}_count", **LABELS) == 3
    assert value(exposition, f"{REQUEST_SECONDS}_sum", **LABELS) == 30.32
    assert value(exposition, f"{REQUEST_SECONDS}_bucket", le="0.025", **LABELS) == 1
    assert value(exposition, f"{REQUEST_SECONDS}_bucket", le="0.5", **LABELS) == 2
    assert value(exposition, f"{REQUEST_SECONDS}_bucket", le="+Inf", **LABELS) == 3


def test_a_gauge_is_its_last_value():
    exposition = Exposition()
    for bytes_ in (5e8, 4e8):
        exposition.add([Sample(name=RESIDENT, value=bytes_, kind="gauge")], "m")
    assert value(exposition, RESIDENT) == 4e8


def test_models_have_series_of_their_own():
    exposition = Exposition()
    exposition.add(samples(2), "m")
    exposition.add(samples(7), 'n"\n')
    assert value(exposition, REQUESTS, **LABELS) == 2
    assert value(exposition, REQUESTS, **LABELS, ModelName='n"\n') == 7
    lines = generate_latest(exposition.registry).decode().splitlines()
    assert len([line for line in lines if line.startswith(f"{REQUESTS}{{")]) == 2


def test_two_expositions_share_nothing():
    one, other = Exposition(), Exposition()
    one.add(samples(1), "m")
    assert value(other, REQUESTS, **LABELS) is None
