"""The site beyond ``docs/``: README.md as its first page, and the files of the repository that pages link to."""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOME = "README.md", "index.md"  # in the repository and in the site
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds README.md and, from page to page, the files outside ``docs/`` that are linked to."""
    pages = [ROOT / HOME[0], *sorted(DOCS.rglob("*.md"))]
    added = {pages[0]}
    files.append(File.generated(config, HOME[1], abs_src_path=str(pages[0])))
    for page in pages:  # grows
        for link in _LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target.is_file() and not target.is_relative_to(DOCS) and target not in added:
                added.add(target)
                files.append(File.generated(config, _place(target), abs_src_path=str(target)))
                pages += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Turns the repository's links, which work on the disk and on GitHub, into the site's."""
    source = Path(page.file.abs_src_path)
    here = os.path.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = (source.parent / link[1]).resolve()
        return os.path.relpath(_place(target), here) if target.is_relative_to(ROOT) else link[1]

    return _LINK.sub(moved, markdown)


def _place(file: Path) -> str:
    """Where a file of the repository stands in the site."""
    name = file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()
    return HOME[1] if name == HOME[0] else name
