"""Classifiers that are an ONNX file."""

import hashlib
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.ops import Permute

from export.__main__ import main
from export.packing.onnx_file import read_onnx
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError
from handler.explanation.evidence import TOP, Needs
from handler.model.checkpoint import read_checkpoint, write_checkpoint
from handler.model.classifier import build_classifier
from handler.model.layers.looking import scenes
from tests.support.exports import export_explanation, export_prediction
from tests.support.models import random_classifier
from tests.support.serving import ROOT

KERAS = ROOT / "tests" / "support" / "onnx_files" / "keras.onnx"
LABELS = ["red", "green", "blue"]
SCALED = "mean=0.5,0.5,0.5 std=0.25,0.25,0.25"
SIDE = 32


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(16, 24, 3, 1, 1), nn.SiLU())
        self.head = nn.Linear(24, 3)
        self.first[1].running_mean.normal_(0, 0.1)

    def forward(self, pictures):
        maps = self.second(self.first(pictures))
        return self.head(maps.mean((2, 3)) + maps.flatten(2).permute(0, 2, 1).reshape(maps.shape[0], -1, 24).amax(1))


def exported(path, module, *, batch=True, dynamo=False):
    """The file of a module, by either of torch's exporters."""
    example = torch.randn(2 if batch else 1, 3, SIDE, SIDE)
    names = {"input_names": ["pictures"], "output_names": ["scores"]}
    axes = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"pictures": {0: "n"}}}
    torch.onnx.export(module.eval(), (example,), path, dynamo=dynamo, verbose=False, **names, **(axes if batch else {}))
    return path


