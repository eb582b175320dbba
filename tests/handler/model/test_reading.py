"""How the scores are found among the outputs of a network, and how the head turns the scores into probabilities."""

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import handler
from export.packing.archive import assumptions
from handler.client.model import GraphModel
from handler.client.replay import replay
from handler.errors import ModelError
from handler.explanation.evidence import probabilities
from handler.model.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from handler.model.classifier import of_module
from handler.model.reading import Reading, find_reading
from handler.picture.preprocess import Preprocessing
from tests.support.exports import EXPORTERS

SIDE = 32
HOW = Preprocessing(resize_size=SIDE, crop_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 36, 3), np.uint8)
LABELS = ["cat", "dog", "bird"]

Pair = namedtuple("Pair", "features logits")  # noqa: PYI024 - what networks return


@dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Net(nn.Module):
    def __init__(self, scores=3, made=lambda features, scores: scores):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.made = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, scores), made

    def forward(self, x):
        features = self.conv(x).relu()
        return self.made(features, self.fc(features.mean((2, 3))))


def reading_of(module, classes=3, head="", output=""):
    return find_reading(module.eval(), "odd", HOW.shape, classes, head, output)


def wrapped(module, labels=LABELS, **said):
    return handler.wrap(module.eval(), labels=labels, preprocessing=HOW, **said)


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (lambda f, s: {"features": f, "logits": s}, ("logits", "1")),
        (lambda f, s: OrderedDict(features=f, logits=s), ("logits", "1")),
        (lambda f, s: Pair(f, s), ("logits", "1")),
        (lambda f, s: Output(f, s), ("logits", "1")),
        (lambda f, s: SimpleNamespace(features=f, logits=s), ("logits", "1")),
        (lambda f, s: (f, s), ("1",)),
        (lambda f, s: [f, s, None], ("1",)),
        (lambda f, s: {1: f, 0: s}, ("0",)),  # keys go before indices
    ],
    ids=["dict", "ordered", "namedtuple", "dataclass", "attributes", "tuple", "list", "numbers"],
)
def test_output_picks_the_scores_by_key_attribute_or_index(made, names):
    expected = wrapped(Net()).predict(PICTURE)
    for name in names:
        assert wrapped(Net(made=made), output=name).predict(PICTURE) == expected
    with pytest.raises(ModelError, match=r"^architecture odd answers with .*; valid is output= with the name of the "):
        reading_of(Net(made=made))
    with pytest.raises(ModelError, match=r"has no output 'mask' in .*\(1, 8, 15, 15\).*\(1, 3\)"):
        reading_of(Net(made=made), output="mask")


@pytest.mark.parametrize("made", [lambda _, s: (s,), lambda _, s: {"logits": s, "loss": None}, lambda _, s: (s, s)])
def test_the_only_tensor_needs_no_name(made):
    assert wrapped(Net(made=made)).predict(PICTURE) == wrapped(Net()).predict(PICTURE)


def test_a_transformers_output_is_read():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    torch.manual_seed(0)
    network = transformers.ResNetForImageClassification(config).eval()
    assert reading_of(network) == Reading(output="logits", words="the output logits")
    tensor = torch.randn(3, SIDE, SIDE)
    with torch.no_grad():
        expected = network(tensor[None]).logits[0].numpy()
    np.testing.assert_allclose(wrapped(network).explain(tensor, maps="none").logits, expected, atol=1e-5)


def test_an_output_of_a_network_that_returns_one_tensor_is_refused():
    with pytest.raises(ModelError, match="has no output 'logits' in a Tensor; leave output= out"):
        reading_of(Net(), output="logits")


def test_a_part_that_holds_no_tensor_is_no_output():
    parts = r"architecture odd has a dict, no tensor, as output 'out' in a dict; "
    with pytest.raises(ModelError, match=rf"{parts}no part of it is a tensor"):
        reading_of(Net(made=lambda f, s: {"out": {"scores": s}}), output="out")
    with pytest.raises(ModelError, match=rf"{parts}valid is output= with the name of the scores: aux \(1, 3\)"):
        reading_of(Net(made=lambda f, s: {"out": {"scores": s}, "aux": s}), output="out")


def test_an_output_is_named_by_a_number_too():
    two = Net(made=lambda f, s: (s, -s))
    zero, one = (wrapped(two, output=index).predict(PICTURE) for index in (0, 1))
    assert zero == wrapped(two, output="0").predict(PICTURE) != one


