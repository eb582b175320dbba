import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

import export.simplify.pipeline as simplifying
from export.simplify.flatten import NotApplicable
from export.simplify.pipeline import simplified
from handler.autograd.channel_layout import CHANNELS_FIRST
from handler.autograd.tape import differentiate, record
from handler.explanation.evidence import Needs
from tests.support.models import random_classifier, random_inputs


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.convolution(pictures))
        return found if found.sum() > 0 else -found


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x2_0", "mobilenet_v2"])
def test_scores_and_gradients_stay_and_batch_norms_go(architecture):
    classifier = random_classifier(architecture)
    pictures = torch.from_numpy(random_inputs(2))
    done = simplified(classifier.module, {classifier.default_layer: CHANNELS_FIRST}, pictures)
    found, (layer,) = done.network, done.views
    padded = ("channels padded",) if "shuffle" in architecture else ()
    assert done.steps == ("flattened", "batch norms folded", *padded)
    calls = found.graph.find_nodes(op="call_module")
    assert not any(isinstance(found.get_submodule(node.target), nn.BatchNorm2d) for node in calls)
    answers = []
    for module, path in ((found, layer), (classifier.module, classifier.default_layer)):
        tape = record(module, pictures, Needs(layers=(path,)))
        answers.append((tape.scores, tape.layers[path], differentiate(tape, tape.scores[:, 3].sum()).layers[path]))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5 * float(other.detach().abs().max()))


@pytest.mark.parametrize("step", ["fold_batch_norms", "pad_channels", "flatten"])
@pytest.mark.parametrize("how", ["does not apply", "spoils"])
def test_a_step_that_does_not_apply_or_spoils_the_answers_is_left_out(monkeypatch, caplog, step, how):
    classifier = random_classifier("shufflenet_v2_x0_5")
    pictures = torch.from_numpy(random_inputs(2))
    run = getattr(simplifying, step)

    def broken(network, *rest):
        if how != "spoils":
            raise NotApplicable("told")
        result = run(network, *rest)
        changed = result if isinstance(result, nn.Module) else network
        with torch.no_grad():
            changed.get_submodule("stage3.1.branch2.0").weight.mul_(1.5)
        return result

    monkeypatch.setattr(simplifying, step, broken)
    with caplog.at_level("INFO"):
        done = simplified(classifier.module, {classifier.default_layer: CHANNELS_FIRST}, pictures)
    assert [message for message in caplog.messages if ": told" in message or "would differ" in message]
    assert len(done.steps) <= 5
    expected = classifier.module(pictures)
    torch.testing.assert_close(done.network(pictures), expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
    assert done.network.get_submodule(next(iter(done.views))) is not None


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_weights_that_are_computed_become_plain_and_the_network_given_keeps_its_own(norm):
    module = nn.Sequential(norm(nn.Conv2d(3, 5, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    module.eval().requires_grad_(False)
    pictures, kept = torch.randn(2, 3, 8, 8), type(module[0])
    done = simplified(module, {"1": CHANNELS_FIRST}, pictures)
    assert "flattened" in done.steps
    assert not any(is_parametrized(layer) for layer in done.network.modules())
    torch.testing.assert_close(done.network(pictures), module(pictures))
    assert type(module[0]) is kept
    assert is_parametrized(module[0], "weight")


def test_a_step_that_fails_is_not_taken_for_one_that_does_not_apply(monkeypatch):
    def broken(*_args):
        raise RuntimeError("a mistake in the step")

    monkeypatch.setattr(simplifying, "pad_channels", broken)
    classifier = random_classifier("shufflenet_v2_x0_5")
    with pytest.raises(RuntimeError, match="a mistake in the step"):
        simplified(classifier.module, {classifier.default_layer: CHANNELS_FIRST}, torch.from_numpy(random_inputs(2)))


def test_what_cannot_be_traced_is_copied():
    module = Branching().eval()
    pictures = torch.randn(2, 3, 4, 4)
    done = simplified(module, {"convolution": CHANNELS_FIRST}, pictures)
    assert done.network is not module
    assert (list(done.views), done.steps) == (["convolution"], ())
    assert torch.equal(done.network(pictures), module(pictures))
