"""Installs the package of examples/browser into a temporary folder, and asks the package questions as JSON."""

import base64
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.support.serving import ROOT, SUPPORT

PARTS = ("examples/browser", "examples/node", "examples/shapes", "handler/page")


def tree(factory: pytest.TempPathFactory) -> Path:
    """A copy of what browsers and Node load, with the packages of npm: made once for all processes of pytest.

    The test is skipped where npm is missing, or has no registry to install from.
    """
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder, ready, failed = base / "javascript", base / "javascript.ready", base / "javascript.failed"
    try:
        folder.mkdir()
    except FileExistsError:  # another process makes it
        while not (ready.exists() or failed.exists()):
            time.sleep(0.2)
    else:
        try:
            _fill(folder)
            ready.touch()
        except (OSError, subprocess.SubprocessError) as error:
            failed.write_text(f"{error} {getattr(error, 'stderr', '')}")
    if failed.exists():
        pytest.skip(f"npm cannot install the packages of examples/browser here: {failed.read_text()[-500:]}")
    return folder


def _fill(folder: Path) -> None:
    for part in PARTS:
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    shutil.copy(SUPPORT / "ask.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefer-offline"]
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    where = folder / "examples/browser"
    subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True, text=True, timeout=300)


def text_of(data: bytes) -> str:
    """Bytes as JSON carries them."""
    return base64.b64encode(data).decode()


def pixels(picture: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Pixels (H, W, C) as ``ask.js`` takes them."""
    height, width, channels = picture.shape
    return {"data": text_of(picture.tobytes()), "width": width, "height": height, "channels": channels}


def array_of(text: str) -> npt.NDArray[Any]:
    """The array of a ``.npy`` file in base64."""
    found: npt.NDArray[Any] = np.load(io.BytesIO(base64.b64decode(text)))
    return found


class Node:
    """Runs the package in Node."""

    entry = "./examples/browser/src/node.js"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, body: str, **given: Any) -> Any:
        """What a function's body, with ``ask.js`` as ``ask`` and the package as ``package``, returns for ``given``."""
        program = (
            "import * as ask from './ask.js'; import * as pack from '" + self.entry + "';\n"
            "let text = ''; for await (const part of process.stdin) text += part;\n"
            f"const answer = await (async (given) => {{ {body} }})(JSON.parse(text));\n"
            "process.stdout.write(JSON.stringify(answer ?? null));"
        )
        command = ["node", "--input-type=module", "-e", program]
        done = subprocess.run(
            command, cwd=self.folder, input=json.dumps(given), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def address(self, path: Path) -> str:
        """How the package names a file of this machine."""
        return str(path)


class Browser:
    """Runs the package in Chromium; ``page`` is Playwright's, of a server whose root is the tree."""

    entry = "/examples/browser/src/browser.js"

    def __init__(self, folder: Path, page: Any) -> None:
        self.folder, self.page = folder, page

    def ask(self, body: str, **given: Any) -> Any:
        """See ``Node.ask``."""
        program = (
            "async (given) => { const ask = await import('/ask.js'); const pack = await import('" + self.entry + "');\n"
            f"return await (async (given) => {{ {body} }})(given); }}"
        )
        return self.page.evaluate(program, given)

    def address(self, path: Path) -> str:
        """The file's address on the server, which serves a copy of it."""
        served = self.folder / "graphs" / path.parent.name / path.name
        if not served.exists():
            served.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, served)
        return "/" + served.relative_to(self.folder).as_posix()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of a folder, on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; the test is skipped where one of them is missing."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = shutil.which("chromium")
    if not path:
        pytest.skip("chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        try:
            yield browser
        finally:
            browser.close()