@pytest.mark.parametrize(
    ("end", "head"),
    [
        (nn.Sigmoid(), "sigmoid"),
        (nn.LogSigmoid(), "sigmoid"),
        (nn.Softmax(1), "softmax"),
        (nn.LogSoftmax(-1), "softmax"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_last_activation_is_cut_where_that_is_exact(end, head):
    """The probabilities are those that the network itself returns, and the logits those before its end."""
    network = nn.Sequential(Net(), end)
    model = wrapped(network)
    assert (model.card.head, model.card.scores) == (head, f"before the {type(end).__name__} at 1")
    assert model.card.description("torch")["activation"] == head
    found = model.explain(PICTURE, maps="none")
    with torch.no_grad():
        told = network(torch.from_numpy(found.canvas.seen.tensor[None]))[0]
    told = told.exp() if type(end).__name__.startswith("Log") else told
    np.testing.assert_allclose(found.probabilities, told.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.logits, wrapped(Net()).explain(PICTURE, maps="none").logits, rtol=1e-5)
    assert not network._forward_hooks
    assert not end._forward_hooks  # nothing of the network stays changed


class Shared(nn.Module):
    """Its sigmoid is a gate, too, which must stay."""

    def __init__(self):
        super().__init__()
        self.net, self.act = Net(), nn.Sigmoid()

    def forward(self, x):
        return self.act(self.net(x * self.act(x)))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Net(), nn.Softmax(0)),
        nn.Sequential(Net(), nn.Sigmoid(), nn.Flatten(0), nn.Unflatten(0, (1, 3))),
        Shared(),
        Net(made=lambda _, s: s.sigmoid()),
    ],
    ids=["another-axis", "not-last", "shared", "functional"],
)
def test_an_activation_that_cannot_be_cut_is_left(network):
    assert not reading_of(network).end


