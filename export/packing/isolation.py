"""Shows in a new process that an archive's content runs with its own source and with what every server has."""

import functools
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handler.errors import ModelError

# the extra "serve" of pyproject.toml, as far as an archive's worker imports it
ROOTS = (
    *("numpy", "opencv-python-headless", "pillow", "onnxruntime", "torch", "torchvision", "torchserve"),
    *("psutil", "pyyaml", "safetensors"),
)

# -I leaves out the current folder and PYTHONPATH; then the content goes first, as TorchServe has it
_LOAD = """
import json, sys
from pathlib import Path
stage = sys.argv[1]
sys.path.insert(0, stage)
from handler.model.checkpoint import read_checkpoint
from handler.model.classifier import build_classifier
from handler.errors import ModelError
from handler.loading import CHECKPOINT_NAME
before = set(sys.modules)  # what every worker loads
try:
    build_classifier(read_checkpoint(Path(stage) / CHECKPOINT_NAME))
except ModelError as error:
    sys.exit(f"refused: {error}")
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
files = {name: getattr(sys.modules.get(name), "__file__", None) for name in tops}
packed = Path(stage).resolve()
outside = [name for name, file in files.items() if file and packed not in Path(file).resolve().parents]
print(json.dumps(outside))
"""


def check_alone(stage: Path, architecture: str) -> Sequence[str]:
    """Builds the network as the server will.

    Args:
        stage: folder of the archive's content.
        architecture: for the messages.

    Returns:
        The packages that the network's code imports, and that are neither packed nor on every server.

    Raises:
        ModelError: the network cannot be built from the packed source.
    """
    # -B: no .pyc files beside the source
    command = [sys.executable, "-I", "-B", "-c", _LOAD, str(stage.resolve())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines() or ["without a word"]
        raise ModelError(
            f"{architecture} does not run with the source that is packed ({words[-1].removeprefix('refused: ')}); "
            "name what is missing (pack=package), or in PACKED in its module"
        )
    loaded = json.loads(done.stdout.strip().splitlines()[-1])
    return sorted(name for name in loaded if name not in server_libraries() and not name.startswith("_"))


@functools.cache
def server_libraries() -> frozenset[str]:
    """The importable names that every server has: of the standard library, of ``ROOTS`` and of their dependencies."""
    distributions: set[str] = set()
    waiting = [canonicalize_name(root) for root in ROOTS]
    while waiting:
        name = waiting.pop()
        if name in distributions:
            continue
        distributions.add(name)
        with suppress(importlib.metadata.PackageNotFoundError):
            for requirement in map(Requirement, importlib.metadata.requires(name) or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(canonicalize_name(requirement.name))
    installed = importlib.metadata.packages_distributions()
    found = {name for name, owners in installed.items() if distributions & set(map(canonicalize_name, owners))}
    return frozenset(found | sys.stdlib_module_names | {"cv2"})
