"""Everything a client can do, over HTTP against both fronts."""

import base64
import hashlib
import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import requests
import yaml
from PIL import Image

from deploy.local_server import read_properties
from export.packing.archive import DEFAULT_CONFIG
from handler.explanation.methods import METHODS
from handler.serving.settings import read_settings
from tests.support.browsing import needs_chromium
from tests.support.serving import (
    CHECKPOINT,
    FRONTS,
    ONE,
    ROOT,
    TWO,
    Client,
    array_of,
    encoded,
    error_of,
    only_map,
    picture_of,
    serving,
    torchserve_alone,
)

pytestmark = pytest.mark.server

PICTURE = ONE.read_bytes()
SIDE = 320


@pytest.fixture(scope="module", params=FRONTS)
def client(request, tmp_path_factory, shapes_archive):
    with serving(shapes_archive.parent, "shapes", tmp_path_factory.mktemp("logs"), request.param) as client:
        yield client


@pytest.fixture
def same_worker(client):
    """After the test, the next good request is answered by the same worker process."""
    before = client.worker_pids()
    yield
    assert client.form(PICTURE, maps="none").status_code == 200
    assert client.worker_pids() == before


@pytest.mark.parametrize("field", ["data", "body", "image"])
def test_a_multipart_picture_is_predicted_and_explained(client, field):
    answer = client.post(files={field: PICTURE})
    assert answer.status_code == 200
    content = answer.json()
    assert content["predictions"][0]["label"] == "star"
    assert content["model"] == {
        "name": "shapes",
        "version": "1.0",
        "architecture": "shufflenet_v2_x0_5",
        "engine": "onnx",
    }
    (explanation,) = content["explanations"]
    assert explanation["target"]["label"] == "star"
    assert explanation["layer"] == "conv5"
    assert list(explanation["maps"]) == ["gradcam", "guided_backprop", "guided_gradcam"]
    assert all(picture_of(one).shape == (SIDE, SIDE, 3) for one in explanation["maps"].values())
    assert content["image"] == {"sha256": hashlib.sha256(PICTURE).hexdigest(), "bytes": len(PICTURE)}
    assert answer.headers["X-Image-Sha256"] == content["image"]["sha256"]
    assert content["view"] == {"image": [480, 480], "crop": [0.0, 0.0, 480.0, 480.0]}
    assert set(content["timings_ms"]) == {"decode", "infer", "explain", "render"}


def test_all_request_forms_give_the_same_answer(client):
    options = {"target": "heart,arrow", "maps": "gradcam", "size": "layer", "encoding": "list"}
    form = client.form(TWO.read_bytes(), **options)
    headers = {f"x-EXPLAIN-{key}": value for key, value in options.items()}
    raw = client.post(data=TWO.read_bytes(), headers={**headers, "Content-Type": "image/jpeg"})
    typed = {"target": ["heart", 8], "maps": ["gradcam"], "size": "layer", "encoding": "list"}
    as_json = client.json({"image": base64.b64encode(TWO.read_bytes()).decode(), **typed})
    untyped = requests.post(client.address, data=TWO.read_bytes(), headers=headers, timeout=60)  # like curl -T
    answers = [one.json() for one in (form, raw, as_json, untyped)]
    for answer in answers:
        answer.pop("timings_ms")
    assert all(answer == answers[0] for answer in answers)
    assert [one["target"]["label"] for one in answers[0]["explanations"]] == ["heart", "arrow"]


def test_several_targets_get_different_maps_that_peak_on_their_objects(client):
    answer = client.form(TWO.read_bytes(), target="heart,arrow", maps="gradcam", encoding="npy").json()
    heart, arrow = (array_of(one["maps"]["gradcam"]) for one in answer["explanations"])
    assert (
        np.unravel_index(heart.argmax(), heart.shape)[0] > SIDE / 2 > np.unravel_index(arrow.argmax(), arrow.shape)[0]
    )


def test_the_explanations_address_answers_like_predictions(client):
    address = client.address.replace("/predictions/", "/explanations/")
    answer = requests.post(address, files={"data": PICTURE}, timeout=60)
    assert list(answer.json()["explanations"][0]["maps"]) == ["gradcam", "guided_backprop", "guided_gradcam"]


