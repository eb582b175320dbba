"""What of the settings reaches whom when a model is loaded."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import handler.serving.answering as answering
from handler.archive import Unpacked
from handler.autograd.torch_engine import TorchEngine
from handler.errors import ModelError, Unprocessable
from handler.graphs.shared_weights import Prepared
from handler.loading import check_defaults, describe_model, load_service
from handler.protocol.options import Options
from tests.support.engines import CARD, BrightnessEngine
from tests.support.models import tiny_classifier


@pytest.fixture
def threads():
    """The number of torch's threads, which is one for the whole process."""
    before = torch.get_num_threads()
    yield torch.get_num_threads
    torch.set_num_threads(before)


def test_the_threads_of_the_settings_are_those_of_torch_of_the_graphs_and_of_drawing(
    shapes_graphs, monkeypatch, threads
):
    sessions, painters = [], []
    open_session, make_pool = Prepared.session, answering.ThreadPoolExecutor

    def opened(prepared, threads):
        session = open_session(prepared, threads)
        sessions.append(session.get_session_options().intra_op_num_threads)
        return session

    monkeypatch.setattr(Prepared, "session", opened)
    monkeypatch.setattr(
        answering, "ThreadPoolExecutor", lambda count, name: painters.append(count) or make_pool(count, name)
    )
    wanted = threads() + 2
    config = {"explain": {"threads": wanted}, "maxWorkers": 1}
    load_service(Unpacked(folder=shapes_graphs, name="m", version="1.0", config=config))
    assert (threads(), sessions, painters) == (
        wanted,
        [*[wanted] * 3, *[1] * 3],
        [wanted],
    )  # a batch's rows have a thread each


class Refusing(BrightnessEngine):
    """Has evidence at the layer alone."""

    def run(self, inputs, targets, needs):
        if needs.guided or needs.saliency:
            raise Unprocessable("no gradient here")
        return super().run(inputs + 0.5, targets, needs)  # which is not too dark


def test_defaults_that_can_be_answered_are_let_pass():
    check_defaults(Options(target=("light", 0), maps=("gradcam",), layer=("c",), top_k=2), CARD, Refusing())


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ({"target": ("zebra",)}, "target 'zebra' is no label"),
        ({"top_k": 3}, "top_k 3 is not valid, valid are 1 to 2"),
        ({"layer": ("d",)}, "layer 'd' has no map"),
        ({"maps": ("saliency",)}, "no gradient here"),
    ],
)
def test_defaults_that_every_request_would_be_refused_for_are_told_at_start_up(defaults, said):
    with pytest.raises(ModelError, match=rf"^model-config\.yaml: explain\.defaults: {said}"):
        check_defaults(Options(**{"maps": ("gradcam",), **defaults}), CARD, Refusing())


def test_the_card_has_all_that_is_known_of_the_classifier_and_what_the_engine_refuses():
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = replace(
        tiny_classifier(net),
        layers={"0": (2, 2, 2), "1": (2, 2, 2)},
        default_layer="1",
        layer_rule="the last one",
        refused_layers={"3": "it has no cells"},
        alone="pictures mix",
    )
    card = describe_model(classifier, TorchEngine(classifier), "m", "2.0")
    assert (card.name, card.version, card.guided_coverage, card.refusals) == ("m", "2.0", "1 of 1 activations", {})
    for field in ("architecture", "labels", "preprocessing", "layers", "default_layer", "layer_rule"):
        assert getattr(card, field) == getattr(classifier, field), field
    assert (card.refused_layers, card.alone) == (classifier.refused_layers, "pictures mix")
    limited = describe_model(classifier, Refusing(), "m", "2.0")
    refused = dict.fromkeys(("guided_backprop", "guided_gradcam", "saliency"), "no gradient here")
    assert (limited.refusals, limited.guided_coverage) == (refused, None)
