"""Serves EfficientNet-Lite0, explains two photographs and draws the README's picture strip: ``make demo-photo``."""

import argparse
import io
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deploy.local_server import DIRECT, LocalServer, run_command, temporary_server
from examples.efficientnet_lite0.photographs import NAMES, photograph

STEP = 6  # the strip has every sixth grey level


def post(server: LocalServer, picture: bytes, accept: str) -> bytes:
    """Posts a picture as the body and returns the answer's body."""
    address = f"{server.address}/predictions/{server.model}"
    headers = {"Accept": accept, "Content-Type": "image/png"}
    with DIRECT.open(urllib.request.Request(address, data=picture, headers=headers), timeout=60) as answer:
        body: bytes = answer.read()
    return body


def explain(server: LocalServer, name: str, output: Path) -> bytes:
    """Posts a photograph twice, prints the predictions, writes the JSON answer and returns the sheet (PNG)."""
    picture = photograph(name)
    answer: dict[str, Any] = json.loads(post(server, picture, "application/json"))
    print(f"\n{name}, answered by engine {answer['model']['engine']}")
    for prediction in answer["predictions"][:3]:
        print(f"  {prediction['probability']:6.3f}  {prediction['label']}")
    (output / f"{name}.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")
    return post(server, picture, "image/png")


def stack(sheets: Sequence[bytes]) -> bytes:
    """Stacks pictures of the same width in one PNG file, with fewer grey levels, which makes the file smaller."""
    pixels = np.vstack([np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"), np.uint16) for sheet in sheets])
    coarse = ((pixels + STEP // 2) // STEP * STEP).clip(max=255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).save(file, "PNG", optimize=True)
    return file.getvalue()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.efficientnet_lite0.demo", description=__doc__)
    parser.add_argument("--model", default="efficientnet_lite0", help="archive in the store (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("out/demo-photo"), help="folder (default: %(default)s)")
    store = Path("out/demo-photo/store")  # of its own: model_store is for archives of the user
    parser.add_argument("--store", type=Path, default=store, help="of the archive (default: %(default)s)")
    parser.add_argument(
        "--strip", type=Path, default=Path("out/demo-photo/strip.png"), help="to write (default: %(default)s)"
    )
    options = parser.parse_args()
    return run_command(
        lambda: _show(options.model, options.store, options.output, options.strip), "the server is stopped"
    )


def _show(model: str, store: Path, output: Path, strip: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    print("starting TorchServe on free ports …", flush=True)
    settings = {"model_store": str(store), "load_models": f"{model}.mar"}
    with temporary_server(Path("config.properties"), model, output / "logs", settings) as server:
        print(f"ready: {server.address}")
        drawn = stack([explain(server, name, output) for name in NAMES])
        print("\nstopping the server")
    strip.write_bytes(drawn)
    print(f"wrote {strip} ({len(drawn) / 1e3:.0f} kB): photograph, Grad-CAM, guided Grad-CAM, guided backprop")


if __name__ == "__main__":
    sys.exit(main())
