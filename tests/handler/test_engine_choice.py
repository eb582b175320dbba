"""What answers, for each setting and each state of the archive; and what the service says of it."""

import base64
import io
import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from handler.archive import Unpacked
from handler.errors import ModelError
from handler.graphs.session import GraphSession
from handler.loading import choose_engine, load_service
from handler.service import Service
from handler.serving.settings import Settings
from handler.telemetry.metrics import Metrics
from tests.support.engines import CARD, rows_of
from tests.support.serving import ONE, TWO

GRAPHS = ["prediction", "gradcam", "explanation"]


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def altered(shapes_graphs, tmp_path):
    """A copy of the archive's content in which the prediction graph scores something else, as a damaged file would."""
    folder = shutil.copytree(shapes_graphs, tmp_path / "altered")
    model = onnx.load(folder / "model.onnx")
    bias = next(one for one in model.graph.initializer if one.name.endswith("fc.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.mark.parametrize(
    ("wanted", "name", "graphs"), [("auto", "auto", GRAPHS), ("onnx", "onnx", GRAPHS), ("torch", "torch", [])]
)
def test_the_settings_choose(shapes, shapes_graphs, wanted, name, graphs):
    choice = choose_engine(wanted, shapes_graphs, shapes, 1)
    assert choice.engine.name == name
    assert choice.to_dict() == {"configured": wanted, "graphs": graphs, "reason": None}
    assert choice.disagreements == ()


def test_without_graphs_auto_is_torch_and_says_so(shapes, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        choice = choose_engine("auto", tmp_path, shapes, 1)
    assert choice.engine.name == "torch"
    assert choice.reason == "the archive holds no graphs"
    assert "engine torch answers: the archive holds no graphs" in caplog.text
    with pytest.raises(ModelError, match="holds no graph"):
        choose_engine("onnx", tmp_path, shapes, 1)


def test_on_a_gpu_auto_is_torch(shapes, shapes_graphs):
    class OnGpu(type(shapes)):
        device = torch.device("cuda:0")

    choice = choose_engine("auto", shapes_graphs, OnGpu(**vars(shapes)), 1)
    assert choice.engine.name == "torch"
    assert "cuda:0" in choice.reason


def test_graphs_that_differ_are_counted_logged_and_not_used(shapes, altered, caplog):
    choice = choose_engine("auto", altered, shapes, 1)
    assert choice.engine.name == "torch"
    assert "prediction graph: logits differs by up to 1.00e+00" in caplog.text
    assert len(choice.disagreements) == 1
    counted = Service(choice, CARD, Settings()).metrics.take()
    assert [(sample.name, sample.value) for sample in counted] == [("explainer_engine_disagreements_total", 1)]
    with pytest.raises(ModelError, match="differ from PyTorch: prediction graph: logits"):
        choose_engine("onnx", altered, shapes, 1)


@pytest.mark.parametrize("wanted", ["auto", "onnx"])
def test_a_graph_that_cannot_be_used_is_told_at_start_up(shapes, shapes_graphs, tmp_path, wanted):
    content = (shapes_graphs / "model.gradcam.onnx").read_bytes()
    (tmp_path / "model.gradcam.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model\.gradcam\.onnx cannot be loaded by ONNX Runtime"):
        choose_engine(wanted, tmp_path, shapes, 1)
    assert choose_engine("torch", tmp_path, shapes, 1).engine.name == "torch"


def test_graphs_of_another_model_are_refused(shapes, shapes_graphs):
    renamed = replace(shapes, labels=[*shapes.labels[:-1], "helix"])
    with pytest.raises(ModelError, match="other labels than the model's"):
        choose_engine("auto", shapes_graphs, renamed, 1)


def load(folder, device="cpu", **explain):
    config = {"explain": explain, "maxWorkers": 1}
    return load_service(Unpacked(folder=folder, name="m", version="1.0", config=config), device)


def ask(service, said=None, **options):
    (answer,) = service.answer_batch(rows_of([{"data": ONE.read_bytes(), **options}], [said or {}]))
    return answer.status, json.loads(answer.body)


def test_the_description_and_the_probe_say_what_answers(shapes_graphs):
    service = load(shapes_graphs)
    for said in ({"describes": True}, {"path": "healthz"}):
        (answer,) = service.answer_batch(rows_of([{}], [said]))
        content = json.loads(answer.body)
        assert content["engines"] == {"configured": "auto", "graphs": GRAPHS, "reason": None}
    assert content["model"] == {**content["model"], "name": "m", "version": "1.0", "engine": "auto"}


def test_a_picture_is_no_probe_whatever_its_clients_headers_say(shapes_graphs):
    service = load(shapes_graphs)
    status, said = ask(service, {"describes": True})
    assert (status, "predictions" in said, "engines" in said) == (200, True, False)
    assert ask(service, {"path": "healthz"})[0] == 404


def test_graphs_alone_refuse_the_rest_and_say_what_is_valid(shapes_graphs):
    service = load(shapes_graphs, engine="onnx")
    status, content = ask(service, maps="gradcam")
    assert (status, content["model"]["engine"]) == (200, "onnx")
    for options in ({"layer": "stage4"}, {"maps": "saliency"}):
        status, content = ask(service, **options)
        assert status == 422
        assert "gradcam, guided_backprop, guided_gradcam at layer conv5" in content["message"]
    assert list(ask(service, maps="all")[1]["explanations"][0]["maps"]) == [
        "gradcam",
        "guided_backprop",
        "guided_gradcam",
    ]


def test_a_row_beside_another_is_answered_as_it_is_alone_by_one_thread(shapes_graphs, monkeypatch):
    service, used, infer = load(shapes_graphs, threads=2), [], GraphSession.infer
    monkeypatch.setattr(GraphSession, "infer", lambda graph, *args: used.append(graph.threads) or infer(graph, *args))
    asked = [{"data": path.read_bytes(), "maps": "gradcam", "encoding": "npy"} for path in (ONE, TWO)]
    alone = [json.loads(one.body) for row in rows_of(asked) for one in service.answer_batch([row])]
    assert used == [2, 2]
    beside = [json.loads(one.body) for one in service.answer_beside(rows_of(asked))]
    assert 1 in used[2:]
    for first, second in zip(alone, beside, strict=True):
        maps = [values_of(one["explanations"][0]["maps"]["gradcam"]) for one in (first, second)]
        np.testing.assert_allclose(*maps, rtol=0, atol=1e-4)
        assert [one["label"] for one in first["predictions"]] == [one["label"] for one in second["predictions"]]


def values_of(content):
    return np.load(io.BytesIO(base64.b64decode(content["data"])))


def test_graphs_alone_are_for_the_cpu_wherever_the_server_has_its_models(shapes_graphs):
    service = load(shapes_graphs, "meta", engine="onnx")
    assert ask(service, maps="none")[1]["predictions"][0]["label"] == "star"


def test_defaults_that_the_graphs_alone_would_refuse_are_told_at_start_up(shapes_graphs):
    for defaults in ({"layer": "stage4"}, {"maps": "saliency"}):
        with pytest.raises(ModelError, match=r"explain\.defaults: .*valid are"):
            load(shapes_graphs, engine="onnx", defaults=defaults)
        load(shapes_graphs, engine="auto", defaults=defaults)


def test_prediction_graph_alone_predicts(shapes_graphs, tmp_path):
    for file in ("model.onnx", "model.safetensors", "model.weights"):
        shutil.copy(shapes_graphs / file, tmp_path)
    status, content = ask(load(tmp_path, engine="onnx"))
    assert status == 200
    assert content["predictions"][0]["label"] == "star"
    assert content["explanations"] == []


def test_disagreements_are_there_for_the_entry_file_to_emit(altered):
    service = load(altered)
    assert [one.value for one in service.metrics.take()] == [1]
    assert ask(service, maps="none")[1]["model"]["engine"] == "torch"
