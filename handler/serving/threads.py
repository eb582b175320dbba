"""The number of threads of an engine: workers x threads = cores; each worker looks now and then how many run."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_PAUSE = 10.0  # seconds between two looks


class Share:
    """The threads of a worker's engine, at least 1."""

    def __init__(self, wanted: int, config: Mapping[str, Any], running: Callable[[], int] = lambda: 0) -> None:
        """Takes the setting ``explain.threads``; if it is 0, the workers share out the cores.

        ``config`` is the parsed ``model-config.yaml``, which says how many workers are started; ``running`` counts
        those that run, 0 where that is not known, and the share never changes.
        """
        self._wanted, self._running, self._next_look = wanted, running, time.monotonic() + _PAUSE
        named = [config.get(key) for key in ("maxWorkers", "minWorkers")]
        most, least = (count if type(count) is int and count > 0 else 0 for count in named)
        found = 0 if wanted else running()
        self.threads = wanted or _share(max(found, least) if found else most or least)
        self.due: list[Any] = []  # rows that are answered side by side, and not yet

    def is_busy(self) -> bool:
        """Whether several rows are answered side by side."""
        return len(self.due) > 1

    def follow(self, resize: Callable[[int], None]) -> None:
        """Calls ``resize`` with the number of threads if it is another one now; looks every ten seconds at most."""
        if self._wanted or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _PAUSE
        workers = self._running()
        if workers and _share(workers) != self.threads:
            self.threads = _share(workers)
            logger.info("%d workers run: each has %d threads now", workers, self.threads)
            resize(self.threads)


def _share(workers: int) -> int:
    return max(1, usable_cores() // max(1, workers))


def usable_cores() -> int:
    """The number of cores that this process may use, by its CPU affinity and a container's CPU limit.

    A limit of 2.5 CPUs counts as 2: with a third thread, all threads would be stopped when the quota is used up.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, cpu_limits())]))


def cpu_limits(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """Yields the CPU limits, in CPUs, of this process's control group and of the groups around it, versions 1 and 2."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        # a container's own group is mounted as the root, whatever path the group has outside
        for part in (path, *map(str, Path(path).parents)):
            folder = cgroups / controllers / part.strip("/")
            version_2 = _read(folder / "cpu.max").partition(" ")[::2]
            version_1 = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            for quota, period in (version_2, version_1):
                if re.fullmatch("[1-9][0-9]*", quota) and re.fullmatch("[1-9][0-9]*", period):  # not max, -1 or no file
                    yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
