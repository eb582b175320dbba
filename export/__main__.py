"""The command line, ``shufflenet-cam`` or ``python -m export``.

Each command imports what it needs, so that ``predict``, ``explain`` and ``report`` run where torch is not installed.
"""

import os
import re
import sys
import tomllib
import traceback
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.errors import ModelError, ServiceError, in_one_line

if TYPE_CHECKING:
    from handler.model.checkpoint import Checkpoint
    from handler.model.classifier import Classifier

_NAME = "shufflenet-cam"  # of the distribution and of its command
_ARGUMENT = re.compile(
    r"\b(architecture|weights|checkpoint|onnx|labels|preprocess|transform_input|pack|head|output|quantize|calibrate|agreement)(?:ing)?=('[^']*'|[\w.:-]*)"
)
_COMMANDS = Path(__file__).with_name("commands.toml")
_TYPES: dict[str, Callable[[str], Any]] = {"path": Path, "int": int, "float": float}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and prints each mistake as one line on standard error; ``--debug`` adds the traceback.

    Returns the exit status: 1 if ``verify`` or ``replay`` finds a difference, 2 for a mistake, 130 if interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if (store := getattr(options, "store", None)) and store.exists() and not store.is_dir():
            raise ModelError(f"--store {store} is no folder")
        return int(options.command(options) or 0)
    except KeyboardInterrupt:
        print("interrupted: no file was left half written", file=sys.stderr)
        return 130
    except ModuleNotFoundError as error:
        _tell(f"{error.name} is not installed, this command needs: pip install '{_NAME}[{options.extra}]'", options)
    except (ServiceError, ValueError, OSError) as error:
        _tell(str(error), options)
    except Exception as error:
        _tell(f"{in_one_line(error)} (--debug shows where)", options)
    return 2


def _tell(mistake: str, options: Namespace) -> None:
    """Prints a mistake; in an ``except`` block ``--debug`` shows the traceback, too."""
    if options.debug:
        traceback.print_exc()
    print(f"error: {_spelt(mistake)}", file=sys.stderr, flush=True)


def _spelt(text: str) -> str:
    """The text, with the arguments of Python functions as the caller writes them: variables of make, or options."""

    def option(argument: re.Match[str]) -> str:
        name, value = argument.groups()
        if name == "architecture":
            name = "arch" if ":" in value and "/" not in value else "model"
        if "MAKELEVEL" in os.environ:
            return f"{name.upper()}={value}"
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return _ARGUMENT.sub(option, text)


