"""The pages of the documentation, the blocks of code in them, and the commands in these."""

import re
import textwrap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.serving import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/efficientnet_lite0/README.md"]
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)")


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: "Page"
    number: int  # on the page
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}, block {self.number + 1}: {self.text[:60]!r}"

    @property
    def file(self) -> str | None:
        """Name of the file that the block shows: the comment in the first line."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else None

    @property
    def commands(self) -> list[str]:
        """What a shell is told, comments left out."""
        lines = [line.split("  #")[0].strip() for line in self.text.splitlines()]
        return [part.strip() for line in lines for part in line.split(" && ") if part.strip()]

    @property
    def answer(self) -> "Block | None":
        """The JSON that the page shows right behind these commands."""
        behind = self.page.blocks[self.number + 1 : self.number + 2]
        return behind[0] if behind and behind[0].language == "json" else None


@dataclass(frozen=True)
class Page:
    """A page."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        found = enumerate(_BLOCK.finditer(self.text))
        return [Block(self, number, one[2], textwrap.dedent(one[3])) for number, one in found]

    @cached_property
    def prose(self) -> str:
        """The text without the blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def titles(self) -> list[str]:
        return re.findall(r"^#+ (.*)", self.prose, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        """As GitHub makes them of the titles."""
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in self.titles}

    @property
    def links(self) -> list[tuple[str, str]]:
        """File and anchor of each link into the repository; either may be empty."""
        return _LINK.findall(self.prose)


ALL = [Page(path) for path in PAGES]


def page(name: str) -> Page:
    """A page by its path in the repository."""
    (found,) = (one for one in ALL if one.name == name)
    return found


def blocks(language: str) -> list[Block]:
    """All blocks of a language, on all pages."""
    return [block for one in ALL for block in one.blocks if block.language == language]


def file_block(name: str) -> Block:
    """The block that shows a file."""
    (found,) = (block for block in blocks("python") if block.file == name)
    return found
