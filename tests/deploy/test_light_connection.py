"""Connections of the front without PyTorch: what they keep, and for how long."""

import asyncio
import gc
import weakref
from unittest.mock import MagicMock

import uvicorn
from uvicorn.server import ServerState

from deploy.light.connection import Connection


async def _ignore(_scope, _receive, _send) -> None:
    """An application that answers nobody."""


def test_a_connection_that_has_ended_is_not_kept_until_its_next_look():
    async def forgotten() -> bool:
        config = uvicorn.Config(_ignore, http=Connection, ws="none", log_config=None)
        config.load()
        connection = Connection(config=config, server_state=ServerState(), app_state={})
        connection.connection_made(MagicMock())
        kept = weakref.ref(connection)
        connection.connection_lost(None)
        del connection
        gc.collect()
        return kept() is None

    assert asyncio.run(forgotten())
