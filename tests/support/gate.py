"""Runs before a server's own code, as its ``sitecustomize``: writes down what happens, and holds answers at a gate.

``prelude`` gives the text. The server then appends a line to the folder's file ``trace`` for each request that reaches
the queue (``arrived``), for each batch that is begun (``begun 3``, with its rows) and for each that was answered
(``done``), and for each request that is given up before its answer (``gone``). A batch with pictures is answered as
soon as the folder has no file ``shut``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.reliability.asking import until

_CODE = """
import asyncio
import time
from pathlib import Path

import handler.service, handler.serving.queue

folder = Path({folder!r})
answer_batch, answer = handler.service.Service.answer_batch, handler.serving.queue.Queue.answer


def say(line):
    with (folder / "trace").open("a") as trace:
        trace.write(line + "\\n")


def gated(self, rows):
    if not any(row.fields for row in rows):
        return answer_batch(self, rows)
    say(f"begun {{len(rows)}}")
    while (folder / "shut").exists():
        time.sleep(0.01)
    answers = answer_batch(self, rows)
    say("done")
    return answers


async def arriving(self, row, by):
    if row.fields:
        say("arrived")
    try:
        return await answer(self, row, by)
    except asyncio.CancelledError:
        say("gone")
        raise


handler.service.Service.answer_batch, handler.serving.queue.Queue.answer = gated, arriving
"""


class Gate:
    """The gate of a running server, open at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "trace").touch()

    @property
    def prelude(self) -> str:
        return _CODE.format(folder=str(self._folder))

    @contextmanager
    def shut(self) -> Iterator[None]:
        """The gate is shut, until the block opens it or ends."""
        (self._folder / "trace").write_text("")
        (self._folder / "shut").touch()
        try:
            yield
        finally:
            self.open()

    def open(self) -> None:
        (self._folder / "shut").unlink(missing_ok=True)

    def lines(self, kind: str) -> list[str]:
        """What was traced of that kind since the gate was shut last."""
        return [line for line in (self._folder / "trace").read_text().splitlines() if line.startswith(kind)]

    def wait_for(self, kind: str, count: int) -> None:
        """Waits until as many lines of that kind are traced."""
        assert until(lambda: len(self.lines(kind)) >= count, 60, 0.02), self.lines("")
