"""The command line, ``shufflenet-cam`` or ``python -m export``.

Each command imports what it needs, so that ``predict``, ``explain`` and ``report`` run where torch is not installed.
"""

import os
import re
import sys
import traceback
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
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
    r"\b(architecture|weights|checkpoint|onnx|labels|preprocess|transform_input|pack|head|output)(?:ing)?=('[^']*'|[\w.:]*)"
)

_EXPORTS = {  # kind of graph, which is also the command's name, to the command's help
    "prediction": "write a classifier's prediction graph as ONNX",
    "explanation": "write a classifier's whole explanation as one ONNX graph",
    "gradcam": "write scores and Grad-CAM as one ONNX graph, hardly slower than scores",
    "attention": "write scores and the maps of a vision transformer's attention as one ONNX graph",
    "behind": "write what lies behind the layer as ONNX, for an archive whose methods change activations",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and prints each mistake as one line on standard error; ``--debug`` adds the traceback.

    Returns the exit status: 1 if ``verify`` or ``replay`` finds a difference, 2 for a mistake, 130 if interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
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
    parser.set_defaults(extra="export")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[..., Any], name: str, does: str, *parents: ArgumentParser, **said: str) -> ArgumentParser:
        added = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.", parents=parents)
        added.set_defaults(command=run, **said)
        return added

    source, written, graph = _shared_arguments()
    _add_archive_arguments(command(_archive, "archive", "pack a classifier into a TorchServe archive", source, written))
    for kind, does in _EXPORTS.items():
        command(_export, kind, does, source, written, kind=kind)
    verify = command(_verify, "verify", "compare a written ONNX graph with the classifier it was made from", source)
    verify.add_argument("file", type=Path, metavar="FILE.onnx", help="graph that this program wrote")
    verify.add_argument("--seed", type=int, default=2, help="seed of the pictures; exports use 1 (default: 2)")
    predict = command(_ask, "predict", "predict pictures with an ONNX graph; runs without torch", graph, kind="predict")
    predict.add_argument("--top-k", type=int, help="classes to show (default: 5, or all if there are fewer)")
    explain = command(_ask, "explain", "explain pictures with an ONNX graph; runs without torch", graph, kind="explain")
    does = "write pages that explain pictures, and a gallery of them by doubt, with an ONNX graph; runs without torch"
    report = command(_ask, "report", does, graph, kind="report")
    report.add_argument("--trust", action="store_const", const="true", help="say what the answers say of each map")
    report.set_defaults(maps="gradcam")
    for added in (predict, explain):
        form = added.add_mutually_exclusive_group()
        form.add_argument("--json", dest="form", action="store_const", const="json", help="print answers as JSON")
        form.add_argument("--csv", dest="form", action="store_const", const="csv", help="print a table with commas")
    for added in (explain, report):
        added.add_argument("--target", help="classes: top, a label or an index, several with commas (default: top)")
        added.add_argument("--maps", help="maps, with commas: gradcam, … (default: the graph's; of reports gradcam)")
        added.add_argument("--method", help="formula of the map at the layer: gradcam, … (default: the model's)")
        added.add_argument("--out", type=Path, default=Path("out"), help="folder to write to (default: %(default)s)")
        added.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    explain.add_argument("--size", help="of maps in --json: layer, input or image (default: input)")
    explain.add_argument("--encoding", help="of maps in --json: png, npy or list (default: png)")
    does = "serve archives without torch and Java: what they answer with their ONNX graphs"
    _add_serve_arguments(command(_serve, "serve", does, extra="light"))
    does = "compute an answer anew from its receipt, and say what is equal"
    _add_replay_arguments(command(_replay, "replay", does, extra="client"))
    for added in commands.choices.values():
        added.add_argument("--debug", default=SUPPRESS, **debug)
    return parser


def _add_archive_arguments(archive: ArgumentParser) -> None:
    archive.add_argument("--version", default="1.0", help="version of the model on the server (default: %(default)s)")
    archive.add_argument("--config", type=Path, help="model-config.yaml to pack (default: handler/model-config.yaml)")
    without = "pack no ONNX graphs: quicker, and slower to serve"
    archive.add_argument("--no-sidecar", dest="sidecar", action="store_false", help=without)
    graphs = ("behind", "attention", "saliency")
    several: Any = {"action": "append", "default": []}
    archive.add_argument("--graphs", **several, choices=graphs, help="pack this, too; repeatable")
    archive.add_argument("--layers", **several, metavar="LAYER", help="layer for the graphs, too; repeatable")
    archive.add_argument("--pack", **several, metavar="PACKAGE", help="package that --arch needs, too; repeatable")


