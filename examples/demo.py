"""Serves the packed model, posts two pictures and shows the answers: ``make demo``.

The second picture holds two objects of different classes, and is explained for each of them.
"""

import argparse
import base64
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from deploy.local_server import DIRECT, LocalServer, run_command, temporary_server

PICTURES = {"one": "top", "two": "heart,arrow"}  # file in examples/shapes to target
_FOLDER = Path(__file__).parent / "shapes"


def post(server: LocalServer, picture: Path, target: str, accept: str) -> bytes:
    """Posts a picture as the body, with the options as headers, and returns the answer's body."""
    headers = {"X-Explain-Target": target, "Accept": accept, "Content-Type": "image/jpeg"}
    address = f"{server.address}/predictions/{server.model}"
    request = urllib.request.Request(address, data=picture.read_bytes(), headers=headers)
    with DIRECT.open(request, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def explain(server: LocalServer, name: str, target: str, output: Path) -> None:
    """Posts a picture twice, for JSON and for the sheet, writes answers and maps, and prints the predictions."""
    picture = _FOLDER / f"{name}.jpg"
    print(f"\nposting {picture} with target {target}")
    answer: dict[str, Any] = json.loads(post(server, picture, target, "application/json"))
    for prediction in answer["predictions"][:3]:
        print(f"  {prediction['probability']:6.3f}  {prediction['label']}")
    (output / f"{name}.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")
    written = [f"{name}.json", f"{name}.png"]
    (output / f"{name}.png").write_bytes(post(server, picture, target, "image/png"))
    for explanation in answer["explanations"]:
        for kind, drawn in explanation["maps"].items():
            written.append(f"{name}-{explanation['target']['label']}-{kind}.png")
            (output / written[-1]).write_bytes(base64.b64decode(drawn["data"]))
    print("  wrote", ", ".join(str(output / file) for file in written))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shufflenet_cam", help="archive in the store (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder (default: %(default)s)")
    store = Path("out/demo/store")  # of its own: model_store is for archives of the user
    parser.add_argument("--store", type=Path, default=store, help="of the archive (default: %(default)s)")
    options = parser.parse_args()
    return run_command(lambda: _show(options.model, options.store, options.output), "the server is stopped")


def _show(model: str, store: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    print("starting TorchServe on free ports …", flush=True)
    settings = {"model_store": str(store), "load_models": f"{model}.mar"}
    with temporary_server(Path("config.properties"), model, output / "logs", settings) as server:
        print(f"ready: {server.address}")
        for name, target in PICTURES.items():
            explain(server, name, target, output)
        print("\nstopping the server")
    print(f"look at {output / 'two.png'}: each row explains one of the two objects")


if __name__ == "__main__":
    sys.exit(main())
