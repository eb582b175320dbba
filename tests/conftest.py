"""Fixtures that several test files share."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from tests.support import skips
from tests.support.browsing import CHROMIUM, Tab, Visit, chromium

if TYPE_CHECKING:
    from handler.model.classifier import Classifier

# read when torch is loaded: on tiny inputs a second thread only waits, and for seconds where the cores are busy
os.environ.setdefault("OMP_NUM_THREADS", "1")


_SLOW_FOLDERS = {"benchmarks", "deploy", "docs", "examples", "server", "soundness", "export/graphs", "export/packing"}
_SLOW_FIXTURES = {"shapes_archive", "shapes_graphs", "whole_graphs", "wheel", "installed"}


def pytest_configure(config: pytest.Config) -> None:
    """In CI no test is skipped without anybody knowing; Ctrl-C works, also in what the tests start."""
    os.environ.pop("MAKELEVEL", None)  # messages would name variables of make
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
    if os.environ.get("CI"):
        config.pluginmanager.register(skips, "skips")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what ``make test-fast`` leaves out, besides the single tests that are marked where they stand."""
    tests = Path(__file__).parent
    for item in items:
        folder = item.path.parent.relative_to(tests).as_posix()
        fixtures = set(getattr(item, "fixturenames", ()))
        if {folder, folder.partition("/")[0]} & _SLOW_FOLDERS or fixtures & _SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def classifier() -> Classifier:
    """A small random-weight classifier; torch is loaded only for the tests that ask for it."""
    from tests.support.models import random_classifier

    return random_classifier("shufflenet_v2_x0_5")


@pytest.fixture(scope="session")
def shapes() -> Classifier:
    """The embedded model."""
    from handler.model.sources import load_classifier
    from tests.support.serving import CHECKPOINT

    return load_classifier(checkpoint=CHECKPOINT)


@pytest.fixture(scope="session")
def shapes_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's archive with its graphs, which take most of a minute to export: made once."""
    from export.packing.archive import write_archive
    from handler.model.sources import find_checkpoint
    from tests.support.serving import CHECKPOINT

    return write_archive(find_checkpoint(checkpoint=CHECKPOINT), tmp_path_factory.mktemp("shapes"), "shapes")


@pytest.fixture(scope="session")
def shapes_graphs(shapes_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive's content: checkpoint and graphs. Not to be changed."""
    folder = tmp_path_factory.mktemp("graphs")
    with zipfile.ZipFile(shapes_archive) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def whole_graphs(shapes_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive's graphs as other commands write them: each holds its weights."""
    folder = tmp_path_factory.mktemp("whole")
    for path in shapes_graphs.glob("*.onnx"):
        model = onnx.load(path)
        kept = {entry.key: entry.value for entry in model.metadata_props if entry.key != "files"}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept)
        onnx.save(model, folder / path.name)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, for all tests: a process can drive one at a time."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Opens an address in a new browser context, which takes the options."""
    contexts = []

    def open_at(address: str, **options: Any) -> Tab:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options}))
        contexts[-1].set_default_timeout(20_000)
        tab = Tab.of(contexts[-1].new_page())
        tab.page.goto(address)
        return tab

    yield open_at
    for context in contexts:
        context.close()


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def ownnet(importable: Path) -> Path:
    """The package of a network of one's own, importable."""
    from tests.support.own import write_package

    return write_package(importable)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test as soon as anything decodes pixels."""

    import cv2
    from PIL import ImageFile

    def reached(*_args: object, **_options: object) -> None:
        pytest.fail("decoding was reached")

    monkeypatch.setattr(cv2, "imdecode", reached)
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", reached)
