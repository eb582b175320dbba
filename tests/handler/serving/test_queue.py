"""Which rows are answered together, in which order, and which not at all; no server, no torch."""

import asyncio
import threading
from contextlib import suppress

import pytest

from handler.errors import Unavailable
from handler.protocol.answer import Answer
from handler.protocol.row import Row
from handler.serving.queue import Batching, Queue


class Names:
    """Answers each row with its name, as soon as its gate is open; keeps what it was asked."""

    def __init__(self, *, shut=False):
        self.batches = []
        self.together = self.most_together = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()
        if not shut:
            self.gate.set()

    def answer_batch(self, rows):
        names = [row.fields["body"].decode() for row in rows]
        with self._lock:
            self.batches.append(names)
            self.together += 1
            self.most_together = max(self.together, self.most_together)
        assert self.gate.wait(60)
        with self._lock:
            self.together -= 1
        if "bad" in names:
            raise ValueError(f"no answer to {names}")
        return [Answer(body=name.encode(), content_type="text/plain") for name in names]


def row(name, **options):
    return Row(fields={"body": name.encode()}, options=options)


def run(test):
    """Runs a test in an event loop of its own, for at most a minute."""
    asyncio.run(asyncio.wait_for(test, 60))


def begin(queue, by, *rows):
    """Tasks that wait for the rows' answers; they have entered the queue once the loop has run."""
    return [asyncio.ensure_future(queue.answer(one, by)) for one in rows]


async def until(found):
    while not found():
        await asyncio.sleep(0.001)


async def bodies(tasks):
    return [(await one).body.decode() for one in tasks]


def test_each_row_gets_its_own_answer():
    async def test():
        queue, names = Queue(8, 2), Names()
        tasks = begin(queue, Batching(answer_batch=names.answer_batch), *map(row, "abcdef"))
        assert await bodies(tasks) == [*"abcdef"]
        assert sorted(names.batches) == [[name] for name in "abcdef"]  # of one row each, unless asked for
        assert queue.rows == 0

    run(test())


def test_rows_are_answered_in_their_order():
    async def test():
        queue, names = Queue(8, 1), Names()
        await bodies(begin(queue, Batching(answer_batch=names.answer_batch), *map(row, "abcdef")))
        assert names.batches == [[name] for name in "abcdef"]

    run(test())


def test_as_many_batches_run_at_once_as_there_are_threads():
    async def test():
        queue, names = Queue(8, 3), Names(shut=True)
        tasks = begin(queue, Batching(answer_batch=names.answer_batch), *map(row, "abcdef"))
        await until(lambda: len(names.batches) == 3)
        names.gate.set()
        assert await bodies(tasks) == [*"abcdef"]
        assert names.most_together == 3

    run(test())


def test_a_row_too_many_is_refused_at_once_and_the_next_is_taken_when_one_has_left():
    async def test():
        queue, names = Queue(2, 1), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch)
        tasks = begin(queue, by, row("a"), row("b"))
        await until(lambda: queue.rows == 2)
        with pytest.raises(Unavailable, match="2 requests wait or are answered"):
            await queue.answer(row("c"), by)
        assert queue.rows == 2
        names.gate.set()
        assert await bodies(tasks) == ["a", "b"]
        assert await bodies(begin(queue, by, row("d"))) == ["d"]
        assert names.batches == [["a"], ["b"], ["d"]]

    run(test())


def test_the_bound_is_that_of_all_services_together():
    async def test():
        queue, one, other = Queue(2, 2), Names(shut=True), Names(shut=True)
        tasks = [
            *begin(queue, Batching(answer_batch=one.answer_batch), row("a")),
            *begin(queue, Batching(answer_batch=other.answer_batch), row("b")),
        ]
        await until(lambda: queue.rows == 2)
        with pytest.raises(Unavailable):
            await queue.answer(row("c"), Batching(answer_batch=one.answer_batch))
        one.gate.set()
        other.gate.set()
        assert await bodies(tasks) == ["a", "b"]

    run(test())


def test_rows_that_ask_for_the_same_share_a_batch_in_their_order():
    async def test():
        queue, names = Queue(16, 1), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch, most=3)
        first = begin(queue, by, row("first", top_k="9"))
        await until(lambda: names.batches)
        tasks = begin(queue, by, row("a"), row("b", target="1"), row("c"), row("d"), row("e"), row("f", target="1"))
        await until(lambda: queue.rows == 7)
        names.gate.set()
        assert await bodies([*first, *tasks]) == ["first", *"abcdef"]
        assert names.batches == [["first"], ["a", "c", "d"], ["b", "f"], ["e"]]

    run(test())


