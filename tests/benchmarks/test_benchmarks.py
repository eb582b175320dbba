"""What the benchmark times: nothing cached, equal outputs, ratios as they are called. Nothing is timed here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import benchmarks.__main__ as command
from benchmarks import contenders
from benchmarks.child import timed_round
from benchmarks.contenders import (
    CONTENDERS,
    OURS_ONNX,
    OURS_TORCH,
    PYTORCH_GRAD_CAM,
    TORCHCAM,
    Outputs,
    agrees,
    differences,
)
from benchmarks.load import Load, Seen, percentiles
from benchmarks.prepare import prepare
from benchmarks.report import render
from benchmarks.results import KEY_SETTING, TARGETS, ratio, read_results, summarise, target_details, write_results
from benchmarks.rounds import Child, ChildError, affordable, turns
from benchmarks.work import EXPLAIN, EXPLAIN_OF_FIVE, GRADCAM, GRADCAM_OF_FIVE, PREDICT, batches

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning")  # captum's, on every call
FOLDER = Path(__file__).parents[2] / "benchmarks"
WHO = sorted(CONTENDERS)
APART = {contenders.COMPILED, contenders.INDUCTOR, contenders.OPENVINO}  # whose libraries change a process for good


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return prepare("shufflenet_v2_x0_5", tmp_path_factory.mktemp("work"), side=64, classes=10, pictures=8)


@pytest.fixture(scope="module")
def calls(work):
    threads = torch.get_num_threads()
    yield {who: builder(work, who[0], 1) for who, builder in CONTENDERS.items() if who[1] not in APART}
    torch.set_num_threads(threads)


def outputs_of(work, calls, who):
    if who[1] not in APART:
        return calls[who](work.pictures()[:3])
    child = Child(work, who, 1)
    try:
        return child.ask("outputs", batch=3)
    finally:
        child.close()


@pytest.mark.parametrize(("task", "name"), WHO)
def test_every_contender_finds_what_ours_finds(work, calls, task, name):
    found, expected = (outputs_of(work, calls, who) for who in ((task, name), (task, OURS_TORCH)))
    of_gradcam, of_explanation = {"gradcam"}, {"gradcam", "guided", "guided_most"}
    maps = {PREDICT: set(), GRADCAM: of_gradcam, GRADCAM_OF_FIVE: of_gradcam}
    shares = differences(found, expected)
    assert set(shares) == {"logits"} | maps.get(task, of_explanation)
    assert agrees(shares), shares
    assert found.logits.shape == (3, 10)
    assert task == PREDICT or found.gradcam.max() > 0.1
    pairs = 15 if task in (GRADCAM_OF_FIVE, EXPLAIN_OF_FIVE) else 3
    assert task == PREDICT or len(found.gradcam) == pairs
    assert found.guided is None or found.guided.shape == (pairs, 3, 64, 64)


@pytest.mark.parametrize(("task", "name"), [who for who in WHO if who[1] not in APART])
def test_other_pictures_get_other_answers_and_the_same_ones_the_same(work, calls, task, name):
    pictures, call = work.pictures(), calls[task, name]
    one, two, again = call(pictures[:1]), call(pictures[1:2]), call(pictures[:1])
    for output in ("logits", "gradcam", "guided"):
        first = getattr(one, output)
        if first is not None:
            assert isinstance(first, np.ndarray)
            assert np.abs(first - getattr(two, output)).max() > 1e-2
            np.testing.assert_allclose(first, getattr(again, output), rtol=0, atol=1e-4 * np.abs(first).max())


@pytest.mark.parametrize(
    ("task", "name", "passes"),
    [
        (PREDICT, contenders.EAGER, 1),
        (PREDICT, OURS_TORCH, 1),
        (GRADCAM, PYTORCH_GRAD_CAM, 1),
        (GRADCAM, contenders.CAPTUM, 2),
        (GRADCAM, TORCHCAM, 1),
        (GRADCAM, OURS_TORCH, 1),
        (EXPLAIN, PYTORCH_GRAD_CAM, 1 + 2),  # guided backprop takes one picture at a time
        (EXPLAIN, contenders.CAPTUM, 3),
        (EXPLAIN, OURS_TORCH, 1),
        (EXPLAIN_OF_FIVE, OURS_TORCH, 1),
    ],
)
def test_a_timed_call_runs_the_network_anew(work, calls, monkeypatch, task, name, passes):
    forward, counted = torch.nn.functional.linear, []  # the network ends in its only linear layer
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *args: counted.append(1) or forward(*args))
    spent = timed_round(calls[task, name], batches(work.pictures(), 2), warm_up=1, seconds=0, least=3)
    assert len(spent) == 3
    assert len(counted) == 4 * passes


def test_an_onnx_call_is_one_run_of_the_smallest_graph(work, calls, monkeypatch):
    from handler.graphs.session import GraphSession

    run, ran = GraphSession.infer, []
    monkeypatch.setattr(
        GraphSession, "infer", lambda self, *args: ran.append(self.description.kind) or run(self, *args)
    )
    for task in (PREDICT, GRADCAM, EXPLAIN):
        timed_round(calls[task, OURS_ONNX], batches(work.pictures(), 2), warm_up=0, seconds=0, least=2)
    assert ran == ["prediction"] * 2 + ["gradcam"] * 2 + ["explanation"] * 2


def test_batches_differ_from_one_call_to_the_next():
    pictures = np.arange(7 * 3, dtype=np.float32).reshape(7, 3, 1, 1)
    handed_out = batches(pictures, 2)
    seen = [next(handed_out) for _ in range(4)]
    assert [batch[0, 0, 0, 0] for batch in seen] == [0, 6, 12, 0]
    assert all(batch.shape == (2, 3, 1, 1) for batch in seen)
    with pytest.raises(ValueError, match="too few"):
        batches(pictures, 4)


def test_a_turn_lasts_as_long_as_it_should_and_does_not_time_the_warm_up():
    seen = []
    spent = timed_round(seen.append, iter(range(100)), warm_up=2, seconds=0, least=3)
    assert seen == [0, 1, 2, 3, 4]
    assert len(spent) == 3


def test_work_that_other_code_wrote_is_made_anew_and_no_other(work, monkeypatch):
    sizes = {"side": 64, "classes": 10, "pictures": 8}

    def making(*_, **__):
        raise RuntimeError("made anew")

    monkeypatch.setattr("benchmarks.prepare.random_classifier", making)
    assert prepare(work.network, work.folder, **sizes) == work
    with pytest.raises(RuntimeError, match="made anew"):
        prepare(work.network, work.folder, **{**sizes, "classes": 11})
    with pytest.raises(RuntimeError, match="made anew"):
        prepare(work.network, work.folder / "nothing", **sizes)
    monkeypatch.setattr("benchmarks.prepare._stamp", lambda *_: "of other code")
    with pytest.raises(RuntimeError, match="made anew"):
        prepare(work.network, work.folder, **sizes)


def test_a_child_holds_its_contender_and_nothing_else(work):
    child = Child(work, (PREDICT, OURS_ONNX), 1)
    answer = child.ask("round", batch=2, warm_up=1, seconds=0, least=2)
    assert not child.known["holds_torch"]
    assert len(answer["ms"]) == 2
    assert 20 < answer["peak_mb"] < 400
    child.close()


def test_outputs_that_differ_do_not_agree():
    rng = np.random.default_rng(0)
    one = Outputs(rng.random((2, 4)), rng.random((2, 3, 3), np.float32), rng.random((2, 3, 8, 8)))
    assert agrees(differences(one, one))
    larger = replace(one, gradcam=np.stack([np.kron(values, np.ones((2, 2), np.float32)) for values in one.gradcam]))
    assert differences(larger, one)["gradcam"] > 0.05  # nearest is not bilinear
    assert not agrees(differences(replace(one, logits=one.logits + 0.1), one))
    assert not agrees(differences(replace(one, guided=one.guided * 0), one))
    assert not agrees(differences(replace(one, logits=one.logits * np.nan), one))


def test_the_arithmetic():
    assert ratio([2, 9, 8], [1, 3, 2]).median == 3  # of 2, 3, 4: not the ratio of the medians, 8 / 2
    assert ratio([2, 9, 8], [1, 3, 2]).quartiles == [2.5, 3.5]
    assert summarise([5]).quartiles == [5, 5]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratio([1, 2], [1])
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert percentiles([7.0])["p50"] == 7
    load = Load(
        [(0, Seen(started=0, ended=seconds, saw="200", wrong="")) for seconds in (0.03, 0.01, 0.02)], seconds=1.5
    )
    assert load.per_s == 2


def test_slow_settings_have_fewer_rounds():
    assert [affordable(5, seconds, 300) for seconds in (1, 60, 80, 1000)] == [5, 5, 3, 3]
    assert affordable(2, 1000, 300) == 2


def test_every_contender_has_every_place_in_the_order():
    names = [("", name) for name in "abcd"]
    orders = [turns(names, number) for number in range(8)]
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names) == {order[-1] for order in orders}


def measured(task, name, *rounds):
    return {"task": task, "contender": name, "rounds_ms": list(rounds)}


def test_targets_are_ratios_of_the_key_setting(tmp_path):
    key = [measured(EXPLAIN, PYTORCH_GRAD_CAM, 180, 220), measured(EXPLAIN, OURS_ONNX, 20, 20)]
    served = [
        {"task": EXPLAIN, "contender": name, "concurrency": concurrency, "rounds_per_s": rates}
        for concurrency, name, rates in [(1, "ours", [40]), (1, "naive", [5]), (4, "ours", [42]), (4, "naive", [10])]
    ]
    results = {"settings": {KEY_SETTING: {"contenders": key}, "other": {}}, "served": {"measured": served}}
    details = target_details(results)
    assert list(details) == [target.key for target in TARGETS]
    pgc = details["explain_speedup_vs_pytorch_grad_cam"]
    assert (pgc["value"], pgc["threshold"], pgc["reached"], pgc["missed_by"]) == (10, 9, True, 0)
    ours = details["served_explain_speedup_vs_naive"]
    assert (ours["value"], ours["reached"], ours["missed_by"]) == (4.2, False, pytest.approx(0.3))
    assert details["explain_over_gradcam"]["value"] is None

    write_results(tmp_path / "results.json", results)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["explain_speedup_vs_pytorch_grad_cam"] == 10
    assert written["served_predict_speedup_vs_stock"] is None
    assert "settings" in written
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_committed_page_is_what_the_committed_results_give():
    results = read_results(FOLDER / "results.json")
    notes = FOLDER / "notes.md"
    fronts = read_results(FOLDER / "fronts.json")
    page = render(results, notes.read_text(encoding="utf-8") if notes.is_file() else "", fronts)
    assert (FOLDER / "RESULTS.md").read_text(encoding="utf-8") == page
    assert (FOLDER / "results.png").read_bytes().startswith(b"\x89PNG")
    details = target_details(results)
    for target in TARGETS:
        value = details[target.key]["value"]  # None where it was not measured
        assert results[target.key] == (value and pytest.approx(value, rel=1e-3))
        assert results["targets"][target.key]["threshold"] == target.threshold
        assert target.key in page


def test_a_process_that_is_killed_leaves_its_settings_out_by_name(work, tmp_path, monkeypatch):
    log = tmp_path / "explain-captum.log"
    log.write_text("", encoding="utf-8")

    def killed_at_batch_4(*_):
        yield 1, {"batch": 1}
        raise ChildError(log, -9)

    monkeypatch.setattr(command, "measure_settings", killed_at_batch_4)
    options = SimpleNamespace(
        batches=[1, 4, 16], rounds=3, missing=False, seconds=0, limit=0, results=tmp_path / "results.json"
    )
    results = {"left_out": {f"{work.network}, batch 1, threads 1": "an earlier run's"}}
    command._measure_network(options, results, work, 1)
    assert list(results["settings"]) == [f"{work.network}, batch 1, threads 1"]
    assert list(results["left_out"]) == [f"{work.network}, batch {batch}, threads 1" for batch in (4, 16)]
    assert "explain-captum, exit code -9" in results["left_out"][f"{work.network}, batch 4, threads 1"]


def test_the_command_line_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--help"], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    for option in ("--quick", "--networks", "--batches", "--threads", "--rounds", "--skip-served", "--fronts"):
        assert option in done.stdout
