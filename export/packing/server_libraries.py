"""Which importable names every server has: the standard library, and what this package needs there."""

import functools
import importlib.metadata
import re
import sys

# the extra "serve" of pyproject.toml, as far as an archive's worker imports it
ROOTS = (
    *("numpy", "opencv-python-headless", "pillow", "onnxruntime", "torch", "torchvision", "torchserve"),
    *("psutil", "pyyaml", "safetensors"),
)


@functools.cache
def server_libraries() -> frozenset[str]:
    """Top-level names of the standard library, of the distributions in ``ROOTS`` and of all they depend on."""
    distributions = _with_dependencies(ROOTS)
    installed = importlib.metadata.packages_distributions()
    found = {name for name, owners in installed.items() if distributions & {_normal(owner) for owner in owners}}
    return frozenset(found | sys.stdlib_module_names | {"cv2"})


def _with_dependencies(roots: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = [_normal(root) for root in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # required on other platforms only
            continue
        waiting += [_normal(_named(one)) for one in requirements if "extra ==" not in one]
    return found


def _named(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
