"""A checkout of its own for commands that write into ``model_store/`` and ``out/``."""

from pathlib import Path

from tests.support.serving import ROOT

_WRITTEN = {"model_store", "out", "logs", "build", "dist"}


def linked_checkout(folder: Path) -> Path:
    """Fills a folder with links to the project's files; what a command writes stays in the folder."""
    for path in ROOT.iterdir():
        if path.name not in _WRITTEN:
            (folder / path.name).symlink_to(path)
    (folder / "model_store").mkdir()
    return folder
