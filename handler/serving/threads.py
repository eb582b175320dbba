"""The number of threads of an engine: workers x threads = cores. It is decided here alone."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def threads_per_worker(wanted: int, config: Mapping[str, Any]) -> int:
    """The number of threads of a worker's engine, at least 1; with 0, the workers share out the cores.

    ``config`` is the parsed ``model-config.yaml``, which says how many workers there are.
    """
    named = [config.get(key) for key in ("maxWorkers", "minWorkers")]
    workers = next((count for count in named if type(count) is int and count > 0), 1)
    return wanted or max(1, usable_cores() // workers)


def usable_cores() -> int:
    """The number of cores that this process may use, by its CPU affinity and a container's CPU limit.

    A limit of 2.5 CPUs counts as 2: with a third thread, all threads would be stopped when the quota is used up.
    """
    bound = len(os.sched_getaffinity(0))
    return max(1, min([bound, *(int(limit) for limit in cpu_limits())]))


def cpu_limits(cgroups: Path = _CGROUPS, own_group: Path = _OWN_GROUP) -> Iterator[float]:
    """Yields the CPU limits, in CPUs, of this process's control group and of the groups around it, versions 1 and 2."""
    for line in _read(own_group).splitlines():
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