def graph_file(path, nodes, *, constants=(), shape=("n", 3, SIDE, SIDE), outputs=("scores",), opset=17, kind=1):
    """A file of nodes between "x" and "scores"."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", kind, shape)],
        ends,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def node(kind, inputs, outputs="scores", **said):
    return helper.make_node(kind, inputs.split(), outputs.split(), **said)


def weights(*shape):
    return np.random.default_rng(1).normal(0, 0.3, shape).astype(np.float32)


HEAD = [node("ReduceMean", "maps", "means", axes=[2, 3], keepdims=0), node("MatMul", "means w2")]
CONVOLUTION = node("Conv", "x w1", "maps", pads=[1, 1, 1, 1], strides=[2, 2])
CONSTANTS = {"w1": weights(8, 3, 3, 3), "w2": weights(8, 3)}


def scores_of(path, pictures, output=None):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return session.run(output, {given.name: pictures})[0]


def gradcam_of(classifier, pictures):
    layer = classifier.default_layer
    found = TorchEngine(classifier).run(pictures, [[TOP]] * len(pictures), Needs(layers=(layer,))).layers[layer]
    weights = found.gradient.mean((2, 3), keepdims=True)
    return np.maximum((weights * found.activation).sum(1), 0)


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_module_and_its_file_have_the_same_scores_and_maps(tmp_path, dynamo):
    module = Net().eval()
    classifier = build_classifier(read_onnx(exported(tmp_path / "net.onnx", module, dynamo=dynamo), LABELS, SCALED))
    pictures = scenes(4, (3, SIDE, SIDE), seed=8)
    assert classifier.alone == ""
    assert torch.allclose(classifier.module(pictures), module(pictures), 1e-4, 1e-5)
    path = next(path for path, shape in classifier.layers.items() if shape == (24, 8, 8))
    assert classifier.architecture == "onnx/net.onnx"
    assert path in dict(classifier.module.named_modules())


def test_layers_are_named_as_the_nodes_are(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w1"], ["a"], "/stem/conv.1/Conv"), node("Relu", "a", "maps"), *HEAD]
    checkpoint = read_onnx(graph_file(tmp_path / "m.onnx", nodes, constants=CONSTANTS), LABELS, SCALED)
    assert list(build_classifier(checkpoint).layers) == ["stem_conv_1_Conv", "maps"]


def test_a_graph_of_this_project_explains_as_the_network_that_it_was_made_of(tmp_path):
    module = random_classifier("resnet18", side=64)
    export_prediction(module, tmp_path / "resnet.onnx")
    checkpoint = read_onnx(tmp_path / "resnet.onnx", None, "")
    assert (checkpoint.labels, checkpoint.preprocessing) == (module.labels, module.preprocessing)
    pictures = scenes(2, (3, 64, 64), seed=8).numpy()
    expected, found = gradcam_of(module, pictures), gradcam_of(build_classifier(checkpoint), pictures)
    assert np.abs(found - expected).max() <= 1e-4 * expected.max()


def test_a_keras_network_with_channels_last_and_a_softmax_is_explained(tmp_path):
    checkpoint = read_onnx(KERAS, LABELS, SCALED)
    write_checkpoint(tmp_path / "keras.safetensors", checkpoint)
    classifier = build_classifier(read_checkpoint(tmp_path / "keras.safetensors"))
    pictures = scenes(3, (3, 64, 64), seed=8)
    probabilities = scores_of(KERAS, pictures.permute(0, 2, 3, 1).numpy())
    assert np.allclose(classifier.module(pictures).softmax(1), probabilities, atol=1e-6)
    assert (classifier.reading.head, classifier.reading.words) == ("softmax", "before the Softmax at probabilities")
    assert not any(isinstance(part, Permute) for part in classifier.module.modules())  # it turns the pictures back
    assert checkpoint.notes["onnx_file"].startswith(
        f"keras.onnx, sha256 {hashlib.sha256(KERAS.read_bytes()).hexdigest()}; within "
    )
    assert export_explanation(classifier, tmp_path / "keras.explain.onnx")


def test_a_file_for_one_picture_takes_any_number_and_pictures_keep_apart(tmp_path):
    path = exported(tmp_path / "one.onnx", Net(), batch=False)
    classifier = build_classifier(read_onnx(path, LABELS, SCALED))
    pictures = scenes(3, (3, SIDE, SIDE), seed=8)
    alone = np.concatenate([scores_of(path, picture.numpy()) for picture in pictures.split(1)])
    assert classifier.alone == ""
    assert np.allclose(classifier.module(pictures), alone, atol=1e-5)


def test_pictures_that_a_file_would_mix_are_run_one_by_one(tmp_path):
    nodes = [CONVOLUTION, node("Reshape", "maps shape", "all"), node("MatMul", "all w3")]
    constants = CONSTANTS | {"shape": np.array([-1, 8 * 16 * 16]), "w3": weights(8 * 16 * 16, 3)}
    nodes.insert(1, node("Transpose", "maps", "turned", perm=[1, 0, 2, 3]))
    nodes[2] = node("Reshape", "turned shape", "all")
    path = graph_file(tmp_path / "m.onnx", nodes, constants=constants, shape=(1, 3, SIDE, SIDE))
    assert "depend on the other pictures" in build_classifier(read_onnx(path, LABELS, SCALED)).alone


def test_sizes_that_depend_on_the_batch_are_computed_for_each_batch(tmp_path):
    nodes = [
        CONVOLUTION,
        node("Shape", "maps", "shape"),
        node("Gather", "shape zero", "n"),
        node("Mul", "n four", "each"),
        node("Concat", "each rest", "sizes", axis=0),
        node("Reshape", "maps sizes", "parts"),
        node("ReduceMean", "parts", "pooled", axes=[2], keepdims=0),
        node("Concat", "n eight", "joined", axis=0),
        node("Reshape", "pooled joined", "means"),
        node("MatMul", "means w2"),
    ]
    more = {"zero": [0], "rest": [2, -1], "four": [4], "eight": [8]}
    constants = CONSTANTS | {name: np.array(value) for name, value in more.items()}
    classifier = build_classifier(
        read_onnx(graph_file(tmp_path / "m.onnx", nodes, constants=constants), LABELS, SCALED)
    )
    assert classifier.alone == ""


def test_a_file_whose_weights_are_inputs_too_and_lie_in_another_file_is_read(tmp_path):
    path = graph_file(tmp_path / "old.onnx", [CONVOLUTION, *HEAD], constants=CONSTANTS)
    model = onnx.load(path)
    model.graph.input.extend(helper.make_tensor_value_info(name, 1, value.shape) for name, value in CONSTANTS.items())
    onnx.save(model, path, save_as_external_data=True, location="old.data", size_threshold=0)
    assert build_classifier(read_onnx(path, LABELS, SCALED)).layers["maps"] == (8, 16, 16)
    (tmp_path / "old.data").unlink()
    with pytest.raises(ModelError, match=r"old\.onnx cannot be read as ONNX: .*old\.data"):
        read_onnx(path, LABELS, SCALED)


def test_a_quantised_file_answers_as_onnx_runtime_does_and_has_gradients(tmp_path):
    nodes = [
        node("DequantizeLinear", "q1 s1", "w1"),
        CONVOLUTION,
        node("QuantizeLinear", "maps s zero", "quantised"),
        node("DequantizeLinear", "quantised s zero", "rounded"),
        node("ReduceMean", "rounded", "means", axes=[2, 3], keepdims=0),
        HEAD[1],
    ]
    quantised = np.round(CONSTANTS["w1"] / 0.01).clip(-127, 127).astype(np.int8)
    scales = {"s": np.float32(0.05), "s1": np.float32(0.01), "zero": np.uint8(0)}
    path = graph_file(tmp_path / "q.onnx", nodes, constants={"q1": quantised, "w2": CONSTANTS["w2"], **scales})
    checkpoint = read_onnx(path, LABELS, SCALED)
    classifier = build_classifier(checkpoint)
    pictures = scenes(2, (3, SIDE, SIDE), seed=8)
    assert np.allclose(classifier.module(pictures), scores_of(path, pictures.numpy()), atol=1e-3)
    assert "rounds as the file does" in checkpoint.notes["onnx_quantised"]
    assert gradcam_of(classifier, pictures.numpy()).max() > 0


ROUNDED = [node("QuantizeLinear", "p s zero", "q"), node("DequantizeLinear", "q s zero")]


@pytest.mark.parametrize(("kind", "head"), [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")])
@pytest.mark.parametrize("behind", [[node("Identity", "p")], [node("Unsqueeze", "p axes")], ROUNDED])
def test_a_last_activation_is_read_before_it(tmp_path, kind, head, behind):
    nodes = [CONVOLUTION, HEAD[0], node("MatMul", "means w2", "s0"), node(kind, "s0", "p"), *behind]
    more = {"s": np.float32(0.01), "zero": np.uint8(0), "axes": np.array([2, 3])}
    path = graph_file(tmp_path / "m.onnx", nodes, constants=CONSTANTS | more, outputs=["scores"])
    classifier = build_classifier(read_onnx(path, LABELS, SCALED))
    assert (classifier.reading.head, classifier.reading.words) == (head, f"before the {kind} at probabilities")
    model = onnx.load(path)
    model.graph.output[0].name = "s0"
    onnx.save(model, path)
    pictures = scenes(2, (3, SIDE, SIDE), seed=8)
    assert np.allclose(classifier.module(pictures), scores_of(path, pictures.numpy()), atol=1e-5)


def test_operators_that_are_functions_of_others_are_taken_apart(tmp_path):
    nodes = [CONVOLUTION, node("Celu", "maps", "soft"), *HEAD]
    nodes[2] = node("ReduceMean", "soft", "means", axes=[2, 3], keepdims=0)
    assert build_classifier(read_onnx(graph_file(tmp_path / "m.onnx", nodes, constants=CONSTANTS), LABELS, SCALED))


IF = helper.make_node(
    "If",
    ["yes"],
    ["maps"],
    then_branch=helper.make_graph([node("Relu", "x", "a")], "a", [], [helper.make_tensor_value_info("a", 1, None)]),
    else_branch=helper.make_graph([node("Neg", "x", "a")], "b", [], [helper.make_tensor_value_info("a", 1, None)]),
)


@pytest.mark.parametrize(
    ("nodes", "how", "why"),
    [
        (
            [node("NonZero", "x", "a"), node("Det", "x")],
            {"outputs": ["scores"]},
            "operators Det are not supported; valid",
        ),
        (
            [node("Det", "x", "a"), node("Hardmax", "a")],
            {},
            "operators Det, Hardmax are not supported; valid are Abs, Ac",
        ),
        ([node("Mine", "x", domain="com.acme")], {}, "operators com.acme.Mine are not supported"),
        ([IF, *HEAD], {}, "operators If are not supported"),
        (
            [node("DynamicQuantizeLinear", "x", "q s z"), node("DequantizeLinear", "q s z")],
            {},
            "operators DynamicQuantizeLinear",
        ),
        (
            [CONVOLUTION, *HEAD],
            {"kind": TensorProto.UINT8},
            r"takes x uint8 \[0, 3, 32, 32\]; valid is one input, float",
        ),
        ([CONVOLUTION, *HEAD], {"shape": ("n", 300)}, r"takes x float \[0, 300\]; valid is one input, float"),
        (
            [CONVOLUTION, *HEAD],
            {"shape": ("n", 3, 32, 48)},
            "takes pictures of 3 channels of 32x48 pixels, and preprocessing= makes 3 channels of 32x32 pixels",
        ),
        ([CONVOLUTION, *HEAD], {"outputs": ("scores", "means")}, "has the outputs scores, means; valid is output="),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(tmp_path, nodes, how, why):
    path = graph_file(tmp_path / "m.onnx", nodes, constants=CONSTANTS | {"yes": np.array(True)}, **how)
    with pytest.raises(ModelError, match=why):
        read_onnx(path, LABELS, f"{SCALED} resize=32 crop=32")


@pytest.mark.parametrize(
    ("shape", "channels", "said"),
    [(("n", 1, SIDE, SIDE), 1, ""), (("n", SIDE, SIDE, 1), 1, ""), (("n", 5, "h", "w"), 5, "resize=32 crop=32")],
)
def test_a_mean_and_a_std_of_one_value_count_for_all_channels_of_the_file(tmp_path, shape, channels, said):
    turned = [node("Transpose", "x", "y", perm=[0, 3, 1, 2])] if shape[3] == channels else [node("Identity", "x", "y")]
    weight = np.random.default_rng(0).standard_normal((8, channels, 3, 3)).astype(np.float32)
    nodes = [*turned, node("Conv", "y w", "maps", strides=[2, 2]), *HEAD]
    path = graph_file(tmp_path / "m.onnx", nodes, constants=CONSTANTS | {"w": weight}, shape=shape)
    how = read_onnx(path, LABELS, f"mean=0.5 std=0.25 {said}").preprocessing
    assert (how.mean, how.std) == ((0.5,) * channels, (0.25,) * channels)
    with pytest.raises(ModelError, match=f"takes pictures of {channels} channels of .* makes 2 channels of 32x32"):
        read_onnx(path, LABELS, f"mean=0.5 std=0.25 channels=2 {said}")


def test_files_that_are_none_and_labels_that_are_missing_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match=r"text\.onnx cannot be read as ONNX"):
        read_onnx(tmp_path / "text.onnx", LABELS, SCALED)
    for content, said in {"": "is empty", "<!doctype html>": "is a web page and not the file"}.items():
        (tmp_path / "text.onnx").write_text(content)
        with pytest.raises(ModelError, match=rf"text\.onnx {said}"):
            read_onnx(tmp_path / "text.onnx", LABELS, SCALED)
    with pytest.raises(
        ModelError, match=r"keras\.onnx does not say its labels: give one for each of its 3 scores, labels="
    ):
        read_onnx(KERAS, None, SCALED)
    with pytest.raises(ModelError, match="lacks mean, std"):
        read_onnx(KERAS, LABELS, "")


def test_the_command_packs_a_file_and_refuses_a_second_classifier(tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    shutil.copy(KERAS, tmp_path / "keras.onnx")
    said = ["--onnx", str(tmp_path / "keras.onnx"), "--labels", str(tmp_path / "labels.txt"), "--preprocess", SCALED]
    written = ["--store", str(tmp_path / "store"), "--name", "keras"]
    assert main(["archive", "--no-sidecar", *said, *written]) == 0
    assert "onnx_file: keras.onnx, sha256 " in capsys.readouterr().out
    assert main(["archive", "--model", "resnet18", *said, *written]) == 2
    assert "is the whole classifier, and model cannot be given with it" in capsys.readouterr().err
