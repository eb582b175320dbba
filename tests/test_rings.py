import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITH_TORCH = {
    "checkpoint",
    "classifier",
    "own_architecture",
    "own_declarations",
    "layers",
    "arrangement",
    "autograd_graph",
    "batches",
    "looking",
    "backward_contract",
    "differentiable",
    "observing",
    "scenes",
    "scores",
    "views",
    "hooks",
    "guided",
    "memory_layout",
    "tape",
    "torch_engine",
    "fingerprint",
    "engine_choice",
    "service",
    "torchserve_entry",
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("handler/**/*.py")
    if path.name != "__init__.py"
}
WITHOUT_TORCH = sorted(name for name in MODULES if name.split(".")[1] not in {*WITH_TORCH, "autograd", "model"})

_IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded = {"torch", "torchvision", "ts"} & set(sys.modules)
    if loaded:
        sys.exit(f"{name} loads {', '.join(sorted(loaded))}")
"""


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted(ROOT.glob(f"{folder}/**/*.py"))]
    assert found
    return found


def test_ring_0_does_not_load_torch_in_a_fresh_process():
    assert len(WITHOUT_TORCH) > 30
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", files("handler"), ids=lambda path: path.stem)
def test_handler_imports_neither_export_nor_tests(path):
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint({"export", "tests", "examples", "benchmarks"})


@pytest.mark.parametrize("path", files("handler", "export", "examples"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_entry_file(path):
    assert "handler.torchserve_entry" not in imports(path)


@pytest.mark.parametrize("path", files("handler", "export"), ids=lambda path: str(path.relative_to(ROOT)))
def test_package_files_are_there_and_empty(path):
    assert (path.parent / "__init__.py").read_text() == ""
