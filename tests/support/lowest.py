"""Prints the oldest minor versions of what the extra "client" allows, for pip: ``make lowest`` installs them."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def oldest() -> list[str]:
    """One requirement, ``name==X.Y.*``, for each direct dependency, whose only bound is ``>=X.Y``."""
    found = []
    for needed in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["client"]]):
        (bound,) = needed.specifier
        if bound.operator != ">=":
            raise ValueError(f"{needed}: valid is one bound, >=X.Y")
        found.append(f"{needed.name}=={bound.version}.*")
    return found


if __name__ == "__main__":
    print(*oldest())
