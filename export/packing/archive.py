"""Packs a classifier and the package ``handler`` into a TorchServe archive."""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml

import handler
from export.packing.assumptions import assumptions
from export.packing.isolation import check_alone
from export.packing.sidecar import write_sidecar
from export.packing.sources import pack_sources
from handler.autograd.torch_engine import TorchEngine
from handler.engine_choice import choose_engine
from handler.errors import ModelError
from handler.loading import CHECKPOINT_NAME, check_defaults, describe_model
from handler.model.checkpoint import Checkpoint, write_checkpoint
from handler.model.classifier import Classifier, build_classifier
from handler.model.custom_architecture import is_custom
from handler.serving.settings import Settings, read_settings
from handler.serving.threads import usable_cores

logger = logging.getLogger(__name__)

_PACKAGE = Path(handler.__file__).parent
_ENTRY = "torchserve_entry.py"
DEFAULT_CONFIG = _PACKAGE / "model-config.yaml"


def write_archive(
    checkpoint: Checkpoint,
    store: Path,
    name: str,
    version: str = "1.0",
    config: Path = DEFAULT_CONFIG,
    *,
    sidecar: bool = True,
    attention: bool = False,
    pack: Iterable[str] = (),
    report: Callable[[str], None] = logger.info,
) -> Path:
    """Writes ``store/name.mar``, whole or not at all.

    The classifier is built, the settings are read and the engine is opened before the archive is made, so that a model
    that cannot work on the server fails here.

    Args:
        checkpoint: complete, see ``find_checkpoint``.
        store: folder for the archive, made if it is missing.
        name: of the model on the server.
        version: of the model on the server.
        config: the ``model-config.yaml`` to pack.
        sidecar: whether the ONNX graphs are exported and packed, too; ignored where ``explain.engine`` is torch.
        attention: whether the graph of a vision transformer's attention is among them.
        pack: packages and modules that a custom architecture needs besides the factory's package.
        report: takes lines about the assumptions and the progress.

    Returns:
        The path of the archive.

    Raises:
        ModelError: the model, its settings or its name cannot be served, or a graph differs from PyTorch.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(?<!\.mar)", name):
        raise ModelError(f"name {name!r} is not valid, valid are letters, digits, '_', '-' and '.', without .mar")
    classifier, settings = build_classifier(checkpoint), _read_config(config)
    for line in assumptions(checkpoint, classifier):
        report(line)
    hooks = TorchEngine(classifier)
    check_defaults(settings.defaults, describe_model(classifier, hooks, name, version), hooks)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="archive-", dir=store) as folder:
        work = Path(folder)
        stage = work / "stage"
        shutil.copytree(_PACKAGE, stage / "handler", ignore=shutil.ignore_patterns("__pycache__", "*.yaml", _ENTRY))
        write_checkpoint(stage / CHECKPOINT_NAME, checkpoint)
        _pack_custom(classifier.architecture, pack, stage, report)
        if sidecar and settings.engine != "torch":
            write_sidecar(classifier, stage, report, attention=attention)
        _check_engine(settings, stage, classifier)
        shutil.copy(config, work / DEFAULT_CONFIG.name)
        _run_archiver(work, stage, name, version)
        archive = store / f"{name}.mar"
        os.replace(work / archive.name, archive)
    return archive


def _pack_custom(architecture: str, pack: Iterable[str], stage: Path, report: Callable[[str], None]) -> None:
    if not is_custom(architecture):
        if tuple(pack):
            raise ModelError(f"{architecture} is torchvision's and needs no source: pack= is for code of your own")
        return
    pack_sources(architecture, pack, stage, report)
    foreign = check_alone(stage, architecture)
    if foreign:
        report(f"not in the archive, so install it on the server or name it in pack=: {', '.join(foreign)}")


def _read_config(config: Path) -> Settings:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{config} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{config} must be a YAML mapping")
    return read_settings(content.get("explain"))


def _check_engine(settings: Settings, stage: Path, classifier: Classifier) -> None:
    """Opens the engine as the server will, and refuses one that would not start or would refuse every request."""
    engine = choose_engine(settings.engine, stage, classifier, usable_cores()).engine
    check_defaults(settings.defaults, describe_model(classifier, engine, "", ""), engine)


def _run_archiver(work: Path, stage: Path, name: str, version: str) -> None:
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += ["--model-name", name, "--version", version, "--export-path", str(work)]
    command += ["--handler", str(_PACKAGE / _ENTRY), "--extra-files", str(stage)]
    command += ["--config-file", str(work / DEFAULT_CONFIG.name)]
    # the archiver first empties $TMPDIR/<model-name>, so it gets a TMPDIR that holds nothing else
    temporary = work / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not (work / f"{name}.mar").is_file():
        raise ModelError(f"torch-model-archiver failed:\n{done.stderr[-2000:]}")