def _add_serve_arguments(server: ArgumentParser) -> None:
    server.add_argument("paths", nargs="+", type=Path, metavar="FILE.mar", help="archive, or folder of archives")
    listening: dict[str, Any] = {"--host": "127.0.0.1", "--port": 8080, "--metrics-port": 8082}
    for name, value in listening.items():
        kind = str if name == "--host" else _between(1, 65535)
        server.add_argument(name, type=kind, default=value, help="(default: %(default)s)")
    does = "answer gRPC, too; needs the extra grpc"
    server.add_argument("--grpc-port", type=_between(1, 65535), metavar="PORT", help=does)
    most = "requests that wait or are answered at most (default: %(default)s)"
    server.add_argument("--waiting", type=_between(1, 10_000), default=32, metavar="REQUESTS", help=most)
    server.add_argument("--token-file", type=Path, help="file with the bearer token that requests must send")
    server.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="pages that may ask; repeatable")
    server.add_argument("--certificate", type=Path, metavar="FILE.pem", help="for TLS")
    server.add_argument("--key", type=Path, metavar="FILE.pem", help="of the certificate")


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isdecimal() and least <= int(text) <= most):
            raise ArgumentTypeError(f"{text!r} is not valid, valid are {least} to {most}")
        return int(text)

    return number


def _add_replay_arguments(again: ArgumentParser) -> None:
    again.add_argument("receipt", type=Path, metavar="RECEIPT", help="receipt, or an answer: JSON, PNG or NPZ")
    again.add_argument("image", type=Path, metavar="IMAGE", help="picture that was sent")
    again.add_argument("--model", type=Path, required=True, metavar="FILE", help="archive, ONNX graph or checkpoint")
    again.add_argument("--arch", metavar="PACKAGE.MODULE:FACTORY", help="lets an archive's own code run")
    again.add_argument("--tolerance", type=float, default=1e-4, help="of the largest value (default: %(default)s)")
    again.add_argument("--public-key", type=Path, metavar="KEY.pem", help="key that the receipt must be signed for")


def _shared_arguments() -> list[ArgumentParser]:
    """What several commands take: where a classifier comes from, where files of it go, and a graph with pictures."""
    source, written, graph = parsers = [ArgumentParser(add_help=False) for _ in range(3)]
    source.add_argument("--model", help="resnet18 of torchvision, timm/NAME, hf/FOLDER-OR-ID; a checkpoint may say it")
    source.add_argument("--arch", metavar="PACKAGE.MODULE:FACTORY", help="a network of your own, instead of --model")
    source.add_argument("--weights", help="torchvision weights to download: DEFAULT or a name")
    source.add_argument("--checkpoint", type=Path, help="safetensors or state dict, instead of --weights")
    source.add_argument("--onnx", type=Path, metavar="FILE.onnx", help="a classifier of which no code exists, alone")
    source.add_argument("--state", metavar="KEY", help="state dict that is meant, if the checkpoint has several")
    source.add_argument("--labels", type=Path, help="one label per line, or JSON; weights and checkpoints may say them")
    how = "resize, crop, mean, std, interpolation, crop_first, crop_mode: overrides what weights or checkpoint say"
    source.add_argument("--preprocess", default="", metavar="'NAME=VALUE …'", help=how)
    source.add_argument("--head", default="", help="softmax (default), sigmoid: independent classes, binary: one score")
    source.add_argument("--output", default="", help="key, attribute or index of the scores among several outputs")
    source.add_argument("--input", metavar="SIZE", help="pixels of the network's input: 384, or HEIGHTxWIDTH: 384x192")
    source.add_argument("--channels", metavar="1…16", help="of the network's input: 1 for grey pictures (default: 3)")
    twice = "whether a googlenet or inception_v3 normalises its input once more"
    source.add_argument("--transform-input", metavar="0|1", help=twice)
    written.add_argument("--name", default="shufflenet_cam", help="name of model and file (default: %(default)s)")
    written.add_argument("--store", type=Path, default=Path("model_store"), help="folder (default: %(default)s)")
    graph.add_argument("images", nargs="+", metavar="IMAGE", help="picture file, folder, pattern, - for standard input")
    graph.add_argument("--model", type=Path, required=True, metavar="FILE.onnx", help="graph that this program wrote")
    graph.set_defaults(extra="client")
    return parsers


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
    from export.graphs.exporters import export_graph
    from export.verify.compare import table
    from handler.graphs.description import KINDS

    classifier = _classifier(options)
    path = options.store / KINDS[options.kind].file.replace("model", options.name)
    print(table(export_graph(classifier, path, options.kind)))
    _print_written(path, classifier)


def _print_written(path: Path, model: "Checkpoint | Classifier") -> None:
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): {model.architecture}, {len(model.labels or [])} classes")


def _verify(options: Namespace) -> int:
    from export.graphs.exporters import reverify
    from export.verify.compare import VerificationError, table

    classifier = _classifier(options)
    try:
        checks = reverify(options.file, classifier, options.seed)
    except VerificationError as error:  # its message is the verdict and the table
        print(f"{options.file}: {error}")
        return 1
    print(table(checks))
    print(f"{options.file}: the graph equals PyTorch")
    return 0


def _ask(options: Namespace) -> int:
    from export import picture_commands

    return int(getattr(picture_commands, options.kind)(options, lambda mistake: _tell(mistake, options)))


def _serve(options: Namespace) -> None:
    from handler.asgi_entry import serve

    names = ("host", "port", "metrics_port", "waiting", "token_file", "cors", "certificate", "key")
    said = {name: getattr(options, name) for name in names}
    if options.grpc_port is not None:
        options.extra = "grpc"
        from deploy.grpc.server import listen

        address, tls = f"{options.host}:{options.grpc_port}", {name: said[name] for name in ("certificate", "key")}
        said["beside"] = partial(listen, address=address, **tls)
    serve(options.paths, **said)


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
