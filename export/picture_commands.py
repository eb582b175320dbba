"""The commands ``predict``, ``explain`` and ``report``: many pictures and one graph, without torch."""

import csv
import glob
import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from handler.atomic_write import write_whole
from handler.client.model import GraphModel
from handler.errors import ModelError, ServiceError
from handler.page.compose import page
from handler.picture.decode import FORMATS, endings, quieten
from handler.rendering.render import data_uri, encode_png
from handler.rendering.result import report as report_page

OPTIONS = ("target", "maps", "method", "size", "encoding", "trust")  # of a request, that the commands take
_PREDICTED = ("image", "index", "label", "probability")
_EXPLAINED = ("image", "index", "label", "logit", "probability", "method", "layer", "map", "max", "degenerate")
_SHEET = ".explained.png"
_STDIN = Path("-")
_Told = tuple[Any, Iterable[Iterable[Any]], Sequence[str]]  # an answer as JSON, as rows of a table, and as lines
_Ask = Callable[[Path, bytes], _Told]  # by a picture's path and content
_Tell = Callable[[str], None]


def predict(options: Namespace, tell: _Tell) -> int:
    """Prints the predictions for each picture and returns the exit status; ``tell`` prints a mistake."""
    model = GraphModel(options.model)
    model.check(**({} if options.top_k is None else {"top_k": options.top_k}))

    def ask(path: Path, data: bytes) -> _Told:
        best = [asdict(one) for one in model.predict(data, options.top_k)]
        lines = [f"  {one['probability']:6.3f}  {one['label']}" for one in best]
        return best, [one.values() for one in best], [str(path), *lines]

    return _print_each(find_pictures(options.images), ask, options.form, _PREDICTED, tell)


def explain(options: Namespace, tell: _Tell) -> int:
    """Writes a sheet for each picture, or prints the answers; see ``predict``."""
    model, said = _explainer(options)
    if options.form != "json" and {"size", "encoding"} & said.keys():
        raise ValueError("--size and --encoding are of the maps that --json prints; a sheet has the input's size")
    found = find_pictures(options.images)
    files = {} if options.form else picture_files(found, options.out)
    _refuse_present([*files.values()], options)

    def ask(path: Path, data: bytes) -> _Told:
        result = model.explain(data, **said)
        if path in files:
            write_whole(files[path], encode_png(result.sheet()))
        rows = (
            [*asdict(one.target).values(), one.method, " ".join(one.layers), name, made.maximum, made.degenerate]
            for one in result.explanations
            for name, made in one.maps.items()
        )
        return result.to_dict() if options.form == "json" else {}, rows, [f"wrote {files.get(path)}"]

    return _print_each(found, ask, options.form, _EXPLAINED, tell)


def report(options: Namespace, tell: _Tell) -> int:
    """Writes a page about each picture, and a gallery of all, ``index.html``, by their doubt; see ``predict``.

    A picture's doubt is 1 less the margin between the probabilities of its two best classes. What could not be read is
    a row of the gallery, too; without a page there is no gallery.
    """
    model, said = _explainer(options)
    pictures = [one for said in options.images for one in _doubtful(said, options.most)]
    found, index = find_pictures(pictures), options.out / "index.html"
    files = picture_files(found, options.out / "pictures", ".html")
    _refuse_present([index, *files.values()], options)
    rows: list[dict[str, Any]] = []

    def ask(path: Path, data: bytes) -> _Told:
        whole = model.explain(data, **said, size="image", encoding="npy", overlay="viridis")  # the page's colours
        result, upload = replace(whole, canvas=replace(whole.canvas, upload=None)), np.asarray(whole.canvas.upload)
        write_whole(files[path], report_page(model.card, result.to_dict(), data_uri(upload), str(path)))
        chances = [*(one.probability for one in result.predictions), 0.0]
        row: dict[str, Any] = {"name": str(path), "page": quote(os.fsencode(files[path].relative_to(options.out)))}
        row |= {**asdict(result.predictions[0]), "doubt": 1 - (chances[0] - chances[1])}
        row["trust"] = [one.trust.sentence for one in result.explanations if one.trust]
        rows.append({**row, "thumbnail": data_uri(result.draw() if result.explanations else upload, 160, 75)})
        return {}, (), [f"wrote {files[path]}"]

    def tell_and_list(mistake: str) -> None:
        rows.append({"error": mistake, "doubt": -1})  # which comes last
        tell(mistake)

    status = _print_each(found, ask, None, (), tell_and_list)
    if any("page" in row for row in rows):
        rows.sort(key=lambda row: -row["doubt"])
        write_whole(index, page({"card": model.card.description("onnx"), "gallery": rows}))
        print(f"wrote {index}")
    return status