def test_maps_none_gives_a_prediction_only_and_all_gives_every_map(client):
    assert client.form(PICTURE, maps="none").json()["explanations"] == []
    every = client.form(PICTURE, maps="all", size="layer", encoding="npy").json()["explanations"][0]["maps"]
    gradients = ["saliency"] if client.front == "torchserve" else []  # of which the archive has no graph
    assert list(every) == ["gradcam", "guided_backprop", "guided_gradcam", *gradients]
    assert array_of(every["gradcam"]).shape == (10, 10)
    assert all(array_of(every[name]).shape == (SIDE, SIDE, 3) for name in gradients)
    assert every["guided_backprop"]["coverage"] == "37 of 37 activations"


@torchserve_alone
def test_layers_are_chosen_and_averaged(client):
    one = array_of(only_map(client.form(PICTURE, maps="gradcam", layer="stage4", encoding="npy")))
    two = array_of(only_map(client.form(PICTURE, maps="gradcam", layer="stage4,conv5", encoding="npy")))
    assert one.shape == two.shape == (SIDE, SIDE)
    assert not np.allclose(one, two)
    shallow = array_of(only_map(client.form(PICTURE, maps="gradcam", layer="stage2.0", size="layer", encoding="npy")))
    assert shallow.shape == (40, 40)


HELD = "the ONNX graphs do not hold this evidence, valid are maps none and maps gradcam, guided_backprop, "


@pytest.mark.parametrize(
    ("options", "engine", "light"),
    [
        ({"maps": "none"}, "onnx", 200),
        ({"maps": "gradcam"}, "onnx", 200),
        ({"maps": "gradcam", "layer": "conv5", "target": "0,1,2,3,4,5,6,7,8,9"}, "onnx", 200),
        ({"maps": "gradcam", "layer": "stage4"}, "torch", 422),
        ({"maps": "gradcam", "layer": "stage4,conv5"}, "torch", 422),
        ({"maps": "saliency"}, "torch", 422),
        ({"maps": "all"}, "torch", 200),  # all maps that the graphs hold
    ],
)
def test_the_answer_says_which_engine_found_it(client, options, engine, light):
    """The front without PyTorch refuses what its graphs do not hold, and says what they hold."""
    answer = client.form(PICTURE, **options)
    if client.front == "torchserve":
        assert answer.json()["model"]["engine"] == engine
    elif light == 200:
        assert answer.json()["model"]["engine"] == "onnx"
    else:
        assert HELD in error_of(answer, light)


def test_top_k_limits_the_predictions(client):
    assert len(client.form(PICTURE, maps="none").json()["predictions"]) == 5
    predictions = client.form(PICTURE, maps="none", top_k="10").json()["predictions"]
    assert len(predictions) == 10
    assert sum(one["probability"] for one in predictions) == pytest.approx(1, abs=1e-5)


def test_size_image_maps_back_onto_the_upload_and_leaves_the_unseen_open(client):
    wide = encoded(Image.open(ONE).resize((600, 300)), "PNG")
    answer = client.form(wide, maps="gradcam", size="image", encoding="list")
    assert answer.json()["view"] == {"image": [300, 600], "crop": [0.0, 150.0, 300.0, 450.0]}
    data = only_map(answer)["data"]
    assert data[0][149] is None
    assert data[0][150] is not None
    assert data[299][449] is not None
    assert data[299][450] is None
    assert picture_of(only_map(client.form(wide, maps="gradcam", size="image"))).shape == (300, 600, 3)
    guided = picture_of(only_map(client.form(wide, maps="guided_backprop", size="image"), "guided_backprop"))
    assert guided.shape == (300, 600, 3)
    seen, unseen = guided[:, 150:450].reshape(-1, 3), guided[:, :150].reshape(-1, 3)
    assert (unseen == 170).all(axis=1).any(), "the hatch's lines"
    assert np.ptp(unseen, axis=1).max() == 0 < np.ptp(seen, axis=1).max(), "grey, and colours"


