"""Writes files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path beside the file to write to; it takes the file's place if the block ends well.

    The folder is made if it is missing. Nobody sees half of a file, and nothing is left of one that failed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file's content, see ``whole_file``."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
