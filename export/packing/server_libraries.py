"""Lists the importable names that every server has: the standard library's, and the archive's requirements'."""

import functools
import importlib.metadata
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# the extra "serve" of pyproject.toml, as far as an archive's worker imports it
ROOTS = (
    *("numpy", "opencv-python-headless", "pillow", "onnxruntime", "torch", "torchvision", "torchserve"),
    *("psutil", "pyyaml", "safetensors"),
)


@functools.cache
def server_libraries() -> frozenset[str]:
    """Top-level names of the standard library, of the distributions in ``ROOTS`` and of their dependencies."""
    distributions = _with_dependencies(ROOTS)
    installed = importlib.metadata.packages_distributions()
    found = {name for name, owners in installed.items() if distributions & set(map(canonicalize_name, owners))}
    return frozenset(found | sys.stdlib_module_names | {"cv2"})


def _with_dependencies(roots: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = [canonicalize_name(root) for root in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = map(Requirement, importlib.metadata.requires(name) or [])
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found
