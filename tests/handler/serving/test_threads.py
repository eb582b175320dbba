import os

import pytest

import handler.serving.threads as threads
from handler.serving.threads import Share, cpu_limits, usable_cores


@pytest.mark.parametrize(
    ("wanted", "config", "expected"),
    [
        (0, {}, 8),
        (0, {"minWorkers": 1, "maxWorkers": 1}, 8),
        (0, {"minWorkers": 1, "maxWorkers": 4}, 2),
        (0, {"minWorkers": 2}, 4),
        (0, {"maxWorkers": 3}, 2),
        (0, {"maxWorkers": 20}, 1),
        (0, {"minWorkers": 4, "maxWorkers": 1}, 8),
        (0, {"minWorkers": 4, "maxWorkers": 0}, 2),
        (0, {"maxWorkers": "two", "minWorkers": True}, 8),
        (3, {"maxWorkers": 4}, 3),
    ],
)
def test_workers_times_threads_are_the_cores(monkeypatch, wanted, config, expected):
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert Share(wanted, config).threads == expected


@pytest.mark.parametrize(
    ("config", "running", "expected"),
    [
        ({"minWorkers": 1, "maxWorkers": 4}, 1, 8),  # the others may never be started
        ({"minWorkers": 2, "maxWorkers": 4}, 1, 4),  # the other one is being started
        ({"minWorkers": 1, "maxWorkers": 4}, 3, 2),
        ({}, 2, 4),
    ],
)
def test_a_worker_takes_its_share_of_those_that_run(monkeypatch, config, running, expected):
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    assert Share(0, config, lambda: running).threads == expected


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    return now


def test_the_share_follows_the_workers_and_looks_now_and_then(clock):
    running, looks, resized = [1], [], []

    def count():
        looks.append(clock[0])
        return running[0]

    share = Share(0, {"minWorkers": 1, "maxWorkers": 1}, count)
    for running[0], seconds, expected in [(2, 9.9, 8), (2, 0.2, 4), (1, 9.9, 4), (1, 0.2, 8), (1, 11, 8), (0, 11, 8)]:
        clock[0] += seconds
        share.follow(resized.append)
        assert share.threads == expected
    assert resized == [4, 8]
    assert len(looks) == 1 + 4


def test_a_number_of_threads_that_the_operator_gives_is_kept(clock):
    share = Share(3, {}, lambda: pytest.fail("nobody needs to count"))
    clock[0] += 100
    share.follow(lambda _: pytest.fail("the number changed"))
    assert share.threads == 3


@pytest.mark.parametrize(
    ("limits", "expected"), [([], 4), ([2.0], 2), ([2.9], 2), ([0.5], 1), ([64.0], 4), ([3.0, 1.5], 1)]
)
def test_usable_cores_are_the_bound_ones_within_the_limits(monkeypatch, limits, expected):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(threads, "cpu_limits", lambda: iter(limits))
    assert usable_cores() == expected


def test_the_cores_are_those_that_the_thread_is_bound_to(monkeypatch):
    monkeypatch.setattr(threads, "cpu_limits", lambda: iter(()))
    bound = os.sched_getaffinity(0)
    assert usable_cores() == len(bound)
    try:
        os.sched_setaffinity(0, {min(bound)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, bound)


def test_limits_of_version_2_are_found_at_the_group_and_around_it(tmp_path):
    (tmp_path / "self").write_text("0::/pods/one:X\n")
    (tmp_path / "pods/one:X").mkdir(parents=True)
    (tmp_path / "pods/one:X/cpu.max").write_text("150000 100000\n")
    (tmp_path / "pods/cpu.max").write_text("max 100000\n")
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    assert sorted(cpu_limits(tmp_path, tmp_path / "self")) == [1.5, 4.0]


@pytest.mark.parametrize(
    ("said", "limits"),
    [("1 1", [1.0]), ("0 100000", []), ("-1 100000", []), ("100000 0", []), ("many 100000", [])],
)
def test_a_limit_is_a_quota_and_a_period_above_0(tmp_path, said, limits):
    (tmp_path / "self").write_text("0::/\n")
    (tmp_path / "cpu.max").write_text(said)
    assert list(cpu_limits(tmp_path, tmp_path / "self")) == limits


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_limits_of_version_1_are_found_where_a_container_sees_its_own_group_as_the_root(tmp_path, controllers):
    (tmp_path / "self").write_text(f"4:memory:/outside\n1:{controllers}:/outside/group\n")
    (tmp_path / controllers).mkdir()
    (tmp_path / controllers / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / controllers / "cpu.cfs_period_us").write_text("100000\n")
    assert list(cpu_limits(tmp_path, tmp_path / "self")) == [2.0]
    (tmp_path / controllers / "cpu.cfs_quota_us").write_text("-1\n")
    assert list(cpu_limits(tmp_path, tmp_path / "self")) == []


def test_no_control_groups_are_no_limits(tmp_path):
    assert list(cpu_limits(tmp_path, tmp_path / "self")) == []
