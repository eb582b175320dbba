"""The rooms of the house: which are below which, and which of them know torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# from the lowest room up: a module imports from its own room and from lower ones; "handler" and "export" are what
# composes the rooms, and what all of them share lies below everything
ORDER = [
    "shared",
    "handler.explanation",
    "handler.picture",
    "handler.protocol",
    "handler.page",
    "handler.rendering",
    "handler.telemetry",
    "handler.serving",
    "handler.graphs",
    "handler.autograd",
    "handler.model.layers",
    "handler.model",
    "handler.client",
    "handler",
    "deploy.devices",
    "deploy.light",
    "deploy.grpc",
    "deploy.bulk",
    "export.tracing",
    "export.verify",
    "export.graphs",
    "export.packing",
    "export",
]
SHARED = {"handler.errors", "handler.atomic_write", "export.errors"}
WITH_TORCH = {"handler.loading", "handler.wrapping", "handler.torchserve_entry"}

_IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded = {"torch", "torchvision", "ts"} & set(sys.modules)
    if loaded:
        sys.exit(f"{name} loads {', '.join(sorted(loaded))}")
"""


HIGHER = {"export", "deploy", "tests", "examples", "benchmarks"}  # folders that handler does not know


def files(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted(ROOT.glob(f"{folder}/**/*.py"))]
    assert found
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


PACKAGES = ("handler", "export", "deploy/devices", "deploy/light", "deploy/grpc", "deploy/bulk")  # what a wheel holds
PATHS = {name_of(path): path for path in files(*PACKAGES) if path.name != "__init__.py"}


def room_of(module: str) -> str:
    return "shared" if module in SHARED else module.rpartition(".")[0]


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports; of ``from a import b`` both ``a`` and ``a.b``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_torch_is_in_the_rooms_model_and_autograd_and_the_loading_files_alone():
    without = [
        name
        for name in PATHS
        if name.startswith("handler.")
        and not name.startswith(("handler.model.", "handler.autograd."))
        and name not in WITH_TORCH
    ]
    assert len(without) > 40
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, *without], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", PATHS)
def test_no_import_runs_from_a_lower_room_to_a_higher_one(module):
    rooms = {room_of(name) for name in imports(PATHS[module]) & set(PATHS)}
    assert {room for room in rooms if ORDER.index(room) > ORDER.index(room_of(module))} == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: imports(path) & set(PATHS) for module, path in PATHS.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(PATHS)


def test_every_room_has_its_place():
    assert {room_of(module) for module in PATHS} == set(ORDER)


@pytest.mark.parametrize("path", files("handler"), ids=lambda path: str(path.relative_to(ROOT)))
def test_handler_imports_neither_export_nor_tests(path):
    assert {name.split(".")[0] for name in imports(path)}.isdisjoint(HIGHER)


ENTRIES = {"handler.torchserve_entry", "deploy.light.server"}


@pytest.mark.parametrize("path", files(*PACKAGES, "examples"), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_the_entry_files_but_the_command_that_runs_one(path):
    allowed = {"deploy.light.server"} if path == ROOT / "export/__main__.py" else set()
    assert imports(path) & ENTRIES == allowed


def test_few_files_know_the_web_framework_and_prometheus():
    """The extra ``light`` brings these packages, and no other command needs them."""
    foreign = {"starlette", "uvicorn", "python_multipart", "prometheus_client"}
    found = {name: {one.partition(".")[0] for one in imports(path)} & foreign for name, path in PATHS.items()}
    assert {name: packages for name, packages in found.items() if packages} == {
        "deploy.light.forms": {"python_multipart"},
        "deploy.light.routes": {"starlette"},
        "deploy.light.connection": {"uvicorn"},
        "deploy.light.server": {"uvicorn", "prometheus_client"},
        "handler.telemetry.exposition": {"prometheus_client"},
    }


def test_the_command_line_loads_no_web_framework():
    code = "import sys, export.__main__; sys.exit(bool({'starlette', 'uvicorn', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", files(*PACKAGES), ids=lambda path: str(path.relative_to(ROOT)))
def test_package_files_are_there_and_empty_but_for_the_front_door_and_the_import_of_torchvision(path):
    package = path.parent / "__init__.py"
    assert package.is_file()
    assert package.read_text() == "" or package.parent in (ROOT / "handler", ROOT / "handler" / "model")


def test_the_front_door_is_lazy():
    code = "import sys, handler; sys.exit(bool({'torch', 'cv2', 'numpy', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
