import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from handler.errors import ModelError
from handler.graphs.description import KIND_EXPLANATION, KIND_GRADCAM, KIND_PREDICTION, GraphDescription
from handler.graphs.session import GraphSession
from tests.support.graphs import describe, make_graph, write_graph

PICTURES = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)


@pytest.mark.parametrize("kind", [KIND_PREDICTION, None])
def test_it_opens_a_graph_and_gives_the_outputs_in_the_order_asked_for(tmp_path, kind):
    graph = GraphSession.open(write_graph(tmp_path, describe()), kind, threads=1)
    assert graph.description == describe()
    probabilities, logits = graph.infer({"input": PICTURES}, ["probabilities", "logits"])
    np.testing.assert_allclose(logits, [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert len(graph.infer({"input": PICTURES[:1]}, ["logits"])[0]) == 1


@pytest.mark.parametrize("kind", [KIND_GRADCAM, KIND_EXPLANATION])
def test_it_opens_graphs_with_targets(tmp_path, kind):
    graph = GraphSession.open(write_graph(tmp_path, describe(kind)), kind, threads=1)
    (gradcam,) = graph.infer({"input": PICTURES, "target": np.array([0, -1])}, ["gradcam"])
    np.testing.assert_allclose(gradcam, PICTURES.mean(axis=1))


def test_the_number_of_threads_is_what_was_asked_for(tmp_path):
    options = GraphSession.open(write_graph(tmp_path, describe()), threads=3).session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"  # or torch would be half as fast


def test_pictures_run_one_by_one_where_matrices_are_not_packed(tmp_path, monkeypatch):
    graph = GraphSession.open(write_graph(tmp_path, describe()), threads=1)
    expected, sizes, run = graph.infer({"input": PICTURES}, ["logits"]), [], graph.session.run
    single = replace(graph, prepared=replace(graph.prepared, packs=False))
    monkeypatch.setattr(
        graph.session, "run", lambda names, given: sizes.append(len(given["input"])) or run(names, given)
    )
    np.testing.assert_array_equal(single.infer({"input": PICTURES}, ["logits"]), expected)
    assert sizes == [1, 1]


@pytest.mark.parametrize("batch", [0, 2])
def test_one_picture_counts_for_all_activations(batch, monkeypatch, tmp_path):
    graph = GraphSession.open(write_graph(tmp_path, describe()), threads=1)
    graph = replace(graph, prepared=replace(graph.prepared, packs=False), description=describe(batch=batch))
    seen = []
    monkeypatch.setattr(graph.session, "run", lambda _, given: seen.append(given) or [given["activations"]])
    activations = np.arange(3.0)
    (found,) = graph.infer({"input": PICTURES[:1], "activations": activations}, ["logits"])
    np.testing.assert_array_equal(found, activations)
    assert all(len(given["input"]) == len(given["activations"]) == (batch or 1) for given in seen)


def _cut(content):
    return content[: len(content) // 2]


def _flip(content):
    return bytes(255 - byte for byte in content)


def test_a_graph_takes_another_number_of_threads_whatever_becomes_of_its_file(tmp_path):
    graph = GraphSession.open(write_graph(tmp_path, describe()), threads=3, shared=True)
    write_graph(tmp_path, describe(labels=["other", "names", "here"]))
    graph.path.unlink()
    other = graph.with_threads(2)
    assert other.session.get_session_options().intra_op_num_threads == other.threads == 2
    assert (other.path, other.sha256, other.description) == (graph.path, graph.sha256, graph.description)


@pytest.mark.parametrize("spoil", [_cut, _flip, lambda _: b"", lambda _: b"This is a text.\n" * 20])
def test_a_file_that_is_no_whole_onnx_is_refused(tmp_path, spoil):
    path = write_graph(tmp_path, describe())
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.onnx"):
        GraphSession.open(path, KIND_PREDICTION)


def test_a_file_that_does_not_exist_is_refused(tmp_path):
    for path, said in {tmp_path / "gone.onnx": "does not exist", tmp_path: "is a folder"}.items():
        with pytest.raises(ModelError, match=said):
            GraphSession.open(path, KIND_PREDICTION)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", None), ("labels", "red"), ("labels", "3"), ("preprocessing", "null"), ("versions", "[]")],
)
def test_a_graph_that_does_not_describe_itself_is_refused(tmp_path, field, value):
    model = make_graph(describe())
    properties = {**describe().to_properties(), field: value}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: text for name, text in properties.items() if text is not None})
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"a\.onnx: the graph does not describe itself"):
        GraphSession.open(tmp_path / "a.onnx", KIND_PREDICTION)


