"""The command of examples/node, and how Node decodes files."""

import base64
import json
import shutil
import subprocess
import tarfile

import cv2
import numpy as np
import pytest

import handler
from handler.picture.decode import decode
from tests.support.javascript import Node, array_of, text_of, tree
from tests.support.pictures import tricky_files
from tests.support.serving import ONE, TWO

FILES = tricky_files()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tree(tmp_path_factory)


@pytest.fixture
def command(files, whole_graphs):
    """Runs the command on the embedded model's graph."""

    def run(*arguments, graph=whole_graphs / "model.explain.onnx"):
        said = ["node", "examples/node/explain.js", str(graph), *map(str, arguments)]
        return subprocess.run(said, cwd=files, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_python_does(files, name):
    seen = Node(files).ask("return ask.decoded(pack.decode, given.file)", file=text_of(FILES[name]))
    pixels = np.frombuffer(base64.b64decode(seen["data"]), np.uint8).reshape(seen["height"], seen["width"], -1)
    wanted = decode(FILES[name])
    assert pixels.shape[:2] == wanted.shape[:2]
    assert np.abs(pixels.astype(int) - wanted).max() <= (2 if name.startswith("JPEG") else 0)


def test_predictions_are_printed_and_maps_written_as_pictures_and_json(command, tmp_path, whole_graphs):
    done = command(TWO, "--target", "heart,arrow", "--top-k", "2", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["heart", "crescent"]
    names = {f"two.{index}.{name}.png" for index in (6, 8) for name in ("gradcam", "guided_backprop", "guided_gradcam")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"two.json", *names}
    result = handler.load(whole_graphs / "model.explain.onnx").explain(TWO, target="heart,arrow")
    answer = json.loads((tmp_path / "out/two.json").read_text())
    for one, wanted in zip(answer["explanations"], result.explanations, strict=True):
        assert np.abs(array_of(one["maps"]["gradcam"]["data"]) - wanted.maps["gradcam"].values).max() <= 1e-3
    assert answer["image"] == result.to_dict()["image"]
    drawn = cv2.imread(str(tmp_path / "out/two.6.guided_backprop.png"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(drawn.astype(int) - result.draw(0, "guided_backprop")).max() <= 2
    overlay = cv2.imread(str(tmp_path / "out/two.6.gradcam.png"), cv2.IMREAD_COLOR_RGB)
    assert overlay.shape == (320, 320, 3)


def test_the_maps_for_and_against_a_class_are_two_files(command, tmp_path):
    assert command(TWO, "--target", "heart,-heart", "--maps", "gradcam", "--out", tmp_path).returncode == 0
    drawn = [(tmp_path / f"two.{name}.gradcam.png").read_bytes() for name in ("6", "-6")]
    assert drawn[0] != drawn[1]


def test_the_answer_is_printed_as_json(command):
    done = command(ONE, "--json", "--maps", "none")
    answer = json.loads(done.stdout)
    assert answer["predictions"][0]["label"] == "star"
    assert answer["explanations"] == []


def test_nothing_is_written_over_a_file_without_leave(command, tmp_path):
    (tmp_path / "one.json").write_text("mine")
    done = command(ONE, "--maps", "gradcam", "--out", tmp_path)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]
    assert (tmp_path / "one.json").read_text() == "mine"
    assert command(ONE, "--maps", "gradcam", "--out", tmp_path, "--overwrite").returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"one.json", "one.4.gradcam.png"}


def test_mistakes_are_a_sentence_and_exit_status_2(command, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    wrong = {
        "is no label of this model, valid are circle": command(ONE, "--target", "hart"),
        "not a picture that can be read": command(tmp_path / "text.jpg", "--out", tmp_path / "out"),
        "cannot be read": command(tmp_path / "missing.jpg"),
        "is no ONNX graph": command(ONE, graph=ONE),
        "a graph and a picture are needed": command(),
        "Unknown option": command(ONE, "--targets", "heart"),
        "top_k NaN is not valid": command(ONE, "--top-k", "many"),
    }
    for message, done in wrong.items():
        assert done.returncode == 2, message
        assert done.stdout == ""
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert "    at " not in done.stderr  # no traceback
    assert not (tmp_path / "out").exists()


CONSUMER = """
// what the package names of Node's own types
declare global {
  const console: { log(...said: unknown[]): void };
  interface Blob { readonly size: number }
  interface AbortSignal { readonly aborted: boolean }
  interface URL { readonly href: string }
}

import { ExplainError, load, toAnswer, type ExplanationMap, type Result } from "shufflenet-cam";

export async function show(path: string, picture: Uint8Array): Promise<Result> {
  const model = await load(path);
  const found = await model.explain(picture, { target: ["heart", 3], maps: ["gradcam"], size: "layer" });
  const map: ExplanationMap | undefined = found.explanations[0]?.maps.gradcam;
  const device: "wasm" | "webgpu" | "cpu" = model.device;
  console.log(map?.values[0], map?.shape, device, toAnswer(found, "list"), found.predictions[0]?.label);
  // @ts-expect-error: no such map
  await model.explain(picture, { maps: ["heat"] }).catch((error: ExplainError) => error.code);
  // @ts-expect-error: no such option
  await model.explain(picture, { targets: "heart" });
  // @ts-expect-error: models are loaded
  new model.constructor.Model();
  return found;
}
"""
WITH_DOM = """
import { load, type Picture } from "shufflenet-cam";

export async function show(graph: File, image: HTMLImageElement): Promise<Picture> {
  const model = await load(graph, { device: "webgpu" });
  await model.explain(image, { target: "heart" });
  await model.explain(await createImageBitmap(image));
  // @ts-expect-error: this is no picture
  await model.explain(document.body);
  return image;
}
"""


@pytest.fixture(scope="module")
def consumer(files):
    """A folder with the package that npm packs; the packages that it needs are found in a folder above."""
    package = files / "examples/browser"
    done = subprocess.run(["npm", "pack", "--json"], cwd=package, capture_output=True, text=True, check=True)
    (told,) = json.loads(done.stdout)
    folder = package / "consumer"
    with tarfile.open(package / told["filename"]) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (folder / "node_modules").mkdir()
    shutil.move(folder / "unpacked/package", folder / "node_modules/shufflenet-cam")
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def test_the_packed_package_explains(consumer, whole_graphs):
    graph, picture = whole_graphs / "model.explain.onnx", TWO
    program = (
        'import { load } from "shufflenet-cam"; import { openAsBlob } from "node:fs";'
        "const [graph, picture] = process.argv.slice(1); const found = [];"
        "for (const one of [graph, await openAsBlob(graph)]) {"
        ' const { explanations } = await (await load(one)).explain(picture, { target: "arrow" });'
        " found.push(explanations[0].target.label, explanations[0].maps.gradcam.shape); }"
        "console.log(JSON.stringify(found));"
    )
    said = ["node", "--input-type=module", "-e", program, str(graph), str(picture)]
    done = subprocess.run(said, cwd=consumer, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["arrow", [320, 320]] * 2


@pytest.mark.parametrize(("code", "library"), [(CONSUMER, "es2022"), (WITH_DOM, "dom")], ids=["node", "browser"])
def test_the_types_are_those_of_strict_programs(consumer, code, library):
    (consumer / "own.ts").write_text(code)
    options = {"strict": True, "noEmit": True, "module": "nodenext", "target": "es2022", "types": []}
    said = {"compilerOptions": {**options, "lib": ["es2022", library]}, "files": ["own.ts"]}
    (consumer / "tsconfig.json").write_text(json.dumps(said))
    command = ["node", "../node_modules/typescript/bin/tsc"]
    done = subprocess.run(command, cwd=consumer, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "")