def test_rows_of_several_services_share_no_batch():
    async def test():
        queue, one, other = Queue(16, 1), Names(shut=True), Names()
        first, second = (Batching(answer_batch=names.answer_batch, most=4) for names in (one, other))
        tasks = begin(queue, first, row("x"))
        await until(lambda: one.batches)
        for by, name in ((first, "a"), (second, "b"), (first, "c"), (second, "d")):
            tasks += begin(queue, by, row(name))
        await until(lambda: queue.rows == 5)
        one.gate.set()
        assert await bodies(tasks) == ["x", "a", "b", "c", "d"]
        assert (one.batches, other.batches) == ([["x"], ["a", "c"]], [["b", "d"]])

    run(test())


def test_a_lone_row_waits_for_nobody():
    async def test():
        queue, names = Queue(8, 2), Names()
        by = Batching(answer_batch=names.answer_batch, most=8, delay=3600)
        assert await bodies(begin(queue, by, row("a"))) == ["a"]

    run(test())


def test_a_row_beside_others_waits_for_more_until_it_is_due():
    async def test():
        queue, names = Queue(8, 2), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch, most=8, delay=0.2)
        loop = asyncio.get_running_loop()
        tasks = begin(queue, by, row("first"))
        await until(lambda: names.batches)
        started = loop.time()
        tasks += begin(queue, by, row("a"), row("b"))
        await until(lambda: len(names.batches) == 2)
        assert loop.time() - started >= 0.2
        assert names.batches == [["first"], ["a", "b"]]  # though a thread was free all the time
        names.gate.set()
        assert await bodies(tasks) == ["first", "a", "b"]

    run(test())


def test_a_full_batch_does_not_wait_until_it_is_due():
    async def test():
        queue, names = Queue(8, 2), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch, most=2, delay=3600)
        tasks = begin(queue, by, row("first"))
        await until(lambda: names.batches)
        tasks += begin(queue, by, row("a"), row("b"))
        await until(lambda: len(names.batches) == 2)
        assert names.batches[1] == ["a", "b"]
        names.gate.set()
        assert await bodies(tasks) == ["first", "a", "b"]

    run(test())


def test_a_row_that_is_given_up_is_not_computed_for_and_frees_its_place():
    async def test():
        queue, names = Queue(3, 1), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch)
        running, given_up, waiting = begin(queue, by, row("a"), row("b"), row("c"))
        await until(lambda: names.batches)
        given_up.cancel()
        with suppress(asyncio.CancelledError):
            await given_up
        assert given_up.cancelled()
        assert queue.rows == 2
        names.gate.set()
        assert await bodies([running, waiting]) == ["a", "c"]
        assert names.batches == [["a"], ["c"]]

    run(test())


def test_a_row_that_is_given_up_while_it_is_computed_harms_no_other_of_its_batch():
    async def test():
        queue, names = Queue(8, 1), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch, most=2)
        tasks = begin(queue, by, row("first", top_k="9"))
        await until(lambda: names.batches)
        tasks += begin(queue, by, row("a"), row("b"))
        await until(lambda: queue.rows == 3)
        names.gate.set()
        await tasks[0]
        names.gate.clear()
        await until(lambda: len(names.batches) == 2 or tasks[1].done())
        tasks[1].cancel()
        names.gate.set()
        assert (await tasks[2]).body == b"b"
        assert await bodies(begin(queue, by, row("c"))) == ["c"]  # the thread is free again

    run(test())


def test_an_exception_is_that_of_its_batch_alone():
    async def test():
        queue, names = Queue(8, 1), Names(shut=True)
        by = Batching(answer_batch=names.answer_batch, most=2)
        tasks = begin(queue, by, row("first", top_k="9"))
        await until(lambda: names.batches)
        tasks += begin(queue, by, row("bad"), row("a"), row("b", target="1"))
        await until(lambda: queue.rows == 4)
        names.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [getattr(one, "body", type(one)) for one in results] == [b"first", ValueError, ValueError, b"b"]
        assert queue.rows == 0
        assert await bodies(begin(queue, by, row("c"))) == ["c"]

    run(test())


class Short:
    """Forgets the last row."""

    def answer_batch(self, rows):
        return [Answer(body=b"", content_type="text/plain") for _ in rows[1:]]


def test_a_service_that_forgets_a_row_fails_it():
    async def test():
        queue = Queue(8, 1)
        with pytest.raises(ValueError, match="shorter"):
            await queue.answer(row("a"), Batching(answer_batch=Short().answer_batch))
        assert queue.rows == 0

    run(test())


def test_it_is_busy_while_more_than_one_row_waits_or_is_answered():
    async def test():
        queue, names = Queue(8, 1), Names(shut=True)
        by, seen = Batching(answer_batch=names.answer_batch), [queue.is_busy()]
        tasks = begin(queue, by, row("a"))
        await until(lambda: names.batches)
        seen.append(queue.is_busy())
        tasks += begin(queue, by, row("b"))
        await until(lambda: queue.rows == 2)
        seen.append(queue.is_busy())
        names.gate.set()
        await bodies(tasks)
        assert [*seen, queue.is_busy()] == [False, False, True, False]

    run(test())