def test_a_foreign_graph_is_refused(tmp_path):
    model = make_graph(describe())
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="does not describe itself"):
        GraphSession.open(tmp_path / "a.onnx")


def test_the_description_survives_the_file(tmp_path):
    written = describe(versions={"torch": "2"}, verification="equal", coverage="37 of 37", labels=["ä", "\n", '"'])
    assert GraphDescription.from_properties(written.to_properties()) == written
    assert GraphSession.open(write_graph(tmp_path, written)).description == written


def test_another_kind_is_refused(tmp_path):
    path = write_graph(tmp_path, describe(KIND_GRADCAM))
    with pytest.raises(ModelError, match="of the kind 'gradcam', needed is prediction"):
        GraphSession.open(path, KIND_PREDICTION)
    onnx.save(make_graph(describe("future")), tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="of the kind 'future', needed is prediction or gradcam or explanation"):
        GraphSession.open(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"opset": 99}, rf"the file has opset 99, ONNX Runtime {onnxruntime.__version__} reads at most \d+$"),
        ({"ir_version": 99}, rf"IR version 99, ONNX Runtime {onnxruntime.__version__} reads at most \d+$"),
    ],
)
def test_a_file_too_new_for_this_onnx_runtime_is_refused_in_words(tmp_path, how, said):
    with pytest.raises(ModelError, match=said):
        GraphSession.open(write_graph(tmp_path, describe(), **how), KIND_PREDICTION)


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        (KIND_PREDICTION, {"inputs": ["input", "target"]}, "has the inputs input, target, needed are input"),
        (KIND_GRADCAM, {"inputs": ["input"]}, "has the inputs input, needed are input, target"),
        (KIND_PREDICTION, {"outputs": ["logits"]}, "has the outputs logits, needed are logits, probabilities"),
        (KIND_EXPLANATION, {"outputs": ["logits", "gradcam"]}, "has the outputs logits, gradcam, needed are"),
    ],
)
def test_other_inputs_and_outputs_are_refused(tmp_path, kind, how, said):
    with pytest.raises(ModelError, match=said):
        GraphSession.open(write_graph(tmp_path, describe(kind), **how), kind)


@pytest.mark.parametrize(
    ("kind", "changes", "how", "said"),
    [
        (KIND_PREDICTION, {"labels": ["red", "blue"]}, {}, r"logits is .* \['batch', 3\], needed is .* \['batch', 2\]"),
        (KIND_PREDICTION, {}, {"shapes": {"input": ["batch", 3, 4, 4]}}, "input is .* 3, 4, 4.*needed is .* 3, 2, 2"),
        (KIND_PREDICTION, {}, {"shapes": {"input": [2, 3, 2, 2]}}, r"is .* \[2, 3, 2, 2\], needed is .* \['batch'"),
    ],
)
def test_other_shapes_are_refused(tmp_path, kind, changes, how, said):
    with pytest.raises(ModelError, match=said):
        GraphSession.open(write_graph(tmp_path, describe(kind, **changes), **how), kind)


def test_other_types_and_scalars_are_refused(tmp_path):
    model = make_graph(describe(KIND_GRADCAM))
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"target is tensor\(int32\).* needed is tensor\(int64\)"):
        GraphSession.open(tmp_path / "a.onnx")
    onnx.save(make_graph(describe(KIND_GRADCAM), shapes={"target": []}), tmp_path / "a.onnx")
    with pytest.raises(ModelError, match=r"target is tensor\(int64\) \[\], needed"):
        GraphSession.open(tmp_path / "a.onnx")


def test_a_graph_is_opened_without_torch_and_onnx(tmp_path):
    path = write_graph(tmp_path, describe())
    code = (
        "import sys\n"
        "from handler.client.model import GraphModel\n"
        f"assert GraphModel({str(path)!r}).description.kind == 'prediction'\n"
        "assert not {'torch', 'torchvision', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