def test_the_encodings_hold_the_same_map(client):
    npy, as_list = (
        array_of(only_map(client.form(PICTURE, maps="gradcam", encoding=encoding))) for encoding in ("npy", "list")
    )
    np.testing.assert_allclose(npy, as_list, atol=1e-7)
    assert npy.dtype == np.float32
    assert npy.min() == 0
    assert npy.max() == pytest.approx(1, abs=1e-6)


def test_overlay_sets_weight_and_colour_map(client):
    plain = picture_of(only_map(client.form(PICTURE, maps="gradcam", overlay="1")))
    seen = np.asarray(Image.open(ONE).resize((SIDE, SIDE), Image.Resampling.BILINEAR), float)
    np.testing.assert_allclose(plain, np.floor(seen / seen.max() * 255), atol=1)
    heat = picture_of(only_map(client.form(PICTURE, maps="gradcam", overlay="0,bone"))).astype(int)
    jet = picture_of(only_map(client.form(PICTURE, maps="gradcam", overlay="0"))).astype(int)
    assert np.ptp(heat, axis=2).max() < 40 < np.ptp(jet, axis=2).max()  # bone is nearly grey


def test_accept_png_gives_one_captioned_sheet(client):
    answer = client.post(files={"data": PICTURE}, data={"target": "0,1"}, headers={"Accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["X-Image-Sha256"] == hashlib.sha256(PICTURE).hexdigest()
    sheet = np.asarray(Image.open(io.BytesIO(answer.content)))
    seen = np.asarray(Image.open(ONE).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    for row, explanation in zip(
        np.split(sheet, 2), client.form(PICTURE, target="0,1").json()["explanations"], strict=True
    ):
        maps = [explanation["maps"][name] for name in ("gradcam", "guided_gradcam", "guided_backprop")]
        shown = [seen, *(None if made["degenerate"] else picture_of(made) for made in maps)]
        for left, picture in zip(range(8, 4 * (SIDE + 8), SIDE + 8), shown, strict=True):
            panel = row[:, left : left + SIDE]
            if picture is None:
                assert (panel == 170).all(axis=2).any(), "the hatch of a map without evidence"
                continue
            (top,) = (y for y in range(len(panel) - SIDE) if np.array_equal(panel[y : y + SIDE], picture))
            assert panel[30:top].min() < 100, "the caption is black on white"
        assert row[:30].min() < 100, "the heading, too"


# methods whose evidence the archive's usual graphs do not hold
WITHOUT_GRAPHS = {"shapleycam", "ablationcam", "reciprocam", "fullgrad"}
WITHOUT_GRAPHS |= {"integrated_gradients", "expected_gradients", "smoothgrad"}


def test_arrays_of_every_method_come_as_one_file(client):
    for name, method in METHODS.items():
        asked = {"target": "heart,arrow", "method": name, "maps": "gradcam"}
        if method.attention or (client.front == "light" and name in WITHOUT_GRAPHS):  # the network has no attention
            error_of(client.form(PICTURE, **asked), 422)
            continue
        answer = client.post(files={"data": PICTURE}, data=asked, headers={"Accept": "application/x-npz"})
        assert answer.headers["content-type"] == "application/x-npz"
        found = np.load(io.BytesIO(answer.content))
        assert found["gradcam"].shape == (2, SIDE, SIDE)
        assert found["gradcam"].max() > 0.99
        assert found["targets"].tolist() == [6, 8]
        assert np.array_equal(*found["gradcam"]) == (name in ("eigencam", "kpcacam", "fem", "randomcam")), name
        assert bool(method.passes) == ("passes" in client.form(PICTURE, **asked).json()["explanations"][0])


@pytest.mark.parametrize(("layer", "engine"), [("conv5", "onnx"), ("stage4.3", "torch")])
def test_trust_comes_with_each_explanation_on_both_engines(client, layer, engine):
    asked = {"maps": "gradcam", "target": "heart,arrow", "layer": layer}
    if client.front == "light" and engine == "torch":
        error_of(client.form(TWO.read_bytes(), trust="true", **asked), 422)
        return
    content = client.form(TWO.read_bytes(), trust="true", **asked).json()
    assert content["model"]["engine"] == engine
    for explanation in content["explanations"]:
        trust, label = explanation["trust"], explanation["target"]["label"]
        assert -1 <= trust["value"] <= 1
        assert (
            f"the probability of {label} is {trust['deletion_auc']:.2f} on average (deletion AUC" in trust["sentence"]
        )
        assert set(trust["random"]) == {"deletion_auc", "insertion_auc"}
        assert 0.5 < trust["stability"] <= 1
        assert trust["passes"] <= 32
    body = {"image": base64.b64encode(TWO.read_bytes()).decode(), **asked, "trust": True}
    assert (
        client.json(body).json()["explanations"][0]["trust"]["sentence"]
        == content["explanations"][0]["trust"]["sentence"]
    )
    assert "trust" not in client.form(PICTURE, **{**asked, "trust": "false"}).json()["explanations"][0]


def test_healthz_answers_and_describe_describes(client):
    probe = requests.get(f"{client.address}/1.0/healthz", timeout=60)
    assert probe.status_code == 200
    assert probe.json()["status"] == "ready"
    error_of(requests.get(f"{client.address}/1.0/else", timeout=60), 404)
    described = client.describe()
    assert described["labels"][4] == "star"
    assert described["layer"] == "conv5"
    assert described["layers"]["conv5"] == [1024, 10, 10]
    engine = {"torchserve": "auto", "light": "onnx"}[client.front]
    assert described["engine"] == probe.json()["model"]["engine"] == engine
    assert described["engines"]["graphs"] == ["prediction", "gradcam", "explanation"]
    assert "gradcam" in described["methods"]
    assert described["input"]["size"] == [SIDE, SIDE]


def _big_png(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels; its data holds almost none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


BAD_PICTURES = {
    "empty": (b"", 400, "empty"),
    "text": (b"hello, is this a cat?", 415, "68 65 6c 6c 6f"),
    "truncated JPEG": (PICTURE[: len(PICTURE) // 2], 400, "JPEG picture is truncated"),
    "60 megapixels": (_big_png(10000, 6000), 413, "60000000 pixels, valid are at most 50000000"),
    "a pickle": (b"\x80\x04\x95" + bytes(50), 415, "80 04 95"),
}


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize("form", ["multipart", "raw", "json"])
@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused(client, form, name):
    data, status, said = BAD_PICTURES[name]
    if form == "multipart":
        answer = client.post(files={"data": data})
    elif form == "raw":
        answer = client.post(data=data, headers={"Content-Type": "application/octet-stream"})
    else:
        answer = client.json({"image": base64.b64encode(data).decode()})
    assert said in error_of(answer, status)


BAD_OPTIONS = {
    "target=zebra": "valid are circle, ring, square",
    "target=1000": "valid are 0 to 9",
    "target=-1": "valid are 0 to 9",
    "target=": "valid are top",
    "target=0,1,2,3,4,5,6,7,8,9,0": "valid are 1 to 10",
    "top_k=0": "valid are 1 to the number of classes",
    "top_k=11": "valid are 1 to 10",
    "top_k=five": "valid are 1 to",
    "maps=heat": "valid are gradcam, guided_backprop, guided_gradcam, saliency, all, none",
    "maps=none,gradcam": "stand alone",
    "method=magic": "valid are auto, gradcam",
    "layer=conv6": "valid are auto, conv1",
    "layer=fc": "valid are auto, conv1",
    "size=huge": "valid are layer, input, image",
    "encoding=gif": "valid are png, jpeg, webp, npy, list",
    "trust=2": "valid are true, false",
    "overlay=2": "0 to 1",
    "overlay=nan": "0 to 1",
    "colour=red": "valid are target, contrast, maps, method, seed, passes, layer, top_k, smooth, trust, size, encoding",
}


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize("form", ["multipart", "headers", "json"])
@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_a_bad_option_is_refused_and_the_valid_ones_are_listed(client, form, option):
    name, _, value = option.partition("=")
    if form == "multipart":
        answer = client.form(PICTURE, **{name: value})
    elif form == "headers":
        answer = client.post(data=PICTURE, headers={f"X-Explain-{name}": value, "Content-Type": "image/jpeg"})
    else:
        answer = client.json({"image": base64.b64encode(PICTURE).decode(), name: value})
    assert BAD_OPTIONS[option] in error_of(answer, 400)


BAD_JSON = {
    '{"image": "abc"': (400, "malformed JSON"),
    '{"image": "§§§"}': (400, "not valid base64"),
    '{"image": ""}': (400, "empty"),
    '{"target": 3}': (400, "one picture is needed"),
    '{"image": 5}': (400, "base64"),
    '{"image": "aGFsbG8=", "data": "aGFsbG8="}': (400, "all hold a picture"),
    '{"image": "aGFsbG8="}': (415, "68 61 6c 6c 6f"),
    "[1, 2]": (400, "must be an object"),
    "null": (400, "must be an object"),
    '{"image": "aGFsbG8=", "top_k": true}': (400, "top_k True"),
    '{"image": "aGFsbG8=", "target": {"a": 1}}': (400, "target"),
    '{"image": "aGFsbG8=", "target": 1e400}': (400, "target"),
    '{"image": "aGFsbG8=", "overlay": [null]}': (400, "overlay"),
    "{" * 3000: (400, "malformed JSON"),
    "[" * 100000: (400, ""),
}


@pytest.mark.usefixtures("same_worker")
@pytest.mark.parametrize("body", BAD_JSON, ids=lambda body: body[:40])
def test_bad_json_is_refused(client, body):
    status, said = BAD_JSON[body]
    answer = client.post(data=body.encode(), headers={"Content-Type": "application/json"})
    assert said in error_of(answer, status)


@pytest.mark.usefixtures("same_worker")
def test_requests_without_a_picture_are_told_how_to_send_one(client):
    assert "curl -F data=@" in error_of(requests.get(client.address, timeout=60), 400)
    assert "curl -F data=@" in error_of(client.post(files={"cat": PICTURE}), 400)
    assert "curl -F data=@" in error_of(client.post(data={"target": "1"}), 400)


@pytest.mark.usefixtures("same_worker")
def test_a_part_named_like_a_header_changes_nothing(client):
    message = error_of(client.post(files={"data": PICTURE, "Accept": b"image/png"}), 400)
    assert "unknown option 'Accept'" in message


@pytest.mark.usefixtures("same_worker")
def test_client_text_stays_out_of_the_status_line(client):
    answer = client.form(PICTURE, target="\r\nX-Evil: ü☃")
    assert answer.reason == "Bad Request"
    assert "X-Evil" not in answer.headers
    error_of(answer, 400)


@pytest.mark.usefixtures("same_worker")
def test_an_answer_too_large_is_refused_by_its_row(client):
    large = encoded(Image.new("RGB", (4000, 3000), "teal"), "JPEG")
    message = error_of(client.form(large, size="image", encoding="list", maps="gradcam"), 413)
    assert "layer, input" in message
    several = client.form(PICTURE, target="0,1,2,3,4,5", maps="all", encoding="list")
    assert "fewer targets or maps" in error_of(several, 413)


@pytest.mark.usefixtures("same_worker")
def test_unusual_pictures_are_accepted(client):
    colour = Image.open(ONE)
    turned = Image.Exif()
    turned[0x112] = 6
    pictures = [
        encoded(colour.convert("L"), "PNG"),
        encoded(colour.convert("P"), "PNG"),
        encoded(Image.fromarray(np.asarray(colour.convert("L"), np.uint16) * 257), "PNG"),
        encoded(colour.convert("RGBA"), "PNG"),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour, "JPEG", exif=turned),
        encoded(colour, "WEBP"),
        encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        encoded(Image.new("RGB", (30000, 2), "red"), "PNG"),
        encoded(Image.new("RGB", (2, 30000), "red"), "PNG"),
    ]
    answers = [client.form(picture, maps="gradcam", size="layer", encoding="list") for picture in pictures]
    assert [answer.status_code for answer in answers] == [200] * len(pictures)
    assert [answer.json()["predictions"][0]["label"] for answer in answers[:7]] == ["star"] * 7


def test_the_seeds_three_pictures_are_returned(client):
    """As the tutorial's script computes them with pytorch-grad-cam, within one grey level."""
    import torch
    from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
    from pytorch_grad_cam.utils.image import deprocess_image, show_cam_on_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from handler.model.sources import load_classifier
    from handler.picture.decode import decode
    from handler.picture.preprocess import preprocess

    classifier = load_classifier(checkpoint=CHECKPOINT)
    seen = preprocess(decode(PICTURE), classifier.preprocessing)
    model = classifier.module.requires_grad_(True)
    batch = torch.from_numpy(seen.tensor[None])
    with GradCAM(model=model, target_layers=[model.conv5]) as cam:
        mask = cam(input_tensor=batch, targets=[ClassifierOutputTarget(4)])[0]
    guided = GuidedBackpropReLUModel(model=model, device="cpu")(batch, target_category=4)
    expected = {
        "gradcam": show_cam_on_image(np.float32(seen.picture) / 255, mask, use_rgb=True),
        "guided_gradcam": deprocess_image(np.dstack([mask] * 3) * guided),
        "guided_backprop": deprocess_image(guided),
    }
    maps = client.form(PICTURE, target="star", layer="conv5").json()["explanations"][0]["maps"]
    assert set(maps) == set(expected)
    for name, picture in expected.items():
        difference = np.abs(picture_of(maps[name]).astype(int) - picture.astype(int))
        assert difference.max() <= 1, name


def test_graphs_that_differ_are_counted_where_prometheus_reads(tmp_path, shapes_archive):
    with zipfile.ZipFile(shapes_archive) as old, zipfile.ZipFile(tmp_path / "altered.mar", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, _altered(content) if name == "model.onnx" else content)
    with serving(tmp_path, "altered", tmp_path / "logs") as client:
        answer = client.form(PICTURE, maps="none")
        metrics = requests.get(f"{client.server.properties['metrics_address']}/metrics", timeout=60).text
        described = client.describe()
    assert answer.json()["model"]["engine"] == "torch"
    assert "logits differs by up to 1.00e+00" in str(described)
    assert re.search(r"^explainer_engine_disagreements_total\{.*\} 1\.0$", metrics, re.MULTILINE), metrics


def _altered(graph: bytes) -> bytes:
    """A prediction graph whose scores are all 1 higher."""
    model = onnx.load_from_string(graph)
    bias = next(one for one in model.graph.initializer if one.name.endswith("fc.bias"))
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    changed: bytes = model.SerializeToString()
    return changed


def test_the_handler_stops_large_answers_before_the_server_would():
    settings = read_settings(yaml.safe_load(DEFAULT_CONFIG.read_text())["explain"])
    properties = read_properties(ROOT / "config.properties")
    assert settings.max_answer_bytes < int(properties["max_response_size"])


@torchserve_alone
def test_the_settings_of_one_machine_are_loopback_and_shut(tmp_path, client):
    properties = read_properties(Path(ROOT / "config.properties"))
    assert all("127.0.0.1" in value for key, value in properties.items() if key.endswith("_address"))
    management = client.server.properties["management_address"]
    refused = requests.post(f"{management}/models?url=file://{tmp_path}/x.mar", timeout=60)
    assert refused.status_code == 405
    workflow = requests.post(f"{management}/workflows?url=http://127.0.0.1:9/x.war", timeout=60)
    assert workflow.status_code >= 400


@torchserve_alone
def test_the_worker_runs_the_archives_code(client: Client):
    (worker,) = client.worker_pids()
    folder = Path(f"/proc/{worker}/cwd").resolve()
    assert (folder / "handler" / "service.py").is_file()
    assert folder != ROOT


@needs_chromium
def test_a_browser_gets_the_page_and_its_answers(client, visit):
    tab = visit(client.address)
    tab.page.locator("#choose").set_input_files(ONE)
    tab.page.locator("#status", has_text="star ").wait_for()
    assert tab.page.locator("#classes .bars").first.locator(".bar").count() == 5
    assert tab.page.locator("#figures h3").all_inner_texts() == ["Grad-CAM", "Guided backprop", "Guided Grad-CAM"]
    tab.page.locator("#classes .bar", has_text="arrow").click()
    tab.page.locator("#figures .badge", has_text="evidence for arrow").wait_for()
    drawn = "(canvas) => new Set(canvas.getContext('2d').getImageData(0, 0, 480, 480).data).size"
    assert tab.page.locator("#figures canvas").first.evaluate(drawn) > 100
    assert tab.complaints == []  # what the policy forbids is an error in the console, too
    assert tab.elsewhere == []
