"""The requests that wait or are answered: bounded in number, and answered in as many threads as there are cores."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from handler.errors import Unavailable
from handler.protocol.answer import Answer
from handler.protocol.request import options_of
from handler.protocol.row import Row


@dataclass(frozen=True, kw_only=True, eq=False)
class Batching:
    """A service, and how its rows are collected."""

    answer_batch: Callable[[list[Row]], list[Answer]]  # of a service: answers rows in their order, in any thread
    most: int = 1  # rows of a batch
    delay: float = 0.0  # seconds that a row waits for others, where others are being answered


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    row: Row
    by: Batching
    needs: Any  # rows with equal needs share a batch
    due: float  # when the row waits no longer for others, in the loop's time
    answer: "asyncio.Future[Answer]"


class Queue:
    """Hands rows to services. Only the answers are made in threads; all methods are called in one event loop."""

    def __init__(self, most: int, threads: int) -> None:
        """``most`` are the rows that wait or are answered, ``threads`` the batches that are answered at once."""
        self._most, self._free = most, threads
        self._threads = ThreadPoolExecutor(threads, "answer")
        self._waiting: list[_Waiting] = []
        self.rows = 0  # that wait or are answered

    def is_busy(self) -> bool:
        """Whether more than one row waits or is answered."""
        return self.rows > 1

    def admit(self) -> None:
        """Raises Unavailable if no more rows may wait."""
        if self.rows >= self._most:
            raise Unavailable(f"{self._most} requests wait or are answered, no more may; ask again later")

    async def answer(self, row: Row, by: Batching) -> Answer:
        """Waits for the row's answer; raises Unavailable at once if too many wait.

        A row whose waiting is cancelled is not computed for.
        """
        self.admit()
        loop = asyncio.get_running_loop()
        self.rows += 1
        delay = by.delay if by.most > 1 and self.is_busy() else 0.0
        needs = options_of(row) if by.most > 1 else object()
        waiting = _Waiting(row=row, by=by, needs=needs, due=loop.time() + delay, answer=loop.create_future())
        self._waiting.append(waiting)
        if delay:
            loop.call_later(delay, self._begin)
        try:
            self._begin()
            return await waiting.answer
        finally:
            self.rows -= 1

    def _begin(self) -> None:
        """Starts the batches that are full or due, the oldest rows first, as far as threads are free."""
        loop = asyncio.get_running_loop()
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        for first in [*self._waiting]:
            alike = [one for one in self._waiting if (one.by, one.needs) == (first.by, first.needs)][: first.by.most]
            if self._free and first in alike and (len(alike) == first.by.most or first.due <= loop.time()):
                self._free -= 1
                self._waiting = [one for one in self._waiting if one not in alike]
                loop.create_task(self._run(alike))

    async def _run(self, batch: list[_Waiting]) -> None:
        rows, answer_batch = [one.row for one in batch], batch[0].by.answer_batch
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, answer_batch, rows)
            for one, answer in zip(batch, answers, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)
        except Exception as error:
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
        finally:
            self._free += 1
            self._begin()
