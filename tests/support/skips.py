"""A plugin for CI, where a test that is skipped without anybody knowing would be missed for ever: that fails there."""

from collections.abc import Generator

import pytest

EXPECTED = (  # parts of reasons
    "may not make mount and PID namespaces here",  # a variant of the test runs everywhere
    "the pod's own /tmp would hide this environment",
    "could not import 'torch'",  # in .venv-lowest, as the next one
    "older ones cannot read it",
    "OpenCV before 5 has no font of its own",
    "this machine has no CUDA device",
    "npm is not installed",
    "npm cannot install the packages",
    "chromium is not installed",
    "no chromium on the PATH",
    "no node on the PATH",
    "the package playwright is not installed",
)

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Report, Report]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Report, Report]:
    return _judged((yield))


def _judged(report: Report) -> Report:
    if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(part in reason for part in EXPECTED):
            report.outcome = "failed"
            report.longrepr = f"a skip that is not expected here, see {__name__}.EXPECTED: {reason}"
    return report
