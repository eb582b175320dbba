"""Reads what Prometheus would: the text of a running server's metrics address."""

import re
import time
from collections.abc import Callable

import requests

from deploy.local_server import LocalServer

_LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\.)*)"')
_TYPE = re.compile(r"# TYPE (\S+) (counter|gauge|histogram|summary|untyped)")

Labels = tuple[tuple[str, str], ...]  # sorted
Scraped = dict[tuple[str, Labels], float]


def scrape(server: LocalServer) -> Scraped:
    """Value by name and labels; a line that is not of the format fails the test."""
    text = requests.get(f"{server.properties['metrics_address']}/metrics", timeout=60).text
    found: Scraped = {}
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            assert line.startswith("# HELP ") or _TYPE.fullmatch(line) or not line, line
            continue
        match = _LINE.fullmatch(line)
        assert match, line
        key = match[1], tuple(sorted(_LABEL.findall(match[2] or "")))
        assert key not in found, line
        found[key] = float(match[3])
    return found


def value(scraped: Scraped, name: str, **labels: str) -> float:
    """The sum over all series of that name that have these labels; 0 if there is none."""
    wanted = set(labels.items())
    return sum(number for (its, has), number in scraped.items() if its == name and wanted <= set(has))


def scrape_until(server: LocalServer, reached: Callable[[Scraped], bool], seconds: float = 30) -> Scraped:
    """What is exposed once it is so: the frontend reads a worker's metrics a little after its answer.

    Raises:
        AssertionError: it is not so in that many seconds.
    """
    end = time.monotonic() + seconds
    while not reached(scraped := scrape(server)):
        assert time.monotonic() < end, f"not reached within {seconds} s: {scraped}"
        time.sleep(0.1)
    return scraped
