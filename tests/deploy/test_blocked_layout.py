"""Gates and scales become parts of convolutions, which compute the same; what could change a result stays."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxruntime
import pytest

from deploy.devices.blocked_layout import use_blocked_layout

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 18]> g (float[n, 6, 5, 5] x, float[n, 6, 5, 5] y) => (float[n, c, h, w] z)'
KERNEL = RNG.standard_normal((4, 6, 3, 3)).astype(np.float32)
CONSTANTS = {
    "kernel": KERNEL,
    "square": RNG.standard_normal((6, 6, 1, 1)).astype(np.float32),
    "grouped": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "depthwise": RNG.standard_normal((6, 1, 3, 3)).astype(np.float32),
    "scale": RNG.uniform(0.5, 2, (1, 6, 1, 1)).astype(np.float32),
    "gain": RNG.uniform(0.5, 2, (1, 1, 1, 1)).astype(np.float32),
    "volume": RNG.standard_normal((2, 1, 3, 3, 3)).astype(np.float32),
    "channels": np.int64([1]),
    "line": RNG.uniform(0.5, 2, (1, 1, 1, 5)).astype(np.float32),
    "start": np.int64([0, 0, 0, 0]),
    "end": np.int64([9, 6, 5, 5]),
    "zero": np.float32(0),
    "one": np.float32(1),
    "six": np.float32(6),
    "most": np.finfo(np.float32).max,
}
GATE = "high = Mul(y, most)\n gate = Clip(high, zero, one)"
GATE_OF_SIX = """high = Mul(y, most)\n above = Clip(high, zero, one)
 rest = Sub(six, y)\n low = Mul(rest, most)\n below = Clip(low, zero, one)\n gate = Mul(above, below)"""


def model_of(*lines: str) -> onnx.ModelProto:
    made = onnx.parser.parse_model(f"{HEAD} {{ {chr(10).join(lines)} }}")
    used = {name for node in made.graph.node for name in node.input}
    constants = {name: values for name, values in CONSTANTS.items() if name in used}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in constants.items())
    return onnx.shape_inference.infer_shapes(made)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    changed = ir.from_proto(model)
    use_blocked_layout(changed)
    common_passes.RemoveUnusedNodesPass()(changed)
    made = ir.to_proto(changed)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    gate = np.random.default_rng(1).uniform(-3, 9, (2, 6, 5, 5)).clip(0, 6)
    gate[0, 0, 0] = [0, 1e-12, 5.9999995, 6, 3]  # both bounds, and values next to them
    pictures = np.random.default_rng(2).standard_normal((2, 6, 5, 5))
    (found,) = session.run(None, {"x": pictures.astype(np.float32), "y": gate.astype(np.float32)})
    return found


def operators(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(
    "convolution",
    [
        "z = Conv<pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]>(scaled, kernel)",
        "z = Conv<group: int = 2>(scaled, grouped)",
        "z = Conv<group: int = 6, pads: ints = [1, 1, 1, 1]>(scaled, depthwise)",
    ],
)
@pytest.mark.parametrize("product", ["scaled = Mul(x, scale)", "scaled = Mul(scale, x)"])
def test_the_scale_of_channels_goes_into_the_kernel(product, convolution):
    model = model_of(product, convolution, "unused = Relu(y)")
    made = rewritten(model)
    assert operators(made) == {"Conv": 1, "Mul": 1}
    values, kernel = next(node.input[:2] for node in made.graph.node if node.op_type == "Conv")
    assert values == "x"
    assert kernel in next(node.output for node in made.graph.node if node.op_type == "Mul")  # of two constants
    np.testing.assert_allclose(run(made), run(model), rtol=0, atol=1e-6 * np.abs(run(model)).max())


@pytest.mark.parametrize(
    "lines",
    [
        ("scaled = Mul(x, line)", "z = Conv(scaled, kernel)"),  # not of channels
        ("scaled = Mul(x, gain)", "z = Conv(scaled, kernel)"),  # one for all channels
        ("m = ReduceMean<keepdims: int = 1>(x, channels)", "scaled = Mul(m, scale)", "z = Conv(scaled, kernel)"),
        (
            "v = Unsqueeze(x, channels)",
            "scaled = Mul(v, scale)",
            "w = Conv(scaled, volume)",
            "z = ReduceMean<keepdims: int = 0>(w, channels)",
        ),
        ("p = Mul(x, scale)", "g = Clip(p, zero, one)", "r = Relu(y)", "z = Mul(r, g)"),  # no gate
        ("q = Sub(scale, x)", "p = Mul(q, most)", "g = Clip(p, zero, one)", "r = Relu(y)", "z = Mul(r, g)"),
        ("scaled = Mul(x, y)", "z = Conv(scaled, kernel)"),  # not constant
        ("k = ReduceMean<keepdims: int = 1>(y)", "p = Mul(k, square)", "scaled = Mul(x, scale)", "z = Conv(scaled, p)"),
        ("z = Mul(x, scale)",),  # no convolution
        ("scaled = Mul(x, scale)", "c = Conv(scaled, square)", "z = Add(c, scaled)"),  # read elsewhere, too
    ],
)
def test_other_products_stay(lines):
    model = model_of(*lines)
    made = rewritten(model)
    assert operators(made) == operators(model)
    np.testing.assert_array_equal(run(made), run(model))


@pytest.mark.parametrize("gate", [GATE, GATE_OF_SIX], ids=["ReLU", "ReLU6"])
@pytest.mark.parametrize("product", ["z = Mul(r, gate)", "z = Mul(gate, r)"])
@pytest.mark.parametrize("before", ["c = Conv(x, square)", "c = Slice(x, start, end)"])
def test_gates_become_biases_of_convolutions(gate, product, before):
    model = model_of(before, "r = Relu(c)", gate, product)
    made = rewritten(model)
    assert not {"Mul", "Sub"} & {*operators(made)}
    np.testing.assert_array_equal(run(made), run(model))
    assert 0 < (run(made) == 0).mean() < 1


@pytest.mark.parametrize(
    "lines",
    [
        ("r = Relu(x)", GATE, "z = Mul(r, gate)"),  # nothing before it
        ("c = Conv(x, square)", "r = Relu(c)", GATE, "p = Mul(r, gate)", "z = Add(p, r)"),  # the plain value is read
        ("r = Conv(x, square)", GATE, "z = Mul(r, gate)"),  # negative values pass
        ("c = Conv(x, square)", "r = Relu(c)", GATE.replace("zero, one", "zero, six"), "z = Mul(r, gate)"),
        ("c = Conv(x, square)", "r = Relu(c)", GATE.replace("zero, one", "zero"), "z = Mul(r, gate)"),
        ("c = ReduceMean<keepdims: int = 1>(x, channels)", "r = Relu(c)", GATE, "z = Mul(r, gate)"),  # for all channels
    ],
)
def test_other_gates_stay(lines):
    model = model_of(*lines)
    made = rewritten(model)
    assert operators(made) == operators(model)
    np.testing.assert_array_equal(run(made), run(model))
