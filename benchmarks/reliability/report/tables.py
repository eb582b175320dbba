"""Tables in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    """A table; numbers stand right."""
    right = [all(isinstance(line[place], int | float) for line in lines) for place in range(len(head))]
    rule = ["---:" if one else "---" for one in right]
    return "".join(f"| {' | '.join(_cells(*line))} |\n" for line in (head, rule, *lines))


def _cells(*values: object) -> list[str]:
    # text that does not end a cell
    return [" ".join(str(value).replace("|", "\\|").split()) for value in values]


def ms(times: Mapping[str, Any]) -> list[str]:
    """The percentiles of a summary, rounded."""
    return [f"{times[key]:.0f}" if key in times else "" for key in ("p50", "p95", "p99", "max")]
