"""ONNX's own tests of operators, which come with the package onnx, over the operators as functions of torch."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from handler.model.onnx_network import SUPPORTED, OnnxNetwork

pytestmark = pytest.mark.slow

APART = {"QuantizeLinear", "DequantizeLinear"}  # stay in real numbers, see tests/export/packing/test_onnx_file.py
UNTESTED = {"And", "Or", "Not", "Equal", "Cast", "Einsum"}  # by these tests, of which none is of float32 throughout


def cases():
    """Each test with each of its inputs of real numbers in turn as the picture; the other inputs are constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ONNX's own, when it computes what is expected
        found = collect_testcases(None)
    for case in found:
        nodes, (given, expected) = case.model.graph.node, case.data_sets[0]
        arrays = [isinstance(value, (np.ndarray, np.generic)) for value in (*given, *expected)]
        if not all(arrays) or any(node.domain or node.op_type not in SUPPORTED - APART for node in nodes):
            continue
        for number, value in enumerate(given):
            if value.dtype == np.float32 and value.ndim:
                yield case, number, [np.asarray(one) for one in given], expected[0]


def network(case, number, given):
    """The test's graph; outputs beside the first are left out."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs = list(model.graph.input)
    del model.graph.input[:], model.graph.output[1:]
    for place, (value, array) in enumerate(zip(inputs, given, strict=True)):
        if place == number:
            model.graph.input.append(value)
        else:
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    model.graph.value_info.extend(model.graph.input)
    if model.graph.node[-1].op_type not in ("Split", "TopK"):
        del model.graph.node[-1].output[1:]
    return OnnxNetwork(model.SerializeToString()).eval()


def test_no_operator_answers_otherwise_than_onnx_says():
    passed, refused, wrong = set(), {}, []
    for case, number, given, expected in cases():
        try:
            with torch.no_grad():
                found = network(case, number, given)(torch.from_numpy(given[number].copy())).numpy()
        except Exception as error:  # any of them refuses the file
            refused[case.name, number] = str(error)
            continue
        kind = case.model.graph.node[0].op_type
        close = found.shape == expected.shape and np.allclose(found, expected, 1e-3, 1e-5, equal_nan=True)
        (passed.add((case.name, kind)) if close else wrong.append(case.name))
    assert wrong == []
    assert SUPPORTED - {kind for _, kind in passed} == UNTESTED | APART
    assert len(passed) >= 300
