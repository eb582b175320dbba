"""Sessions that share weights."""

import gc

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from handler.graphs import shared_weights
from handler.graphs.shared_weights import Prepared

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.standard_normal((2, 3, 12, 12)).astype(np.float32)


def network(seed, *, product=False):
    """A convolution, and a matrix product of its sums if asked for."""
    weight = np.random.default_rng(seed).standard_normal((32, 3, 5, 5)).astype(np.float32)
    nodes, held = [helper.make_node("Conv", ["input", "weight"], ["found"])], {"weight": weight}
    if product:
        held["matrix"] = np.random.default_rng(seed).standard_normal((32, 2000)).astype(np.float32)
        nodes = [helper.make_node("Conv", ["input", "weight"], ["cells"])]
        nodes += [helper.make_node("GlobalAveragePool", ["cells"], ["means"])]
        nodes += [helper.make_node("Flatten", ["means"], ["flat"])]
        nodes += [helper.make_node("MatMul", ["flat", "matrix"], ["found"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [value("input", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [value("found", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"name": "kept"})
    return model.SerializeToString()


def plain(content):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("product", [False, True])
def test_answers_and_metadata_are_those_of_a_session_with_weights_of_its_own(product, tmp_path):
    content = network(1, product=product)
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    expected = plain(content).run(None, {"input": PICTURES})[0]
    for model in (content, str(path)):
        prepared = Prepared.of(model)
        for threads in (1, 2):
            session = prepared.session(threads)
            np.testing.assert_allclose(session.run(None, {"input": PICTURES})[0], expected, rtol=1e-5, atol=1e-5)
            assert session.get_modelmeta().custom_metadata_map == {"name": "kept"}
            assert session.get_session_options().intra_op_num_threads == threads


def test_equal_weights_are_held_once_and_others_apart():
    first, again, other = (Prepared.of(network(seed)) for seed in (1, 1, 2))
    (weight,), (same,), (different,) = (prepared.weights.values() for prepared in (first, again, other))
    assert weight is same
    assert weight is not different


def test_weights_are_let_go_with_the_last_session():
    prepared = Prepared.of(network(3))
    known = {*shared_weights._KNOWN}
    session = prepared.session(1)
    expected = plain(network(3)).run(None, {"input": PICTURES})[0]
    del prepared
    gc.collect()
    assert known <= {*shared_weights._KNOWN}
    np.testing.assert_allclose(session.run(None, {"input": PICTURES})[0], expected, rtol=1e-5, atol=1e-5)
    del session
    gc.collect()
    assert not known & {*shared_weights._KNOWN}


def test_a_picture_gets_the_same_scores_alone_and_in_a_batch():
    session = Prepared.of(network(1, product=True)).session(1)
    together = session.run(None, {"input": PICTURES})[0]
    alone = [session.run(None, {"input": PICTURES[row : row + 1]})[0] for row in range(len(PICTURES))]
    np.testing.assert_array_equal(np.concatenate(alone), together)


@pytest.mark.parametrize(("product", "size", "packs"), [(False, 0, True), (True, 0, False), (True, 1 << 20, True)])
def test_large_matrices_beside_kernels_are_not_copied_by_each_session(product, size, packs, monkeypatch):
    monkeypatch.setattr(shared_weights, "_PACKED_BYTES", size)
    prepared = Prepared.of(network(1, product=product))
    assert prepared.packs is packs
    options = prepared.session(1).get_session_options()
    assert options.get_session_config_entry("session.disable_prepacking") == str(int(not packs))


def test_without_the_package_onnx_sessions_have_weights_of_their_own(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    prepared = Prepared.of(network(1))
    assert not prepared.weights
    expected = plain(network(1)).run(None, {"input": PICTURES})[0]
    np.testing.assert_allclose(prepared.session(1).run(None, {"input": PICTURES})[0], expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_graph_raises_the_exception_of_onnx_runtime():
    with pytest.raises(Exception, match="(?i)protobuf|model"):
        Prepared.of(b"no graph")
