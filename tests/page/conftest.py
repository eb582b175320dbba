"""Visitors of the page of a running server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browsing import Tab, Visit
from tests.support.light import LightServer, light_server
from tests.support.serving import repacked


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, shapes_archive: Path) -> Iterator[LightServer]:
    """The front without PyTorch, with a model and another one."""
    store = tmp_path_factory.mktemp("further")
    repacked(shapes_archive, store / "other.mar", version="2.0")
    with light_server([shapes_archive, store], "shapes", tmp_path_factory.mktemp("logs")) as server:
        yield server


@pytest.fixture
def tab(visit: Visit, server: LightServer) -> Iterator[Tab]:
    """The model's page, which must not complain, and must ask its own server alone."""
    tab = visit(f"{server.address}/predictions/shapes")
    yield tab
    assert tab.complaints == []
    assert tab.elsewhere == []
