"""Packs the source of a custom architecture into an archive.

The source of ``a.b.net:factory`` is the folder of the innermost package, ``a/b``, and the ``__init__.py`` above, so
that ``import a.b.net`` works beside the archive's other files. The source of a module without a package is one file.
Further packages and modules travel if they are named.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath

from export.packing.isolation import server_libraries
from handler.errors import ModelError
from handler.model.custom_architecture import declared_packages, module_name

_OURS = ("handler", "export", "torchserve_entry", "__main__")
_MOST_BYTES = 50_000_000  # limit for all source; weights travel as the checkpoint

Files = dict[PurePosixPath, Path | None]  # place in the archive to file here; None makes an empty file


def pack_sources(architecture: str, further: Iterable[str], stage: Path, report: Callable[[str], None]) -> None:
    """Copies the factory's package, the packages that the factory's module declares, and further packages.

    Args:
        architecture: ``package.module:factory``.
        further: names of packages and modules.
        stage: folder of the archive's content.
        report: takes a line about the packed files.

    Raises:
        ModelError: a name cannot be packed, or the files are too large for source; the message says what is valid.
    """
    module = module_name(architecture)
    in_package_file = _spec(module).submodule_search_locations  # the factory stands in a package's __init__.py
    files = _all_of(module if in_package_file else module.rpartition(".")[0] or module)
    for name in dict.fromkeys([*declared_packages(architecture), *further]):
        files |= _all_of(name)
    sizes = {place: file.stat().st_size if file else 0 for place, file in files.items()}
    if sum(sizes.values()) > _MOST_BYTES:
        largest = max(sizes, key=lambda place: sizes[place])
        raise ModelError(
            f"the source of {architecture} would take {sum(sizes.values()) / 1e6:.0f} MB, {largest} alone "
            f"{sizes[largest] / 1e6:.0f} MB; valid are at most {_MOST_BYTES / 1e6:.0f} MB: move out what is no source"
        )
    for place, file in files.items():
        (stage / place).parent.mkdir(parents=True, exist_ok=True)
        (stage / place).write_bytes(file.read_bytes() if file else b"")
    folders = sorted({str(place.parent if place.parent.name else place) for place in files if files[place]})
    report(f"packing {len(files)} source files ({sum(sizes.values()) / 1e3:.0f} kB): {', '.join(folders)}")


def _all_of(name: str) -> Files:
    """A package's folder, or a module's file, with the ``__init__.py`` of the packages above."""
    _check_name(name)
    spec = _spec(name)
    above = PurePosixPath(*name.split(".")[:-1])
    files: Files = {}
    for depth in range(1, len(above.parts) + 1):
        files |= _package_file(".".join(above.parts[:depth]))
    folders = spec.submodule_search_locations
    if folders is None:
        source = Path(spec.origin or "")
        if source.suffix != ".py" or not source.is_file():
            raise ModelError(f"{name} cannot be packed: it has no source file, but {spec.origin}")
        return files | {above / source.name: source}
    # without __init__.py, which is empty where the folder has none, the server's package of that name would go first
    files |= _package_file(name)
    for folder in folders:
        files |= {above / name.split(".")[-1] / place: file for place, file in _files_below(Path(folder)).items()}
    return files


def _package_file(package: str) -> Files:
    spec = _spec(package)
    return {PurePosixPath(*package.split("."), "__init__.py"): Path(spec.origin) if spec.origin else None}


def _files_below(folder: Path) -> dict[PurePosixPath, Path]:
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__" and not name.startswith("."))
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                raise ModelError(f"{path} is a link to a folder and cannot be packed, valid are folders")
        for path in (Path(parent, name) for name in sorted(names)):
            if path.suffix != ".pyc" and not path.name.startswith("."):
                found[PurePosixPath(path.relative_to(folder))] = path
    return found


def _check_name(name: str) -> None:
    top = name.partition(".")[0]
    if top in _OURS:
        raise ModelError(f"{name} cannot be packed: {top} is this project's own name, valid is another")
    if top in server_libraries():
        raise ModelError(
            f"{name} cannot be packed: it would replace the server's own {top}; valid are names that are neither in "
            "the standard library nor in what the server has installed"
        )


def _spec(name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
    except (Exception, SystemExit) as error:  # the packages above are imported, which may raise anything
        raise ModelError(f"{name} cannot be packed: it cannot be found ({error})") from error
    if spec is None:
        raise ModelError(f"{name} cannot be packed: it cannot be found; valid are importable packages and modules")
    return spec
