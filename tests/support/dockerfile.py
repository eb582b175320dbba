"""The instructions of the Dockerfiles."""

from pathlib import Path

from tests.support.serving import ROOT

DOCKERFILE = ROOT / "deploy/Dockerfile"
LIGHT = ROOT / "deploy/light/Dockerfile"


def instructions(file: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """Word and rest of each instruction, continued lines joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(word, rest.strip()) for word, _, rest in pairs]


def of(word: str, file: Path = DOCKERFILE) -> list[str]:
    """The rests of all instructions with that word."""
    return [rest for name, rest in instructions(file) if name == word]
