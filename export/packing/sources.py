"""Packs the source of an architecture into an archive, and shows that the network runs with what is packed.

The source of ``a.b.net:factory`` is the folder of the innermost package, ``a/b``, and the ``__init__.py`` above, so
that ``import a.b.net`` works beside the archive's other files; without a package, it is the module's one file.
"""

import functools
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from handler.errors import ModelError, foreign_code

_OURS = ("handler", "export", "torchserve_entry", "__main__")
_REFUSED = "handler.errors.ModelError: "  # how the last line of a traceback begins
_MOST_BYTES = 50_000_000  # limit for all source; weights travel as the checkpoint

# the extra "serve" of pyproject.toml, as far as an archive's worker imports it
ROOTS = (
    *("numpy", "opencv-python-headless", "pillow", "onnxruntime", "torch", "torchvision", "torchserve"),
    *("onnx", "psutil", "pyyaml", "safetensors"),
)

# -I leaves out the current folder and PYTHONPATH; then the content goes first, as TorchServe has it
_LOAD = """
import json, sys
from pathlib import Path
stage = sys.argv[1]
sys.path.insert(0, stage)
from handler.model.checkpoint import read_checkpoint
from handler.model.classifier import build_classifier
from handler.loading import CHECKPOINT_NAME
before = set(sys.modules)  # what every worker loads
sys.modules.update(dict.fromkeys(set(sys.argv[2:]) - before))  # their import fails
build_classifier(read_checkpoint(Path(stage) / CHECKPOINT_NAME))
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
files = {name: getattr(sys.modules.get(name), "__file__", None) for name in tops}
packed = Path(stage).resolve()
outside = [name for name, file in files.items() if file and packed not in Path(file).resolve().parents]
print(json.dumps(outside))
"""

Files = dict[PurePosixPath, Path | None]  # place in the archive to file here; None makes an empty file


def pack_sources(architecture: str, names: Iterable[str], stage: Path, report: Callable[[str], None]) -> None:
    """Copies packages and modules, those of the architecture's code, to a folder; a ModelError says why not."""
    files: Files = {}
    for name in dict.fromkeys(names):
        files |= _all_of(name)
    sizes = {place: file.stat().st_size if file else 0 for place, file in files.items()}
    if sum(sizes.values()) > _MOST_BYTES:
        largest = max(sizes, key=lambda place: sizes[place])
        all_of_it, one, most = (f"{size / 1e6:.0f} MB" for size in (sum(sizes.values()), sizes[largest], _MOST_BYTES))
        valid = f"valid are at most {most}: move out what is no source"
        raise ModelError(f"the source of {architecture} would take {all_of_it}, {largest} alone {one}; {valid}")
    for place, file in files.items():
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        (stage / place).write_bytes(file.read_bytes() if file else b"")
    folders = sorted({str(place.parent if place.parent.name else place) for place in files if files[place]})
    report(f"packing {len(files)} source files ({sum(sizes.values()) / 1e3:.0f} kB): {', '.join(folders)}")


def _all_of(name: str) -> Files:
    """A package's folder, or a module's file, with the ``__init__.py`` of the packages above."""
    *above, last = name.split(".")
    top = name.partition(".")[0]
    if top in _OURS:
        raise ModelError(f"{name} cannot be packed: {top} is this project's own name, valid is another")
    if top in server_libraries():
        valid = "valid are names that are neither in the standard library nor in what the server has installed"
        raise ModelError(f"{name} cannot be packed: it would replace the server's own {top}; {valid}")
    spec = _spec(name)
    folders = spec.submodule_search_locations
    # without __init__.py, which is empty where the folder has none, the server's package of that name would go first
    files: Files = {}
    for package in accumulate(above if folders is None else [*above, last], "{}.{}".format):
        origin = _spec(package).origin
        files[PurePosixPath(*package.split("."), "__init__.py")] = Path(origin) if origin else None
    if folders is None:
        source = Path(spec.origin or "")
        if source.suffix != ".py" or not source.is_file():
            raise ModelError(f"{name} cannot be packed: it has no source file, but {spec.origin}")
        files[PurePosixPath(*above, source.name)] = source
    for folder in map(Path, folders or ()):
        for path in sorted(folder.rglob("*")):
            place = path.relative_to(folder)
            if path.suffix == ".pyc" or any(part == "__pycache__" or part[0] == "." for part in place.parts):
                continue
            if path.is_dir() and path.is_symlink():
                raise ModelError(f"{path} is a link to a folder and cannot be packed, valid are folders")
            if not path.is_dir():
                files[PurePosixPath(*above, last, place)] = path
    return files


def _spec(name: str) -> ModuleSpec:
    with foreign_code(f"{name} cannot be packed: it cannot be found"):  # the packages above are imported
        spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModelError(f"{name} cannot be packed: it cannot be found; valid are importable packages and modules")
    return spec


@functools.cache
def server_libraries() -> frozenset[str]:
    """The importable names that every server has: of the standard library, of ``ROOTS`` and of their dependencies."""
    distributions = [canonicalize_name(root) for root in ROOTS]
    for name in distributions:  # which grows
        with suppress(importlib.metadata.PackageNotFoundError):
            needed = map(Requirement, importlib.metadata.requires(name) or [])
            names = [one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""})]
            distributions += {*map(canonicalize_name, names)} - {*distributions}
    installed = importlib.metadata.packages_distributions()
    found = {name for name, owners in installed.items() if set(distributions) & set(map(canonicalize_name, owners))}
    return frozenset(found | sys.stdlib_module_names | {"cv2"})


def check_alone(stage: Path, architecture: str) -> list[str]:
    """Builds the network as the server will, in a new process that sees no source but that in the folder.

    Returns the packages that the network's code needs, and that are neither packed nor on every server. A ModelError
    says why the network cannot be built from the packed source.
    """
    installed, packed = importlib.metadata.packages_distributions(), {path.stem for path in stage.iterdir()}
    foreign = sorted(set(installed) - server_libraries() - packed)
    for hidden in (foreign, []):  # without the foreign packages, and if that fails with them
        # -B: no .pyc files beside the source
        command = [sys.executable, "-I", "-B", "-c", _LOAD, str(stage.resolve()), *hidden]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            loaded = json.loads(done.stdout.strip().splitlines()[-1])
            return sorted(name for name in loaded if name not in server_libraries() and not name.startswith("_"))
    words = done.stderr.strip().splitlines() or ["without a word"]
    why, valid = words[-1].removeprefix(_REFUSED), "name what is missing (pack=package), or in PACKED in its module"
    raise ModelError(f"{architecture} does not run with the source that is packed ({why}); {valid}")
