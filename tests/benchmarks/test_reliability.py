"""The measurements of reliability: what they count, and small ones against a real TorchServe."""

import hashlib
import itertools
import json
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest

from benchmarks.load import Seen, in_threads
from benchmarks.reliability import mixed_load
from benchmarks.reliability.asking import ask
from benchmarks.reliability.faults.archives import corrupt_archive, damaged_graph
from benchmarks.reliability.faults.processes import process_killed, worker_killed
from benchmarks.reliability.faults.scenario import SCENARIOS, Finding, Impossible, Scenario, run_faults
from benchmarks.reliability.memory import Sample, describe_samples, most_held
from benchmarks.reliability.mixed_load import (
    Outcome,
    bursts,
    measure_load,
    nothing_lost_or_crossed,
    summarise_outcomes,
)
from benchmarks.reliability.pictures import draw_pool, largest_upload, marked
from benchmarks.reliability.place import LIGHT, TORCHSERVE, Place, read_records
from benchmarks.reliability.profile import FORMS, KINDS, judge, mixed, request
from benchmarks.reliability.report.page import render, replicas, write_report
from benchmarks.reliability.slope import judge_soak
from handler.picture.decode import decode
from tests.support.serving import ONE, ROOT, worker_of

REQUESTS = 300
TIMES = 2  # that a scenario's docstring names
FUZZ = {  # as benchmarks/reliability/fuzz/run.py describes it
    "seed": 20,
    "inputs": 98765,
    "threads": 4,
    "seconds": 800.0,
    "by_kind": {"bomb": {"inputs": 98765, "statuses": {"413": 98760, "200": 5}}},
    "statuses": {"413": 98760, "200": 5},
    "torchserve_defects": {},
    "worker": {"pid": 7, "same_throughout": True},
    "memory": {
        "worker": {"start": 900 << 20, "end": 905 << 20, "peak": 910 << 20, "cap": 0, "slope": 12.3, "flat": True},
    },
    "findings": [{"fault": "status", "number": 5, "kind": "bomb", "answer": None, "file": None}],
}


@pytest.fixture(scope="module")
def pool():
    return draw_pool(10)


@pytest.fixture(scope="module")
def place(tmp_path_factory, shapes_archive):
    return Place(
        config=ROOT / "config.properties",
        store=shapes_archive.parent,
        model="shapes",
        records=tmp_path_factory.mktemp("records"),
    )


@pytest.fixture(scope="module")
def server(place):
    with place.server() as server:
        yield server


def memory(per_minute: float, noise: float = 3.0):
    """Seconds of ten minutes, every other one, and the MiB of a process that grows so fast."""
    seconds = np.arange(0, 600, 2.0)
    return seconds, 900 + per_minute * seconds / 60 + np.random.default_rng(1).normal(0, noise, len(seconds))


def judged(seconds, values):
    return judge_soak(
        [Sample(s=s, java=200.0, workers=value, pids=(7,)) for s, value in zip(seconds, values, strict=True)], 600
    )


@pytest.mark.parametrize("per_minute", [0.0, 0.5, -1.0])
def test_memory_that_hardly_grows_is_let_pass(per_minute):
    slope = judged(*memory(per_minute))
    assert not slope["grows"]
    assert slope["lower"] <= slope["value"] <= slope["upper"]
    assert slope["value"] == pytest.approx(per_minute, abs=0.4)


@pytest.mark.parametrize("per_minute", [2.0, 10.0])
def test_a_leak_exceeds_the_largest_slope(per_minute):
    assert judged(*memory(per_minute))["grows"]


def test_what_grows_during_the_warm_up_only_is_no_leak():
    seconds, values = memory(0)
    assert not judged(seconds, values + 50 * np.minimum(seconds / 200, 1))["grows"]  # MiB that caches take
    assert judged(seconds, values + 50 * np.minimum(seconds / 600, 1))["grows"]


