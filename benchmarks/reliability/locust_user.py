"""The locust file of the mixed load; ``mixed_load.py`` starts locust with it, in a process of its own.

Locust replaces the sockets of its process by gevent's, so nothing else of this project runs there.
"""

import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, events, task
from locust.exception import StopUser

from benchmarks.reliability.mixed_load import Job
from benchmarks.reliability.pictures import read_pool
from benchmarks.reliability.profile import Asked, judge, mixed

_JOB = Job.read(Path(os.environ["RELIABILITY_JOB"]))
_POOL = read_pool(Path(_JOB.pool))
_NUMBERS = itertools.count()
_OUTCOMES: list[dict[str, Any]] = []
_STARTED = time.monotonic()


class Client(FastHttpUser):
    """Posts one request of the profile after the other, and a refused one again until it is answered."""

    network_timeout = connection_timeout = 120.0  # seconds

    @task
    def post_next(self) -> None:
        """The next request that nobody has posted yet."""
        number = next(_NUMBERS)
        if number >= _JOB.requests or time.monotonic() > _STARTED + _JOB.seconds:
            raise StopUser
        _OUTCOMES.append(self._answered(mixed(number, _POOL, _JOB.seed)))
        if len(_OUTCOMES) == _JOB.requests:
            gevent.spawn(self.environment.runner.quit)
        if _JOB.pause:
            gevent.sleep(_JOB.pause)

    def _answered(self, asked: Asked) -> dict[str, Any]:
        first, refusals_ms = time.perf_counter(), list[float]()
        while True:
            status, ms, verdict = self._post(asked)
            if status != 503 or len(refusals_ms) >= _JOB.most_retries:
                break
            refusals_ms.append(ms)
            gevent.sleep(random.uniform(0.5, 1.5) * _JOB.retry_pause)
        return {
            "number": asked.number,
            "kind": asked.kind,
            "form": asked.form,
            "status": status,
            "wrong": verdict,
            "ms": ms,  # of the request that was answered
            "ms_with_retries": (time.perf_counter() - first) * 1e3,
            "refusals_ms": refusals_ms,
        }

    def _post(self, asked: Asked) -> tuple[int, float, str]:
        started = time.perf_counter()
        path = f"/predictions/{_JOB.model}"
        with self.client.post(
            path, data=asked.body, headers=asked.headers, name=asked.kind, catch_response=True
        ) as answer:
            body = answer.content or b""
            ms = (time.perf_counter() - started) * 1e3
            if not answer.status_code:
                verdict = f"no answer: {answer.error!r}"
            else:
                headers = dict((answer.headers or {}).items())  # dict() of them alone would hold pairs
                verdict = judge(asked, answer.status_code, headers, body)
            if verdict in ("", "unidentified"):
                answer.success()
            else:
                answer.failure(verdict)
        return int(answer.status_code), ms, verdict


@events.quitting.add_listener
def _write(environment: Any, **_: Any) -> None:
    Path(_JOB.outcomes).write_text("".join(json.dumps(one) + "\n" for one in _OUTCOMES), encoding="utf-8")
    environment.process_exit_code = 0  # what is wrong is judged by who started locust
