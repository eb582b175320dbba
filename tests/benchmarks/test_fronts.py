"""The two fronts side by side: what is compared, what counts as installed, and that a run can be taken up again."""

import json
from importlib.metadata import PathDistribution

import pytest

from benchmarks import fronts
from benchmarks.fronts import FRONTS, describe_fronts, installed, measure_fronts
from benchmarks.reliability.place import LIGHT, TORCHSERVE, Place
from benchmarks.report import render
from benchmarks.work import EXPLAIN, GRADCAM, PREDICT
from tests.support.serving import ROOT

MACHINE = {"cpu": "A", "cores": 2, "date": "2026-01-01"}


def measured(rates, slowest):
    """Three rounds of each front; ``rates`` and ``slowest`` are the light front's by task, TorchServe's are 10."""
    return [
        {
            **{"task": task, "contender": front, "concurrency": many, "per_s": 10.0, "p99_ms": 10.0, "requests": 300},
            "rounds_per_s": [10.0 * (rates[task] if front == LIGHT else 1)] * 3,
            "rounds_p99_ms": [10.0 * (slowest if front == LIGHT else 1)] * 3,
        }
        for task in (PREDICT, GRADCAM, EXPLAIN)
        for many in (1, 4)
        for front in FRONTS
    ]


def results(rates=(1.6, 1.3, 1.3), slowest=0.8, start=1.5, mib=300.0, mb=390.0):
    return {
        **{"archive": "a.mar", "machine": MACHINE},
        "installed_mb": {TORCHSERVE: {"torch": 6000.0}, LIGHT: {"onnxruntime": mb - 5, "uvicorn": 5.0}},
        "start_s": {TORCHSERVE: [20.0, 10.0, 12.0], LIGHT: [start] * 3},
        "served": {
            "measured": measured(dict(zip((PREDICT, GRADCAM, EXPLAIN), rates, strict=True)), slowest),
            "memory": {front: {"requests": 10_000, "mib": mib} for front in FRONTS},
        },
    }


def test_what_is_wanted_of_the_light_front_is_judged():
    found = describe_fronts(results())
    assert [(value, reached) for _, value, *_, reached in found["targets"]] == [
        (pytest.approx(1.6), True),
        (pytest.approx(1.3), True),
        (pytest.approx(0.8), True),
        (1.5, True),
        (300.0, True),
        (390.0, True),
    ]
    bad = describe_fronts(results(rates=(1.4, 9.0, 1.2), slowest=1.1, start=2.1, mib=351.0, mb=401.0))
    assert not any(one[-1] for one in bad["targets"])
    assert found["alone"]["seconds to the first right answer"] == {TORCHSERVE: 12.0, LIGHT: 1.5}


def test_the_concurrency_with_the_worst_ratio_is_judged():
    some = results()
    for one in some["served"]["measured"]:
        if one["concurrency"] == 4 and one["contender"] == LIGHT:
            one |= {"rounds_per_s": [11.0] * 3, "rounds_p99_ms": [13.0] * 3}
    assert [one[1] for one in describe_fronts(some)["targets"]][:3] == pytest.approx([1.1, 1.1, 1.3])


def test_the_page_tells_of_both_fronts_and_of_none_before_all_is_measured():
    page = render({}, fronts=results())
    assert "| prediction | 4 | 10.0 | 10.0 | 1.60 | 10 | 10 | 0.80 |" in page
    assert "| MB installed beside Python | 6000.0 | 390.0 |" in page
    assert "| p99, times TorchServe's | 0.80 | ≤ 1.0 | reached |" in page
    assert "light: onnxruntime 385, uvicorn 5 MB." in page
    started = {key: value for key, value in results().items() if key != "served"}
    assert render({}, fronts=started) == render({}) == render({}, fronts={})


def test_an_extra_is_installed_with_what_it_needs_and_nothing_else(tmp_path, monkeypatch):
    needs = {
        "a": ['b ; python_version >= "3"', 'c ; python_version < "3"', 'd[more] ; extra == "no"', "e[more]"],
        "b": ["a"],
        "e": ['f ; extra == "more"', 'g ; extra == "no"'],
        "f": [],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        (tmp_path / f"{name}.bin").write_bytes(bytes(10_000 * (ord(name) - 96)))
        (folder / "RECORD").write_text(f"{name}.bin,,\nmissing.py,,\n")
        (folder / "METADATA").write_text("\n".join([f"Name: {name}", *(f"Requires-Dist: {one}" for one in lines)]))
    monkeypatch.setattr(fronts, "distribution", lambda name: PathDistribution(tmp_path / f"{name}.dist-info"))
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\nname = "own"\ndependencies = ["a"]\n[project.optional-dependencies]\n'
        'light = ["own[client]"]\nclient = ["f"]\nserve = ["zzz"]\n'
    )
    monkeypatch.setattr(fronts, "_PYPROJECT", project)
    assert installed("light") == {"f": 0.06, "e": 0.05, "b": 0.02, "a": 0.01}


def test_a_run_is_taken_up_where_it_ended(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(fronts, "installed", lambda extra: asked.append(extra) or {extra: 1.0})
    monkeypatch.setattr(fronts, "_first_answers", lambda *_: {"torchserve": [1.0]})
    monkeypatch.setattr(fronts, "_served", lambda *_: pytest.fail("a server ended"))
    place = Place(config=ROOT / "config.properties", store=tmp_path, model="m", records=tmp_path)
    path = tmp_path / "fronts.json"
    with pytest.raises(pytest.fail.Exception, match="a server ended"):
        measure_fronts(place, path, 2, 1.0, 500)
    assert set(json.loads(path.read_bytes())) == {"installed_mb", "start_s", "archive", "machine"}
    monkeypatch.setattr(fronts, "_served", lambda _, *how: {"how": how})
    measure_fronts(place, path, 2, 1.0, 500)
    assert asked == [*FRONTS.values()]
    assert json.loads(path.read_bytes())["served"] == {"how": [2, 1.0, 500]}