def _parser() -> ArgumentParser:
    program = "python -m export" if Path(sys.argv[0]).name == "__main__.py" else _NAME
    does = "Packs classifiers for TorchServe, exports ONNX graphs, and predicts and explains with graphs."
    parser = ArgumentParser(program, description=does)
    version = next((found.version for found in distributions(name=_NAME)), "(a checkout that is not installed)")
    parser.add_argument("--version", action="version", version=f"{_NAME} {version}")
    debug: Any = {"action": "store_true", "help": "show the traceback of a mistake, too"}
    parser.add_argument("--debug", **debug)
    table = tomllib.loads(_COMMANDS.read_text("utf-8"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, about in table["commands"].items():
        does = about["help"]
        added = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        for group in about.get("takes", ()):
            _add_arguments(added, table["groups"][group])
        if group := about.get("one_of"):
            _add_arguments(added.add_mutually_exclusive_group(), table["groups"][group])
        _add_arguments(added, about.get("arguments", {}))
        added.add_argument("--debug", default=SUPPRESS, **debug)
        added.set_defaults(**{"command": globals()[about["run"]], "extra": "export", **about.get("set", {})})
    return parser


def _add_arguments(parser: Any, arguments: Mapping[str, Mapping[str, Any]]) -> None:
    for name, about in arguments.items():
        kind = about.get("type", "")
        typed = {"type": _between(*kind) if isinstance(kind, list) else _TYPES[kind]} if kind else {}
        parser.add_argument(name, **{**about, **typed})


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise ArgumentTypeError(f"{text!r} is not valid, valid are {least} to {most}")
        return int(text)

    return number


def _checkpoint(options: Namespace) -> "Checkpoint":
    from handler.model.sources import complete, find_checkpoint, read_labels
    from handler.picture.preprocess_text import read_flag

    registered, own = "architecture=resnet18", "architecture=package.module:factory"
    if options.model and options.arch:
        raise ModelError(f"give either a torchvision network, {registered}, or your own, {own}")
    if options.arch and ":" not in options.arch:
        raise ModelError(f"{options.arch!r} is no code, valid is {own}; one of torchvision's networks is {registered}")
    labels = read_labels(options.labels) if options.labels else None
    further = {"input": options.input, "channels": options.channels}
    how = " ".join([options.preprocess, *(f"{name}={value}" for name, value in further.items() if value)])
    if options.onnx:
        from export.packing.onnx_file import read_onnx

        others = ("model", "arch", "weights", "checkpoint", "state", "transform_input")
        if given := ", ".join(name for name in others if getattr(options, name)):
            raise ModelError(f"onnx={options.onnx} is the whole classifier, and {given} cannot be given with it")
        return complete(replace(read_onnx(options.onnx, labels, how, options.output), head=options.head))
    said = {name: getattr(options, name) for name in ("weights", "checkpoint", "state", "head", "output")}
    if options.transform_input:
        said["transform_input"] = read_flag(options.transform_input, "transform_input")
    return find_checkpoint(options.model or options.arch, labels=labels, preprocessing=how, **said)


def _classifier(options: Namespace) -> "Classifier":
    """Builds the classifier that is exported or verified, and prints what is assumed about it."""
    from export.packing.archive import assumptions
    from handler.model.classifier import build_classifier

    checkpoint = _checkpoint(options)
    classifier = build_classifier(checkpoint)
    print(_spelt("\n".join(assumptions(checkpoint, classifier))), flush=True)
    return classifier


def _archive(options: Namespace) -> None:
    from export.packing.archive import DEFAULT_CONFIG, write_archive

    checkpoint = _checkpoint(options)
    where = options.store, options.name, options.version, options.config or DEFAULT_CONFIG
    said = {name: getattr(options, name) for name in ("sidecar", "graphs", "layers", "pack")}
    path = write_archive(checkpoint, *where, **said, report=lambda line: print(_spelt(line), flush=True))
    _print_written(path, checkpoint)


def _export(options: Namespace) -> None:
    from deploy.devices.forms import Form
    from export.graphs.exporters import export_graph, export_reduced
    from export.verify.compare import table
    from handler.graphs.description import KINDS

    given = vars(options)
    form = Form(**{name: given[name] for name in ("portable", "batch", "opset", "pictures") if name in given})
    name = f"{options.name}.pictures" if form.pictures else options.name
    path = options.store / KINDS[options.kind].file.replace("model", name)
    said: dict[str, Any] = {name: given.get(name) for name in ("quantize", "half", "agreement", "calibrate")}
    if any(value not in (None, False) for value in said.values()):
        from deploy.devices.precision import Precision

        if form != Form():
            raise ModelError(
                "a graph of int8 or float16 has the usual form: leave --portable, --batch, --opset and --pictures out "
                "(PORTABLE, FIXED_BATCH, OPSET and PICTURES)"
            )
        precision = Precision.said(**said)
        precision.check_kind(options.kind)
        classifier, path = _classifier(options), path.with_suffix(f".{precision.numbers}.onnx")
        print(_spelt(export_reduced(classifier, path, options.kind, precision)))
    else:
        classifier = _classifier(options)
        print(table(export_graph(classifier, path, options.kind, form)))
    _print_written(path, classifier)
    if form.portable:
        from deploy.devices.check import print_report

        print_report(path)


def _print_written(path: Path, model: "Checkpoint | Classifier") -> None:
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): {model.architecture}, {len(model.labels or [])} classes")


def _verify(options: Namespace) -> int:
    from deploy.devices.calibration import Pictures
    from export.graphs.exporters import reverify
    from export.verify.compare import VerificationError, table

    classifier = _classifier(options)
    try:
        folder = options.calibrate
        pictures = Pictures.of_folder(folder, classifier.preprocessing).comparing if folder else None
        checks = reverify(options.file, classifier, options.seed, pictures)
    except VerificationError as error:  # its message is the verdict and the table
        print(f"{options.file}: {error}")
        return 1
    if not isinstance(checks, str):
        print(table(checks))
        checks = "the graph equals PyTorch"
    print(f"{options.file}: {checks}")
    return 0


def _ask(options: Namespace) -> int:
    from export import picture_commands

    return int(getattr(picture_commands, options.kind)(options, lambda mistake: _tell(mistake, options)))


def _serve(options: Namespace) -> None:
    from deploy.light.server import serve

    names = ("host", "port", "metrics_port", "waiting", "token_file", "cors", "certificate", "key")
    said = {name: getattr(options, name) for name in names}
    if options.grpc_port is not None:
        options.extra = "grpc"
        from deploy.grpc.server import listen

        address, tls = f"{options.host}:{options.grpc_port}", {name: said[name] for name in ("certificate", "key")}
        said["beside"] = partial(listen, address=address, **tls)
    serve(options.paths, **said)


def _devices(options: Namespace) -> int:
    from deploy.devices.check import devices

    return devices(options)


def _bulk(options: Namespace) -> int:
    from deploy.bulk.command import bulk

    return bulk(options)


def _replay(options: Namespace) -> int:
    from handler.client.replay import read_receipt, replay
    from handler.front_door import load
    from handler.protocol.receipt import is_signed, read_key

    key = read_key(options.public_key, "public") if options.public_key else None
    receipt = read_receipt(options.receipt.read_bytes())
    model = load(options.model, architecture=options.arch)
    verdicts, changed = replay(model, receipt, options.image, options.tolerance)
    if key:
        signed = is_signed(receipt, key)
        verdicts["signature"] = "valid" if signed else "not by this key, or the receipt was changed"
        changed += [] if signed else ["signature"]
    print(*(f"{part:32} {verdict}" for part, verdict in verdicts.items()), sep="\n")
    print(f"changed: {', '.join(changed)}" if changed else "the answer is equal")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
