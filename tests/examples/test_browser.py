"""What only browsers do: decoding, WebGPU, and the page of examples/browser."""

import base64
from contextlib import closing
from shutil import which

import numpy as np
import pytest

import handler
from deploy.devices.forms import Form
from export.graphs.exporters import export_graph
from handler.graphs.description import KIND_EXPLANATION
from handler.model.sources import load_classifier
from handler.picture.decode import decode
from tests.support.javascript import Browser, array_of, chromium, served, text_of, tree
from tests.support.pictures import tricky_files
from tests.support.serving import CHECKPOINT, ONE

FILES = {name: data for name, data in tricky_files().items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tree(tmp_path_factory)


@pytest.fixture(scope="module")
def address(files):
    with served(files) as found:
        yield found


@pytest.fixture(scope="module")
def window():
    with chromium() as browser:
        yield browser


@pytest.fixture
def runtime(files, address, window):
    page = window.new_page()
    page.goto(f"{address}/examples/shapes/one.jpg")
    yield Browser(files, page)
    page.close()


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_python_does(runtime, name):
    seen = runtime.ask("return ask.decoded(pack.decode, given.file)", file=text_of(FILES[name]))
    pixels = np.frombuffer(base64.b64decode(seen["data"]), np.uint8).reshape(seen["height"], seen["width"], -1)
    wanted = decode(FILES[name])
    assert pixels.shape[:2] == wanted.shape[:2]
    assert np.abs(pixels.astype(int) - wanted).max() <= (2 if name.startswith("JPEG") else 0)


def test_elements_of_a_page_are_pictures_too(runtime, whole_graphs):
    body = """
        const model = await pack.load(given.graph, {device: "wasm", ort: ask.runtime});
        const image = new Image();
        image.src = "/examples/shapes/one.jpg";
        await image.decode();
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
        const context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        const kinds = {
            image, canvas, bitmap: await createImageBitmap(image),
            data: context.getImageData(0, 0, canvas.width, canvas.height),
            file: await (await fetch(image.src)).blob(),
            bytes: await (await fetch(image.src)).arrayBuffer(),
        };
        const found = {};
        for (const [name, picture] of Object.entries(kinds)) found[name] = await model.predict(picture, 1);
        found.wrong = await model.predict("one.jpg").catch(({ code, message }) => ({ code, message }));
        return found;
    """
    found = runtime.ask(body, graph=runtime.address(whole_graphs / "model.explain.onnx"))
    wrong = found.pop("wrong")
    assert (wrong["code"], "valid are" in wrong["message"]) == (400, True)
    (wanted,) = handler.load(whole_graphs / "model.explain.onnx").predict(ONE, top_k=1)
    assert len(found) == 6
    for predicted in found.values():
        assert predicted[0]["label"] == wanted.label
        assert predicted[0]["probability"] == pytest.approx(wanted.probability, abs=1e-4)


def test_without_an_adapter_webassembly_computes_and_says_why(runtime, whole_graphs):
    body = """
        const model = await pack.load(given.graph, {device: "webgpu", ort: ask.runtime});
        return [model.device, model.notice];
    """
    device, notice = runtime.ask(body, graph=runtime.address(whole_graphs / "model.explain.onnx"))
    assert device == "wasm"
    assert notice.startswith("WebAssembly computes, because ")


def test_the_page_explains_without_a_server_once_the_graph_is_open(address, window, whole_graphs, tmp_path):
    context = window.new_context()
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}/examples/browser/index.html")
    (tmp_path / "wrong.onnx").write_text("no graph")
    page.set_input_files("#graph", str(tmp_path / "wrong.onnx"))
    page.get_by_text("is no ONNX graph").wait_for()
    page.set_input_files("#graph", str(whole_graphs / "model.explain.onnx"))
    page.wait_for_selector("#choose", state="attached", timeout=60_000)
    context.set_offline(True)
    page.set_input_files("#choose", str(ONE))
    page.wait_for_selector("#figures canvas", timeout=60_000)
    assert page.locator("#status").inner_text().startswith("star ")
    page.set_input_files("#choose", {"name": "text.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
    page.get_by_text("Not a picture that can be read").wait_for(timeout=30_000)
    page.evaluate("location.hash = '#sample=two'")  # a link keeps the graph
    page.locator("#status", has_text="heart ").wait_for(timeout=60_000)
    assert page.locator("#device-notice").is_visible()
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)
    context.close()


@pytest.mark.parametrize(("file", "figures"), [("model.onnx", 0), ("model.gradcam.onnx", 1)])
def test_the_page_shows_what_a_graph_of_another_kind_holds(address, window, whole_graphs, file, figures):
    page = window.new_page()
    complaints = []
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{address}/examples/browser/index.html#receipt=true")
    page.set_input_files("#graph", str(whole_graphs / file))
    page.wait_for_selector("#choose", state="attached", timeout=60_000)
    page.set_input_files("#choose", str(ONE))
    page.locator("#status", has_text="star ").wait_for(timeout=60_000)
    assert page.locator("#figures canvas[role=application]").count() == figures
    assert page.locator("#trust, #receipt").count() == 0
    assert complaints == []
    page.close()


_SOFTWARE = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    path = tmp_path_factory.mktemp("portable") / "shapes.explain.onnx"
    export_graph(load_classifier(checkpoint=CHECKPOINT), path, KIND_EXPLANATION, Form(portable=True, batch=1))
    return path


@pytest.mark.parametrize(("device", "flags"), [("wasm", ()), ("webgpu", _SOFTWARE)])
def test_a_portable_graph_is_told_the_class_and_runs_on_the_processors_webgpu(
    files, address, window, portable, device, flags
):
    """Chromium's software adapter computes WebGPU's kernels here, where there is one."""
    body = """
        const model = await pack.load(given.graph, {device: given.device, ort: ask.runtime});
        const picture = await (await fetch("/examples/shapes/one.jpg")).blob();
        return [model.device, model.notice, pack.toAnswer(await model.explain(picture, {target: "top,heart"}))];
    """
    # of the browser that is open: a process can have one Playwright
    with closing(window.browser_type.launch(executable_path=which("chromium"), args=["--no-sandbox", *flags])) as other:
        page = other.new_page()
        page.goto(f"{address}/examples/shapes/one.jpg")
        runtime = Browser(files, page)
        used, notice, answer = runtime.ask(body, graph=runtime.address(portable), device=device)
    print(used, notice)
    assert used == device or "adapter" in notice
    wanted = handler.load(portable).explain(ONE, target="top,heart")
    assert [one["target"]["label"] for one in answer["explanations"]] == ["star", "heart"]
    for one, explained in zip(answer["explanations"], wanted.explanations, strict=True):
        for name in ("gradcam", "guided_backprop"):
            found, map_ = array_of(one["maps"][name]["data"]), explained.maps[name].values
            close = np.abs(found - map_) <= 1e-3 * np.abs(map_).max()
            assert close.mean() >= (1 if name == "gradcam" else 0.98)  # gates flip
