"""Visitors of the page of a running server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import CHROMIUM, Tab, Visit, chromium
from tests.support.light import LightServer, light_server
from tests.support.serving import repacked


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, shapes_archive: Path) -> Iterator[LightServer]:
    """The front without PyTorch, with a model and another one."""
    store = tmp_path_factory.mktemp("further")
    repacked(shapes_archive, store / "other.mar", version="2.0")
    with light_server([shapes_archive, store], "shapes", tmp_path_factory.mktemp("logs")) as server:
        yield server


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
def tab(visit: Visit, server: LightServer) -> Iterator[Tab]:
    """The model's page, which must not complain, and must ask its own server alone."""
    tab = visit(f"{server.address}/predictions/shapes")
    yield tab
    assert tab.complaints == []
    assert tab.elsewhere == []
