"""The front without PyTorch and Java: serves archives as ``make archive`` writes them, until it is stopped."""

import asyncio
import ctypes
import logging
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from resource import RLIMIT_NOFILE, getrlimit
from typing import Any

import prometheus_client
import uvicorn

from deploy.light.connection import Connection
from deploy.light.limits import SLOWEST
from deploy.light.models import Models
from deploy.light.routes import Front
from handler.errors import ModelError
from handler.telemetry.request_log import keep_on_one_line

logger = logging.getLogger(__name__)
_BACKLOG = 128  # connections that wait, and that asyncio accepts at once; fewer where descriptors are few
_MMAP_THRESHOLD, _LARGE = -3, 2**21  # of mallopt: so many bytes and more are given back to the system at once


def serve(
    paths: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    metrics_port: int = 8082,
    waiting: int = 32,
    token_file: Path | None = None,
    cors: Sequence[str] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    beside: Callable[[Models], AbstractAsyncContextManager[Any]] = lambda _: nullcontext(),
) -> None:
    """Serves archives until SIGTERM or SIGINT, and then answers what has arrived.

    ``paths`` are archives, and folders of them; ``beside`` is what else answers meanwhile, from the same models. A
    ModelError says why an archive cannot be served, an OSError that a port is taken or a file cannot be read.
    """
    logging.basicConfig(level=logging.INFO)
    keep_on_one_line()
    for library in ("python_multipart", "uvicorn"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # what clients do wrong is in their answers
    token = token_file.read_text(encoding="utf-8").strip() if token_file else ""
    if token_file and not re.fullmatch("[!-~]+", token):
        raise ModelError(f"{token_file} holds no token, valid is a line of printable ASCII without spaces")
    if key and not certificate:
        raise ModelError(f"the key {key} is of no use without a certificate")
    with suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
    models = Models(paths, waiting, token)
    off: Any = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False, "server_header": False}
    # a password that no key has: without one, a key with a passphrase is asked for at the terminal
    used: Any = {"http": Connection, "ssl_certfile": certificate, "ssl_keyfile": key, "ssl_keyfile_password": "none"}
    at_once = max(1, min(_BACKLOG, getrlimit(RLIMIT_NOFILE)[0] // 8))
    used |= {"backlog": at_once, "timeout_graceful_shutdown": int(SLOWEST)}
    config = uvicorn.Config(Front(models).application(cors), **used, **off)
    with _about(f"the certificate {certificate} and its key cannot be used, valid are PEM files without a passphrase"):
        config.load()
    with _about(f"port {port} of {host} cannot be used"):
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    with listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sees to sockets of its own alone
        with _about(f"port {metrics_port} of {host}, for the metrics, cannot be used"):
            metrics: Any = prometheus_client.start_http_server(metrics_port, host, models.exposition.registry)[0]
        metrics.handle_error = lambda *_: None  # clients that go would be logged
        metrics.RequestHandlerClass.timeout = SLOWEST
        at = f"port {port} of {host}, metrics at port {metrics_port}"
        asyncio.run(_run(uvicorn.Server(config), listening, beside(models), f"{', '.join(models.names)} at {at}"))


@contextmanager
def _about(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"{what}: {error.strerror or error}") from error


async def _run(server: uvicorn.Server, on: socket.socket, beside: AbstractAsyncContextManager[Any], ready: str) -> None:
    async with beside:
        logger.info("serving %s", ready)
        await server.serve([on])
