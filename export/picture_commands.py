"""The commands ``predict`` and ``explain``: many pictures and one graph, without torch."""

import csv
import glob
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from handler.atomic_write import write_whole
from handler.client.graph import GraphModel
from handler.errors import ModelError, ServiceError
from handler.picture.decode import FORMATS, quieten
from handler.rendering.render import encode_png
from handler.rendering.result import Prediction, Result

OPTIONS = ("target", "maps", "method", "size", "encoding")  # of a request, that ``explain`` takes
_PREDICTED = ("image", "index", "label", "probability")
_EXPLAINED = ("image", "index", "label", "logit", "probability", "method", "layer", "map", "max", "degenerate")
_SHEET = ".explained.png"
_STDIN = Path("-")
_Found = TypeVar("_Found")


def predict(options: Namespace, tell: Callable[[str], None]) -> int:
    """Prints the predictions for each picture and returns the exit status; ``tell`` prints a mistake."""
    model = GraphModel(options.model)
    model.check(**({} if options.top_k is None else {"top_k": options.top_k}))
    printer = _Printer(options.form, _PREDICTED)

    def show(path: Path, best: Sequence[Prediction]) -> None:
        made = [asdict(one) for one in best]
        lines = [str(path), *(f"  {one.probability:6.3f}  {one.label}" for one in best)]
        printer.show(path, made, [one.values() for one in made], lines)

    status = _each(find_pictures(options.images), lambda data: model.predict(data, options.top_k), show, tell)
    return printer.end(status)


def explain(options: Namespace, tell: Callable[[str], None]) -> int:
    """Writes a sheet for each picture, or prints the answers; see ``predict``."""
    model = GraphModel(options.model)
    if not model.card.maps:
        raise ModelError(
            f"graph {options.model} holds predictions only; "
            "`shufflenet-cam explanation` and `gradcam` write explanations"
        )
    said = {name: getattr(options, name) for name in OPTIONS if getattr(options, name) is not None}
    if options.form != "json" and {"size", "encoding"} & said.keys():
        raise ValueError("--size and --encoding are of the maps that --json prints; a sheet has the input's size")
    model.check(**said)
    found = find_pictures(options.images)
    files = {} if options.form else sheet_files(found, options.out)
    present = [path for path in files.values() if path.exists()]
    if present and not options.overwrite:
        raise FileExistsError(f"{present[0]} is there already; give another folder with --out, or say --overwrite")
    printer = _Printer(options.form, _EXPLAINED)

    def show(path: Path, result: Result) -> None:
        if path in files:
            write_whole(files[path], encode_png(result.sheet()))
        answer = result.to_dict() if options.form == "json" else {}
        printer.show(path, answer, _rows(result), [f"wrote {files.get(path)}"])

    return printer.end(_each(found, lambda data: model.explain(data, **said), show, tell))


def _rows(result: Result) -> list[list[Any]]:
    """A line of the table for each map."""
    return [
        [*asdict(one.target).values(), one.method, " ".join(one.layers), name, made.maximum, made.degenerate]
        for one in result.explanations
        for name, made in one.maps.items()
    ]


def find_pictures(said: Sequence[str]) -> dict[Path, Path]:
    """The pictures that files, folders, patterns and ``-`` name, to their path below the folder that was named."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}
    found: dict[Path, Path] = {}
    for path in map(Path, said):
        inside = [path]
        if path.is_dir():
            inside = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in endings and one.is_file()]
            inside = [one for one in inside if not one.name.endswith(_SHEET)] or [path]
        elif not path.exists():
            inside = [one for one in map(Path, sorted(glob.glob(str(path), recursive=True))) if one.is_file()] or [path]
        short = {one: one.relative_to(path) if path.is_dir() else Path(one.name) for one in inside}
        found |= {_STDIN: Path("stdin")} if path == _STDIN else short
    return found


def sheet_files(found: dict[Path, Path], folder: Path) -> dict[Path, Path]:
    """The file of each picture's sheet; pictures of one name are told apart by their folders and endings."""
    files: dict[Path, Path] = {}
    alike: dict[Path, list[Path]] = {}
    for path, short in found.items():
        alike.setdefault(short.with_suffix("") if short.name else short, []).append(path)
    for name, paths in alike.items():
        shared = os.path.commonpath([path.absolute().parent for path in paths])
        for path in paths:
            below = name if len(paths) == 1 else path.absolute().relative_to(shared)
            files[path] = folder / below.parent / (below.name + _SHEET)
    if len(set(files.values())) < len(files):
        raise ValueError("two of the pictures have the same name, so that one explanation would overwrite the other's")
    return files


def _each(
    found: dict[Path, Path],
    ask: Callable[[bytes], _Found],
    show: Callable[[Path, _Found], None],
    tell: Callable[[str], None],
) -> int:
    """Asks about every picture, tells a mistake for each that has no answer, and returns the exit status."""
    quieten()  # a mistake is printed once, without the decoder's own warnings
    status = 0
    has_bar = sys.stderr.isatty() and len(found) > 1

    def draw(bar: str = "") -> None:
        if has_bar:
            print(f"\r\033[K{bar}", end="", file=sys.stderr, flush=True)

    for count, path in enumerate(found):
        draw(f"[{'#' * (20 * count // len(found)):20}] {count}/{len(found)} {path}")
        try:
            answer = ask(_read(path))
            draw()
            show(path, answer)
            continue
        except BrokenPipeError:
            raise
        except OSError as error:
            mistake = f"{error.filename or path}: {error.strerror or error}"
        except (ServiceError, ValueError) as error:
            mistake = f"{path}: {error}"
        draw()
        tell(mistake)
        status = 2
    return status


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"the folder holds no picture, valid are files of {', '.join(FORMATS)}")
    return sys.stdin.buffer.read() if path == _STDIN else path.read_bytes()


class _Printer:
    """Prints answers as JSON, as a table with commas, or as lines of text."""

    def __init__(self, form: str | None, columns: Sequence[str]) -> None:
        self._form, self._before = form, "{"
        self._table = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self._table.writerow(columns)

    def show(self, path: Path, answer: Any, rows: Iterable[Iterable[Any]], lines: Sequence[str]) -> None:
        if self._form == "csv":
            self._table.writerows([path, *row] for row in rows)
        elif self._form == "json":
            print(f"{self._before}{json.dumps(str(path))}: {json.dumps(answer)}", flush=True)
            self._before = ","
        else:
            print(*lines, sep="\n", flush=True)

    def end(self, status: int) -> int:
        if self._form == "json":
            print("}" if self._before == "," else "{}")
        return status