def test_a_single_step_and_single_spikes_are_no_leak():
    seconds, values = memory(0)
    values[::30] += 200  # large answers
    values[len(values) * 3 // 4 :] += 8  # an arena more
    assert not judged(seconds, values)["grows"]


def test_a_slope_that_is_no_number_is_not_let_pass():
    seconds, values = memory(0)
    assert judged(seconds, values * np.nan)["grows"]


def test_a_soak_too_short_for_a_slope_is_refused():
    with pytest.raises(ValueError, match="needed are 5"):
        judge_soak([Sample(s=s, java=200.0, workers=900.0, pids=(7,)) for s in range(100)], 100)


def test_a_soak_is_judged_by_its_workers_and_not_by_javas_heap():
    heap = [Sample(s=s, java=value, workers=900.0, pids=(7,)) for s, value in zip(*memory(5), strict=True)]
    assert not judge_soak(heap, 600)["grows"]


def test_samples_are_described_with_a_thinned_series():
    found = describe_samples([Sample(s=float(s), java=100 + s, workers=900 - s, pids=(7,)) for s in range(500)])
    assert found["java_mib"] == {"first": 100, "last": 599, "max": 599}
    assert found["workers_mib"] == {"first": 900, "last": 401, "max": 900}
    assert found["same_workers"]
    assert len(found["series"]["s"]) <= 120
    assert not describe_samples([Sample(s=0, java=1, workers=1, pids=(7,)), Sample(s=1, java=1, workers=1, pids=(8,))])[
        "same_workers"
    ]


def test_samples_of_a_front_without_java_tell_of_none():
    samples = [Sample(s=float(s), java=0.0, workers=300 + s, pids=(7,)) for s in range(5)]
    assert "java_mib" not in describe_samples(samples)
    assert most_held(samples) == {"workers_max_mib": 304}
    assert most_held([Sample(s=0, java=9, workers=1, pids=(7,))]) == {"java_max_mib": 9, "workers_max_mib": 1}


def test_a_marked_picture_is_another_file_with_the_same_pixels():
    one, two = (marked(ONE.read_bytes(), f"request {number}") for number in (1, 2))
    assert len({ONE.read_bytes(), one, two}) == 3
    assert np.array_equal(decode(one), decode(ONE.read_bytes()))
    with pytest.raises(ValueError, match="JPEG"):
        marked(b"\x89PNG", "")


@pytest.mark.parametrize("limit", [10 * 2**20, 100_000])
def test_the_largest_upload_fills_the_limit_with_pixels(limit):
    upload = largest_upload(limit)
    assert 0.95 * limit < len(upload) <= limit
    assert decode(upload).nbytes == len(upload) - 54


def test_the_profile_is_mixed_as_it_says_and_every_request_has_its_own_picture(pool):
    asked = [mixed(number, pool, 5) for number in range(2000)]
    assert sum(kind.share for kind in KINDS.values()) == 100
    for name, kind in KINDS.items():
        assert sum(one.kind == name for one in asked) / 20 == pytest.approx(kind.share, abs=3), name
    assert len({hashlib.sha256(one.upload).digest() for one in asked}) == 2000
    assert {form for form, count in Counter(one.form for one in asked).items() if count > 500} == set(FORMS)
    assert mixed(7, pool, 5) == asked[7] != mixed(7, pool, 6)


def outcome(pool, number: int, refusals_ms=(), **other):
    """An answer after 10 + number milliseconds, which came after refusals."""
    started = 10.0 + sum(refusals_ms) / 1e3
    seen = Seen(started=started, ended=started + (10 + number) / 1e3, saw="200", wrong="")
    refused = [Seen(started=10.0, ended=10.0 + ms / 1e3, saw="503", wrong="status 503") for ms in refusals_ms]
    return Outcome(request(number, "prediction", "raw", pool[0]), replace(seen, **other), refused)


def test_a_summary_counts_what_is_lost_crossed_wrong_and_refused(pool):
    whole = [outcome(pool, number) for number in range(100)]
    assert nothing_lost_or_crossed(summarise_outcomes(whole, 100))
    assert summarise_outcomes(whole, 100)["ms"] == {"p50": 59.0, "p95": 104.0, "p99": 108.0, "max": 109.0}
    bad = {
        "lost": whole[:-1],
        "answered_twice": [*whole, outcome(pool, 5)],
        "crossed": [*whole[1:], outcome(pool, 0, wrong="crossed: …")],
        "wrong": [*whole[1:], outcome(pool, 0, wrong="status 500", saw="500")],
        "unidentified": [*whole[1:], outcome(pool, 0, wrong="unidentified")],
    }
    for key, outcomes in bad.items():
        found = summarise_outcomes(outcomes, 100)
        assert found[key] == 1, key
        assert not nothing_lost_or_crossed(found)
    assert summarise_outcomes([outcome(pool, 0, wrong="no answer", saw="OSError")], 1)["lost"] == 1
    refused = summarise_outcomes([*whole[1:], outcome(pool, 0, [3.0, 5.0])], 100)
    assert (refused["retries"], refused["refused_then_answered"], refused["refusal_ms"]["max"]) == (2, 1, 5.0)
    assert (refused["ms"]["p50"], refused["ms_with_retries"]["p50"]) == (59.0, 59.0)
    assert summarise_outcomes([outcome(pool, 0, [3.0, 5.0])])["ms_with_retries"]["p50"] == 18.0
    assert nothing_lost_or_crossed(refused)


def test_replicas_leave_room_and_are_two_at_least():
    assert [replicas(rate, 70.0) for rate in (1, 98, 99, 490)] == [2, 2, 3, 10]


@contextmanager
def held(server, monkeypatch, module, name, refusals):
    """The worker stands still until a full queue has refused so many requests."""
    worker, counted, send = worker_of(psutil.Process(server.pid)), itertools.count(1), getattr(module, name)

    def watched(*arguments):
        seen = send(*arguments)
        if seen.refused and next(counted) == refusals:
            worker.resume()
        return seen

    monkeypatch.setattr(module, name, watched)
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


@pytest.mark.server
def test_under_load_every_request_gets_its_own_answer(server, pool, monkeypatch):
    with held(server, monkeypatch, mixed_load, "post", 1):
        measured, samples = measure_load(server, pool, requests=REQUESTS, seconds=300, concurrency=32)
    found = measured["outcomes"]
    assert measured["as_expected"]
    assert found["wrong_examples"] == []
    assert nothing_lost_or_crossed(found), found
    assert found["answered"] == REQUESTS
    assert found["retries"] > 0
    assert set(found["statuses"]) == {"200", "400", "415"}
    assert set(found["forms"]) == set(FORMS)
    assert set(found["kinds"]) == set(KINDS)
    memory = measured["memory"]
    assert samples
    assert memory["same_workers"]
    assert memory["java_mib"]["max"] > 50
    assert memory["workers_mib"]["max"] > 100


@pytest.mark.server
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_of_another_request_is_recognised(server, pool, kind):
    one, other = (request(number, kind, "raw", pool[number], 5) for number in (3, 4))
    seen = ask(server, one)
    assert seen.right, seen.wrong
    status = int(seen.saw)
    named = {"X-Image-Sha256": hashlib.sha256(one.upload).hexdigest()} if kind == "sheet" else {}
    assert judge(one, status, named, seen.body) == ""
    assert judge(other, status, named, seen.body).startswith("crossed")
    same_picture = request(9, kind, "raw", pool[3], 5)  # another request with the same pixels
    assert judge(same_picture, status, named, seen.body).startswith("crossed")
    assert "status" in judge(one, 507, {}, b"")


@pytest.mark.server
def test_a_burst_is_answered_or_refused_and_nothing_else(server, pool, monkeypatch):
    size, room = 40, 16 + 2  # in the queue, and at work
    with held(server, monkeypatch, mixed_load, "ask", size - room):
        found = bursts(server, pool, rounds=1, size=size)
    assert found["neither"] == 0, found
    assert found["answered"] + found["refused"] == size
    assert found["answered"] >= 16
    assert found["refused"] >= size - room


@pytest.mark.server
def test_a_killed_worker_is_replaced_and_only_its_own_batch_fails(place):
    found = worker_killed(place)
    assert found.as_expected, found
    assert found.back_s is not None
    assert found.detail["new_worker"]
    assert found.sees["crossed"] == 0


@pytest.mark.server
def test_an_archive_with_damaged_graphs_does_not_load(place):
    found = damaged_graph(place)
    assert found.as_expected, found


def test_calls_together_are_under_way_at_the_same_moment():
    barrier = threading.Barrier(8, timeout=30)  # breaks unless all eight wait at once
    in_threads([barrier.wait] * 8)
    assert not barrier.broken


def test_scenarios_that_fail_or_cannot_be_tried_are_recorded_as_such(place, tmp_path, monkeypatch):
    def impossible(_):
        raise Impossible("no mounting here")

    def late(_):
        raise TimeoutError("nobody answered")

    def good(_):
        """Kicked | it {TIMES} times, {fast}."""
        sees = {"requests": 1, "saw": {"200": 1}, "right_ms": {"p50": 1.0, "max": 2.0}}
        return Finding(as_expected=True, sees=sees, back_s=0.5, detail={"long": "x" * 200, "fast": True})

    for fault in (impossible, late, good):
        monkeypatch.setitem(SCENARIOS, fault.__name__, Scenario(fault, "nothing"))
    run = partial(run_faults, place=replace(place, records=tmp_path))
    assert run(["good", "impossible"])
    assert not run(["late"])
    page = render(read_records(tmp_path))
    assert "| **good**: Kicked \\| it 2 times, True | nothing | 1 × 200 | 1 / 2 | 0.5 s | yes | fast yes |" in page
    assert "not possible here" in page
    assert "**no**" in page
    assert "nobody answered" in page
    assert "x" * 200 not in page


def test_a_front_meets_its_own_faults_alone(place, tmp_path, monkeypatch):
    def fault(_):
        """Kicked it."""
        return Finding(as_expected=True, sees={"requests": 1, "saw": {"200": 1}})

    for name, expected in {"both": ("one", "two"), "first": ("one", ""), "second": ("", "two")}.items():
        monkeypatch.setitem(SCENARIOS, name, Scenario(fault, *expected))
    for front in (TORCHSERVE, LIGHT):
        assert run_faults(["both", "first", "second"], replace(place, records=tmp_path, front=front))
    records = read_records(tmp_path)
    assert set(records) == {"fault-both", "fault-first", "light-fault-both", "light-fault-second"}
    assert [records[name]["expected"] for name in ("fault-both", "light-fault-both")] == ["one", "two"]
    page = render(records)
    of_torchserve, of_light = page.split("### Faults: the light front")
    assert "**first**: Kicked it" in of_torchserve
    assert "**second**: Kicked it" in of_light


def test_every_fault_is_one_front_s_at_least():
    assert [name for name, (_, *expected) in SCENARIOS.items() if not any(expected)] == []


@pytest.mark.server
def test_the_light_front_gets_the_same_work(place, pool, tmp_path):
    light = replace(place, records=tmp_path, front=LIGHT)
    assert set(light.settings()) >= {"job_queue_size", "batchSize"}
    with light.server() as server:
        for kind in set(KINDS) - {"all maps"}:  # the archive holds no graph of the plain gradient
            seen = ask(server, request(3, kind, "raw", pool[3], 5))
            assert seen.right, (kind, seen.wrong)
        measured, samples = measure_load(server, pool, seconds=5, concurrency=2)
    assert measured["outcomes"]["lost"] == measured["outcomes"]["crossed"] == 0
    assert {one.java for one in samples} == {0.0}
    assert process_killed(light).as_expected
    assert corrupt_archive(light).as_expected


def test_the_report_of_nothing_says_how_to_measure(tmp_path):
    page = render({})
    for target in ("load", "soak-10", "faults", "fuzz"):
        assert f"Not measured yet: `make {target}` does." in page
        assert f"Not measured yet: `make {target} FRONT=light` does." in page
    assert write_report(tmp_path, tmp_path / "docs").read_text() == page


def test_what_was_recorded_elsewhere_stays_in_the_report_until_it_is_measured_anew(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "reliability.json").write_text('{"fuzz": {"old": 1}, "light-fuzz": {"old": 2}}')
    (tmp_path / "fuzz.json").write_text(json.dumps(FUZZ))
    (tmp_path / "light-fuzz.json").write_text(json.dumps(FUZZ))
    write_report(tmp_path, docs)
    (tmp_path / "fuzz.json").unlink()
    page = write_report(tmp_path, docs).read_text()
    assert json.loads((docs / "reliability.json").read_bytes()) == {"fuzz": FUZZ, "light-fuzz": FUZZ}
    assert page.count("98765 hostile requests") == 2


def test_the_committed_page_is_what_the_committed_records_give():
    records = json.loads((ROOT / "docs" / "reliability.json").read_bytes())
    assert (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8") == render(records)


def test_the_report_holds_what_the_records_say(place, pool, tmp_path):
    assert place.settings()["job_queue_size"] == "16"
    record = replace(place, records=tmp_path).record
    outcomes = summarise_outcomes([outcome(pool, number) for number in range(4321)], 4321)
    samples = [Sample(s=s, java=200.0, workers=value, pids=(7,)) for s, value in zip(*memory(5), strict=True)]
    seen = describe_samples(samples)
    load = {"concurrency": 32, "seconds": 600.0, "retry_pause_s": 0.1, "outcomes": outcomes, "memory": seen}
    record("load", load)
    soak = {"seconds": 600.0, "outcomes": outcomes, "memory": seen, "slope": judge_soak(samples, 600)}
    record("soak-10", soak)
    times = {"p50": 5.0, "p95": 9.0, "p99": 11.0}
    measured = [{"profile": "prediction", "concurrency": count, "per_s": count * 14.0, **times} for count in (1, 5, 2)]
    record("sizing", {"measured": measured})
    record("fuzz", FUZZ)
    write_report(tmp_path, tmp_path / "docs")
    page = (tmp_path / "docs" / "RELIABILITY.md").read_text()
    assert "4321 requests at concurrency 32" in page
    assert "**grows**" in page
    assert "| prediction | 70.0 | 9 | 2 | 2 | 3 | 11 |" in page
    assert "98765 hostile requests" in page
    assert "**1 findings**" in page
    assert "| worker | 900 | 905 | 910 | 12 | yes |" in page
    assert "| bomb | 98765 | 200 × 5, 413 × 98760 |" in page
    assert "`job_queue_size=16`" in page
    assert str(tmp_path) not in page
    written = json.loads((tmp_path / "docs" / "reliability.json").read_text())
    assert set(written) == {"load", "soak-10", "sizing", "fuzz"}
    assert written["load"]["machine"]["cores"] >= 1
