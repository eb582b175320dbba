"""``shufflenet-cam bulk``: pictures from everywhere, over Ray Data, into Parquet files."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from benchmarks.reliability.asking import until
from deploy.bulk.pictures import Source
from deploy.bulk.results import SCHEMA, Results, most_doubtful
from handler.client.model import GraphModel
from tests.support.manifests import validate
from tests.support.serving import ONE, ROOT, TWO
from tests.support.tools import tool

pytestmark = pytest.mark.server  # processes of several cores


def bulk(*arguments, graph, status=0):
    command = [sys.executable, "-m", "export", "bulk", *map(str, arguments), "--model", str(graph)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


def rows_of(folder):
    table = pq.read_table(folder)
    assert table.schema.equals(SCHEMA)
    rows = {row["image"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


@pytest.fixture(scope="module")
def graph(shapes_graphs):
    return shapes_graphs / "model.gradcam.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 24 pictures, one of them in a folder below, and of files that are none."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "below").mkdir()
    with Image.open(ONE) as one:
        for number in range(23):
            one.rotate(15 * number).save(folder / f"{number:02}.png")
    (folder / "below/two.jpg").write_bytes(TWO.read_bytes())
    (folder / "bad.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not read")
    return folder


@pytest.fixture(scope="module")
def written(pictures, graph, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "results"
    return out, bulk(pictures, out, "--overlays", "--together", 5, graph=graph, status=2)


def test_each_picture_has_a_row_and_a_bad_one_its_error(written, pictures):
    out, done = written
    rows = rows_of(out)
    names = [*pictures.glob("*.png"), pictures / "below/two.jpg", pictures / "bad.jpg"]
    assert {*rows} == {str(name) for name in names}
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert [*errors] == [str(pictures / "bad.jpg")]
    assert "JPEG, PNG, WEBP" in errors[str(pictures / "bad.jpg")]
    assert done.stdout.startswith(f"{out}: 25 rows, 1 of them errors, beside 0 that were there; ")


def test_a_row_is_what_the_graph_answers(written, pictures, graph):
    rows, model = rows_of(written[0]), GraphModel(graph)
    for path in (pictures / "00.png", pictures / "below/two.jpg"):
        row, result = rows[str(path)], model.explain(path, maps=["gradcam"], size="layer")
        (explanation,), (found,) = result.explanations, row["maps"]
        np.testing.assert_allclose(row["scores"], result.logits, atol=1e-5 * np.abs(result.logits).max())
        assert [one["label"] for one in row["predictions"]] == [one.label for one in result.predictions]
        best, second = (one["probability"] for one in row["predictions"][:2])
        assert row["doubt"] == pytest.approx(1 - (best - second), abs=1e-6)
        made = explanation.maps["gradcam"]
        values = np.array(found["values"], np.float32).reshape(found["shape"])
        np.testing.assert_allclose(values, made.values, atol=1e-3)  # float16
        assert (found["label"], found["map"], found["layer"]) == (explanation.target.label, "gradcam", "conv5")
        assert found["maximum"] == pytest.approx(made.maximum, rel=1e-5)
        receipt = json.loads(row["receipt"])
        assert receipt["image"] == {"sha256": row["sha256"], "bytes": row["bytes"]} == result.provenance["image"]
        with Image.open(written[0] / row["overlay"]) as overlay:
            drawn = np.asarray(overlay, float)
        whole = model.explain(path, maps=["gradcam"]).draw()
        assert drawn.shape == whole.shape
        assert np.abs(drawn - whole).mean() < 4  # JPEG


def test_the_gallery_begins_with_what_is_doubtful(written):
    rows = rows_of(written[0])
    doubts = {name: row["doubt"] for name, row in rows.items() if not row["error"]}
    assert most_doubtful(str(written[0]), 3) == sorted(doubts, key=lambda name: -doubts[name])[:3]


def test_the_report_is_about_what_is_doubtful(written, graph, tmp_path):
    command = [sys.executable, "-m", "export", "report", str(written[0]), "--model", str(graph), "--most", "3"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("pictures/**/*.html")]) == 3
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert all(name in index for name in most_doubtful(str(written[0]), 3))


def test_a_further_run_adds_what_is_missing_and_no_more(written, pictures, graph, tmp_path):
    out, _ = written
    before = {path: path.read_bytes() for path in out.glob("*.parquet")}
    done = bulk(pictures, out, "--overlays", graph=graph, status=2)  # for the picture that has an error
    assert ": 0 rows, 0 of them errors, beside 25 that were there, 1 of them with an error; " in done.stdout
    assert {path: path.read_bytes() for path in out.glob("*.parquet")} == before


def test_what_a_killed_run_left_is_completed(pictures, graph, tmp_path):
    command = [sys.executable, "-m", "export", "bulk", str(pictures / "*.png"), str(tmp_path), "--model", str(graph)]
    with (tmp_path.parent / "log").open("wb") as log:
        first = subprocess.Popen([*command, "--together", "1", "--workers", "1"], cwd=ROOT, stdout=log, stderr=log)
        below = []
        try:
            assert until(lambda: [*tmp_path.glob("*.parquet")] or first.poll() is not None, 120, 0.01)
            below = psutil.Process(first.pid).children(recursive=True)
        finally:
            first.kill()
            first.wait()
    assert below
    psutil.wait_procs(below, timeout=60)
    early = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    assert 0 < len(early) < 23
    (tmp_path / "_unfinished-1.parquet").write_bytes(b"half")
    done = bulk(pictures / "*.png", tmp_path, graph=graph)
    assert f": {23 - len(early)} rows, 0 of them errors, beside {len(early)} that were there; " in done.stdout
    assert {path: path.read_bytes() for path in early} == early
    assert {*rows_of(tmp_path)} == {*map(str, pictures.glob("*.png"))}
    assert not [*tmp_path.glob("_unfinished*")]


def test_a_second_run_is_refused_while_one_writes(written, pictures, graph):
    out, _ = written
    with Results(str(out), {}).held():
        done = bulk(pictures, out, "--overlays", graph=graph, status=2)
    assert done.stderr == f"error: another run writes to {out}; wait, or give another folder\n"
    bulk(pictures, out, "--overlays", graph=graph, status=2)  # for the picture that has an error


def table_of(kind, path):
    contents = [ONE.read_bytes(), TWO.read_bytes(), b"no picture", None]
    columns = {
        "bytes": pa.array(contents, pa.binary()),
        "struct": pa.array([content and {"bytes": content, "path": "a.jpg"} for content in contents]),
        "path": pa.array([str(ONE), str(TWO), str(path.with_name("missing.jpg")), None]),
    }
    pq.write_table(pa.table({"id": pa.array(range(4)), "picture": columns[kind]}), path, row_group_size=3)


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_pictures_are_read_out_of_parquet_files(tmp_path, kind):
    table_of(kind, tmp_path / "some.parquet")
    source = Source(str(tmp_path / "some.parquet"), "picture" if kind == "path" else "")
    found = source.find()
    assert [source.name_of(one) for one in found] == [f"{tmp_path}/some.parquet#{row}" for row in range(4)]
    contents = [*source.read([found[row] for row in (0, 1, 3)])]
    assert contents[:2] == [ONE.read_bytes(), TWO.read_bytes()]
    assert isinstance(contents[2], OSError)


def test_a_damaged_parquet_file_costs_its_own_pictures_alone(tmp_path):
    table_of("bytes", tmp_path / "some.parquet")
    content = bytearray((tmp_path / "some.parquet").read_bytes())
    content[200:1200] = bytes(1000)
    (tmp_path / "some.parquet").write_bytes(content)
    (tmp_path / "z.jpg").write_bytes(ONE.read_bytes())
    source = Source(str(tmp_path))
    contents = [*source.read(source.find())]
    assert contents[-1] == ONE.read_bytes()
    assert len(contents) == 5
    assert any(isinstance(content, OSError) for content in contents)


@pytest.mark.parametrize("address", ["{}", "{}/*.png", "{}/**/*.png", "file://{}", "{}/00.png"])
def test_addresses_of_pictures(pictures, address):
    source = Source(address.format(pictures))
    names = [source.name_of(one) for one in source.find()]
    assert names == sorted(names)
    start = "file://" if "://" in address else ""
    assert f"{start}{pictures}/00.png" in names
    (first,) = source.read([one for one in source.find() if one[0].endswith("/00.png")])
    assert first == (pictures / "00.png").read_bytes()
    assert not any(name.endswith(".txt") for name in names)


@pytest.mark.parametrize("address", ["{}", "{}/**", "file://{}"])
def test_results_inside_a_source_are_none_of_its_pictures(tmp_path, address):
    inside = tmp_path / "results"
    (inside / "_overlays").mkdir(parents=True)
    for path in (tmp_path / "one[1].jpg", inside / "_overlays/one.jpg"):
        path.write_bytes(ONE.read_bytes())
    pq.write_table(pa.table({"id": [1]}), inside / "explanations-1.parquet")
    source = Source(address.format(tmp_path), "", address.format(inside).replace("/**", ""))
    assert [path for path, _ in source.find()] == [str(tmp_path / "one[1].jpg")]
    assert Source(f"{tmp_path}/one[1].jpg").find() == [(str(tmp_path / "one[1].jpg"), -1)]


def test_results_of_pictures_that_are_no_files_here_have_no_report(tmp_path, graph, written):
    table = pq.read_table(next(written[0].glob("*.parquet")))
    names = pa.array([f"s3://bucket/{number}.jpg" for number in range(table.num_rows)])
    pq.write_table(table.set_column(0, "image", names), tmp_path / "explanations-1.parquet")
    command = [sys.executable, "-m", "export", "report", str(tmp_path), "--model", str(graph)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 2
    assert "is no file here; report takes results of pictures that are files" in done.stderr


def test_what_cannot_be_done_is_one_line_and_writes_nothing(tmp_path, pictures, graph, written):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    pq.write_table(pa.table({"a": pa.array([b"1"]), "b": pa.array([b"2"]), "c": pa.array([1])}), tmp_path / "t.parquet")
    cases = {
        (tmp_path / "none", tmp_path / "out"): "none does not exist",
        (foreign, tmp_path / "out"): "holds no picture; valid are pictures, folders, patterns and Parquet files",
        (pictures, foreign): "holds mine.txt, which is no result; give an empty folder",
        (
            tmp_path / "t.parquet",
            tmp_path / "out",
        ): "which column holds the pictures or their paths, --column; valid: a, b",
        (pictures, written[0], "--overlays", "--target", "star"): "give another folder",
        (pictures, written[0]): "give another folder",
        (pictures, tmp_path / "out", "--target", "unicorn"): "unicorn",
    }
    for arguments, said in cases.items():
        done = bulk(*arguments, graph=graph, status=2)
        assert said in done.stderr, arguments
        assert done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "out").exists()
    assert [*foreign.iterdir()] == [foreign / "mine.txt"]


def test_the_ray_job_is_of_known_fields_and_runs_the_command_as_it_is():
    job = yaml.safe_load((ROOT / "deploy/bulk/rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    # the fields of KubeRay 1.4's API reference that the manifest may use
    spec = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
    cluster = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    group = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
    ray_cluster = job["spec"]["rayClusterSpec"]
    groups = [ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]]
    assert {*job["spec"]} == spec
    assert {*ray_cluster} == cluster
    for one in groups:
        assert {*one} <= group
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **one["template"]}
        validate(pod, "1.31")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    version = ray_cluster["rayVersion"]
    assert f"\nray=={version}\n" in pinned
    assert f"rayproject/ray:{version}-" in (ROOT / "deploy/bulk/Dockerfile").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "export", *shlex.split(job["spec"]["entrypoint"])[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.startswith("error: graph /data/model.gradcam.onnx does not exist")


@pytest.mark.skipif(tool("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_no_complaint():
    command = [str(tool("hadolint")), str(ROOT / "deploy/bulk/Dockerfile")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")
