"""What the tables say of graphs of a few nodes."""

import pytest
from onnx import TensorProto, helper

from deploy.devices.check import missing, report, targets
from export.__main__ import main
from tests.support.graphs import describe, write_graph


def model_of(*nodes, opset=18, batch="batch", constants=()):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    known = [helper.make_tensor(name, TensorProto.INT64, [len(values)], values) for name, values in constants]
    graph = helper.make_graph([helper.make_node(*node[:3], **node[3]) for node in nodes], "few", [given], [made], known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


POOL = {"kernel_shape": [2, 2]}
SHAPE = [("s", [1, -1])]


@pytest.mark.parametrize(
    ("model", "lacking"),
    [
        (model_of(("Relu", ["x"], ["y"], {})), {"qnn": ["inputs with a free batch"]}),
        (model_of(("Relu", ["x"], ["y"], {}), batch=1), {}),
        (
            model_of(("MaxPool", ["x"], ["y", "i"], POOL), batch=1),
            dict.fromkeys(targets(), ["MaxPool with a second output"]),
        ),
        (
            model_of(("MaxPool", ["x"], ["y"], POOL), batch=1, opset=22),
            {name: ["MaxPool of opset 22"] for name in ("webgpu", "webgpu-jsep")},
        ),
        (model_of(("Relu", ["x"], ["y"], {}), batch=1, opset=26), {"tensorrt": ["opset 26, known are 9-25"]}),
        (model_of(("Reshape", ["x", "s"], ["y"], {}), constants=SHAPE, batch=1), {}),
        (
            model_of(("Shape", ["x"], ["s"], {}), ("Reshape", ["x", "s"], ["y"], {}), batch=1),
            {"webnn": ["Reshape by values that are not constant"], "nnapi": ["Shape"], "qnn": ["Shape"]},
        ),
        (
            model_of(("Identity", ["s"], ["t"], {}), ("Reshape", ["x", "t"], ["y"], {}), constants=SHAPE, batch=1),
            {},  # what depends on constants alone is constant, and no device computes it
        ),
        (
            model_of(("Frobnicate", ["x"], ["y"], {"domain": "mine"}), batch=1),
            dict.fromkeys(targets(), ["mine:Frobnicate"]),
        ),
    ],
)
def test_what_no_table_has_is_not_known_to_be_taken(model, lacking):
    assert {name: [*found] for name, target in targets().items() if (found := missing(model, target))} == lacking


def test_every_table_says_where_it_is_from():
    for name, target in targets().items():
        assert all(target[part] for part in ("name", "source", "as_of")), name
        listed = [operator for names in target["operators"].values() for operator in names.split()]
        assert len(listed) == len({*listed}) > 40, name


def test_the_command_prints_a_line_for_each_target_and_fails_for_the_one_that_is_named(tmp_path, capsys):
    path = write_graph(tmp_path, describe(), opset=17)
    found = dict(report(path))
    assert {*found} == {*targets()}
    assert main(["devices", str(path), "--sources"]) == 0
    said = capsys.readouterr().out
    assert "github.com/onnx/onnx-tensorrt" in said
    assert main(["devices", str(path), "--target", "tensorrt"]) == 0
    assert main(["devices", str(path), "--target", "coreml"]) == 1  # GlobalAveragePool is there, Flatten is not
    capsys.readouterr()
    (tmp_path / "no.onnx").write_text("no graph")
    assert main(["devices", str(tmp_path / "no.onnx")]) == 2
    assert "no.onnx is no ONNX file" in capsys.readouterr().err
    (tmp_path / "empty.onnx").touch()
    for name, answer in {"empty.onnx": "names no opset", "none.onnx": "cannot be read: No such file"}.items():
        assert main(["devices", str(tmp_path / name)]) == 2
        assert answer in capsys.readouterr().err


def test_nodes_of_inner_graphs_count_and_their_constants_do_not():
    made = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    sizes = helper.make_tensor("t", TensorProto.INT64, [2], [1, -1])
    inner = [helper.make_node("Reshape", ["x", "t"], ["r"]), helper.make_node("NonZero", ["r"], ["z"])]
    branch = helper.make_graph(inner, "branch", [], [made], [sizes])
    model = model_of(("If", ["c"], ["y"], {"then_branch": branch, "else_branch": branch}), batch=1)
    assert missing(model, targets()["webnn"]) == {"If": 1, "NonZero": 2}


def test_initializers_of_old_files_are_constants_although_they_are_inputs():
    model = model_of(("Reshape", ["x", "s"], ["y"], {}), constants=SHAPE, batch=1)
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    model.ir_version = 3
    assert not missing(model, targets()["webnn"])
    model.ir_version = 4
    assert [*missing(model, targets()["webnn"])] == ["Reshape by values that are not constant"]
