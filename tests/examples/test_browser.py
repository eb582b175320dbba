"""What only browsers do: decoding, WebGPU, and the page of examples/browser."""

import base64

import numpy as np
import pytest

import handler
from handler.picture.decode import decode
from tests.support.javascript import Browser, chromium, served, text_of, tree
from tests.support.pictures import tricky_files
from tests.support.serving import ONE

FILES = {name: data for name, data in tricky_files().items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tree(tmp_path_factory.getbasetemp().parent)


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


def test_elements_of_a_page_are_pictures_too(runtime, shapes_graphs):
    body = """
        const model = await pack.load(given.graph, {device: "wasm"});
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
    found = runtime.ask(body, graph=runtime.address(shapes_graphs / "model.explain.onnx"))
    wrong = found.pop("wrong")
    assert (wrong["code"], "valid are" in wrong["message"]) == (400, True)
    (wanted,) = handler.load(shapes_graphs / "model.explain.onnx").predict(ONE, top_k=1)
    assert len(found) == 6
    for predicted in found.values():
        assert predicted[0]["label"] == wanted.label
        assert predicted[0]["probability"] == pytest.approx(wanted.probability, abs=1e-4)