@pytest.mark.parametrize(
    ("module", "classes", "head", "said"),
    [
        (Net(), 3, "binary", "has 3 scores and 3 labels, valid with head=binary are one score and two labels"),
        (Net(1), 3, "binary", "has 1 scores and 3 labels, valid with head=binary"),
        (Net(), 3, "relu", "head=relu is not valid, valid are softmax, sigmoid, binary"),
        (nn.Sequential(Net(), nn.Sigmoid()), 3, "softmax", r"ends in a Sigmoid \(1\), so head=sigmoid is valid"),
        (nn.Sequential(Net(), nn.Softmax(1)), 3, "sigmoid", r"ends in a Softmax \(1\), so head=softmax is valid"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(module, classes, head, said):
    with pytest.raises(ModelError, match=said) as refused:
        reading_of(module, classes, head)
    assert "\n" not in str(refused.value)


def test_one_score_without_a_head_is_refused_and_told_the_head():
    with pytest.raises(ModelError, match="has one score, and a softmax .* or head=binary, the sigmoid of one score"):
        wrapped(Net(1), ["dog"])


@pytest.mark.parametrize("module", [Net(1), nn.Sequential(Net(1), nn.Sigmoid()), Net(1, lambda _, s: s.flatten())])
def test_one_score_and_two_labels_are_told_the_head(module):
    with pytest.raises(ModelError, match="one score per label, or head=binary, the sigmoid of one score"):
        wrapped(module, ["cat", "dog"])
    wrapped(module, ["cat", "dog"], head="binary")


@pytest.mark.parametrize("module", [Net(1, lambda _, s: s.sigmoid()), Net(1, lambda _, s: 1 / (1 + (-s).exp()))])
def test_one_functional_sigmoid_is_refused_with_what_to_do(module):
    with pytest.raises(ModelError, match=r"ends in a sigmoid; .* last module, such as nn.Sigmoid\(\); head=sigmoid"):
        wrapped(module, ["cat", "dog"], head="binary")


@pytest.mark.parametrize("score", [-3.0, 0.0, 2.5])
@pytest.mark.parametrize("end", [False, True])
def test_one_score_is_that_of_the_second_label(score, end):
    network = Net(1)
    nn.init.zeros_(network.fc.weight)
    nn.init.constant_(network.fc.bias, score)
    found = wrapped(nn.Sequential(network, nn.Sigmoid()) if end else network, ["cat", "dog"], head="binary")
    told = {one.label: one.probability for one in found.predict(PICTURE)}
    yes = 1 / (1 + np.exp(-score))
    assert told == pytest.approx({"cat": 1 - yes, "dog": yes}, rel=1e-5)
    (only,) = wrapped(network, ["dog"], head="binary").predict(PICTURE)
    assert only.probability == pytest.approx(yes, rel=1e-5)


def test_evidence_for_the_negative_class_is_that_against_the_positive_by_central_differences():
    network = Net(1).eval()
    made = wrapped(network, ["cat", "dog"], head="binary").explain(PICTURE, target="cat,dog", maps="saliency")
    tensor = torch.from_numpy(made.canvas.seen.tensor).double()
    maps = [explanation.maps["saliency"].values for explanation in made.explanations]
    np.testing.assert_array_equal(maps[0], -maps[1])
    exact, step = Net(1).eval().double(), 1e-5
    for channel, row, column in ((0, 5, 7), (1, 16, 20), (2, 30, 1)):
        apart = []
        for sign in (1, -1):
            moved = tensor.clone()
            moved[channel, row, column] += sign * step
            apart.append(exact(moved[None]).item())
        slope = (apart[0] - apart[1]) / (2 * step)
        assert maps[1][row, column, channel] == pytest.approx(slope, rel=1e-3, abs=1e-9)


def test_independent_classes_are_ordered_by_score_where_sigmoids_are_equal():
    network = Net()
    nn.init.zeros_(network.fc.weight)
    network.fc.bias.data = torch.tensor([40.0, 60.0, -1.0])
    best = wrapped(network, head="sigmoid").predict(PICTURE)
    assert [(one.label, one.probability) for one in best[:2]] == [("dog", 1.0), ("cat", 1.0)]


def test_a_contrast_of_independent_classes_is_that_of_their_logits():
    model = wrapped(Net(), head="sigmoid")
    made = model.explain(PICTURE, target="cat", contrast="dog", maps="saliency").explanations[0]
    cat, dog = (model.explain(PICTURE, target=one, maps="saliency").explanations[0] for one in ("cat", "dog"))
    apart = cat.maps["saliency"].values - dog.maps["saliency"].values
    np.testing.assert_allclose(made.maps["saliency"].values, apart, atol=1e-6)


def test_trust_and_masked_pictures_take_the_heads_probabilities():
    """Both networks have equal scores; a softmax of one score would be 1 whatever the picture is."""
    model = wrapped(Net(1), ["dog"], head="binary")
    found = model.explain(PICTURE, trust=True).explanations[0]
    assert found.trust.deletion_auc == pytest.approx(found.target.probability, abs=0.2)
    assert 0 < found.trust.deletion_auc < 1
    assert 0 < found.trust.kept_fifth_probability < 1
    rise = model.explain(PICTURE, method="rise", passes=20).explanations[0].maps["gradcam"]
    assert rise.maximum < 1


def test_probabilities_of_far_logits_are_finite_and_exact():
    with np.errstate(over="raise", invalid="raise"):
        found = probabilities(np.float32([[-1000, -30, 0, 30, 1000]]), "sigmoid")
    np.testing.assert_allclose(found, [[0, np.exp(-30), 0.5, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("network", "labels", "head", "output"),
    [
        (Net(1), ["cat", "dog"], "binary", ""),
        (Net(), LABELS, "sigmoid", ""),
        (nn.Sequential(Net(), nn.Sigmoid()), LABELS, "", ""),
        (Net(made=lambda f, s: (f, s)), LABELS, "", "1"),
    ],
    ids=["binary", "sigmoid", "sigmoid-end", "tuple"],
)
def test_graphs_have_the_heads_probabilities_and_describe_it(network, labels, head, output, tmp_path):
    network = network.eval().requires_grad_(False)
    classifier = of_module(network, "odd", labels, HOW, head, output)
    with classifier.reading.attach(network):
        for kind in ("prediction", "explanation"):
            EXPORTERS[kind](classifier, tmp_path / f"{kind}.onnx")
    graphs = [GraphModel(tmp_path / f"{kind}.onnx") for kind in ("prediction", "explanation")]
    wanted = wrapped(network, labels, head=head, output=output).explain(PICTURE)
    for graph in graphs:
        assert graph.card.head == classifier.reading.head
        found = graph.explain(PICTURE, maps="none")
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, atol=1e-5)
    raw = (
        graphs[0]
        ._explainer._engine._graphs["prediction"]
        .infer({"input": wanted.canvas.seen.tensor[None]}, ["probabilities"])
    )
    np.testing.assert_allclose(raw[0][0], wanted.probabilities, atol=1e-5)
    found = graphs[1].explain(PICTURE, target=labels[0])
    assert found.to_dict()["model"].get("activation", "softmax") == classifier.reading.head
    assert replay(graphs[1], json.loads(json.dumps(found.receipt())), PICTURE)[1] == []


def test_a_checkpoint_keeps_head_and_output(tmp_path):
    given = Checkpoint(
        architecture="a:b",
        labels=["cat"],
        preprocessing=HOW,
        state={"w": torch.ones(1)},
        head="binary",
        output="logits",
    )
    write_checkpoint(tmp_path / "a.safetensors", given)
    found = read_checkpoint(tmp_path / "a.safetensors")
    assert (found.architecture, found.head, found.output, found.notes) == ("a:b", "binary", "logits", {})


def test_what_is_assumed_about_the_scores_is_said():
    network = nn.Sequential(Net(), nn.Sigmoid()).eval().requires_grad_(False)
    classifier = of_module(network, "odd", LABELS, HOW)
    said = assumptions(Checkpoint(architecture="odd", labels=LABELS, preprocessing=HOW, state={}), classifier)
    assert "probabilities: the sigmoid of the scores (before the Sigmoid at 1)" in said


def test_usual_networks_get_no_hook_and_no_new_word():
    network = Net().eval().requires_grad_(False)
    reading = reading_of(network)
    assert reading == Reading()
    reading.attach(network)
    assert not network._forward_hooks
    card = wrapped(network).card
    assert "activation" not in card.summary("torch")
    assert "scores" not in card.description("torch")
