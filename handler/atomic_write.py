"""Writes files whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path beside the file, to write to; the written file takes its place if the block raises no exception.

    The folder is made if it does not exist. No reader sees an unfinished file, and none is left after an exception. The
    file has the mode that new files have, whoever writes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file; see ``whole_file``."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(content)