def _doubtful(said: str, most: int) -> list[str]:
    """The pictures of a folder of ``bulk``'s results whose doubt is largest; what is no such folder is itself."""
    if not any(Path(said).glob("explanations-*.parquet")):
        return [said]
    from deploy.bulk.results import most_doubtful

    found = most_doubtful(said, most)
    if found and not any(Path(one).is_file() for one in found):
        raise FileNotFoundError(f"{found[0]} is no file here; report takes results of pictures that are files")
    return found


def _explainer(options: Namespace) -> tuple[GraphModel, dict[str, Any]]:
    """The model of a graph that explains, and the options that were said, which are valid for it."""
    model = GraphModel(options.model)
    if not model.card.maps:
        writing = "`shufflenet-cam explanation` and `gradcam` write explanations"
        raise ModelError(f"graph {options.model} holds predictions only; {writing}")
    said = {name: value for name, value in vars(options).items() if name in OPTIONS and value is not None}
    model.check(**said)
    return model, said


def _refuse_present(files: Sequence[Path], options: Namespace) -> None:
    present = next((path for path in files if path.exists()), options.out if files and options.out.is_file() else None)
    if present and not options.overwrite:
        raise FileExistsError(f"{present} is there already; give another folder with --out, or say --overwrite")


def find_pictures(said: Sequence[str]) -> dict[Path, Path]:
    """The pictures that files, folders, patterns and ``-`` name, to their path below the folder that was named."""
    found, known = dict[Path, Path](), endings()
    for path in map(Path, said):
        inside = [path]
        if path.is_dir():
            inside = [one for one in sorted(path.rglob("*")) if one.suffix.lower() in known and one.is_file()]
            inside = [one for one in inside if not (_SHEET in one.name or "/." in f"/{one.relative_to(path)}")]
        elif not path.exists():
            inside = [one for one in map(Path, sorted(glob.glob(str(path), recursive=True))) if one.is_file()]
        short = {one: one.relative_to(path) if path.is_dir() else Path(one.name) for one in inside or [path]}
        found |= {_STDIN: Path("stdin")} if path == _STDIN else short
    return found


def picture_files(found: dict[Path, Path], folder: Path, ending: str = _SHEET) -> dict[Path, Path]:
    """The file of each picture's sheet or page; pictures of one name are told apart by their folders and endings."""
    files: dict[Path, Path] = {}
    alike: dict[Path, list[Path]] = {}
    for path, short in found.items():
        alike.setdefault(short.with_suffix("") if short.name else short, []).append(path)
    for name, paths in alike.items():
        whole = {path: Path(os.path.abspath(path)) for path in paths}
        shared = os.path.commonpath([path.parent for path in whole.values()])
        for path in paths:
            below = name if len(paths) == 1 else whole[path].relative_to(shared)
            files[path] = folder / below.parent / (below.name + ending)
    if len(set(files.values())) < len(files):
        raise ValueError("two of the pictures have the same name, so that one explanation would overwrite the other's")
    return files


def _print_each(found: dict[Path, Path], ask: _Ask, form: str | None, columns: Sequence[str], tell: _Tell) -> int:
    """Prints the answer about each picture, as "json", a "csv" table or lines; a mistake keeps none from the others."""
    quieten()  # a mistake is printed once, without the decoder's own warnings
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # names of files may be no text
    status, before, table = 0, "{", csv.writer(sys.stdout, lineterminator="\n")
    has_bar = sys.stderr.isatty() and len(found) > 1
    draw = partial(print, "\r\033[K", sep="", end="", file=sys.stderr if has_bar else io.StringIO(), flush=True)
    table.writerows([columns] if form == "csv" else [])
    for count, path in enumerate(found):
        draw(f"[{'#' * (20 * count // len(found)):20}] {count}/{len(found)} {path}")
        try:
            if path.is_dir():
                raise ValueError(f"the folder holds no picture, valid are {', '.join(FORMATS)}, NumPy and DICOM files")
            data = sys.stdin.buffer.read() if path == _STDIN else path.read_bytes()
            answer, rows, lines = ask(path, data)
        except (OSError, ServiceError, ValueError) as error:
            draw()
            tell(f"{getattr(error, 'filename', None) or path}: {getattr(error, 'strerror', None) or error}")
            status = 2
            continue
        draw()
        if form == "csv":
            table.writerows([path, *row] for row in rows)
        elif form == "json":
            print(f"{before}{json.dumps(str(path))}: {json.dumps(answer)}", flush=True)
            before = ","
        else:
            print(*lines, sep="\n", flush=True)
    if form == "json":
        print("}" if before == "," else "{}")
    return status
