"""Explains pictures by the million: ``shufflenet-cam bulk SRC OUT --model FILE.onnx``.

Ray Data hands lists of pictures to processes, on one machine or in a cluster. A process reads, explains and writes a
list as one file, and begins the next one: memory does not grow with the number of pictures, and a run that was
interrupted goes on with the pictures that have no row.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import ray
from ray.data import ActorPoolStrategy, DataContext
from tqdm import tqdm

from deploy.bulk.pictures import Picture, Source
from deploy.bulk.results import Results, row_of
from handler.client.model import GraphModel
from handler.errors import ServiceError
from handler.picture.decode import quieten
from handler.protocol.receipt import hash_image
from handler.serving.threads import usable_cores

_STORE = 200_000_000  # bytes of Ray's memory for lists and counts, which are small


class Worker:
    """Explains lists of pictures, in a process of its own with one thread."""

    def __init__(
        self, model: Path, sources: Sequence[Source], results: Results, options: Mapping[str, Any], overlays: bool
    ) -> None:
        quieten()
        cv2.setNumThreads(1)
        self._model, self._options, self._overlays = GraphModel(model, threads=1), options, overlays
        self._sources, self._results = sources, results

    def __call__(self, part: Mapping[str, Any]) -> dict[str, int]:
        """Writes the rows of a list, and returns how many there are, and how many of them are errors."""
        source, pictures = self._sources[part["source"]], [*zip(part["paths"], part["rows"], strict=True)]
        contents = zip(pictures, source.read(pictures), strict=True)
        rows = [self._row(source.name_of(picture), content) for picture, content in contents]
        self._results.write(rows)
        return {"rows": len(rows), "errors": sum("error" in row for row in rows)}

    def _row(self, name: str, content: bytes | OSError) -> dict[str, Any]:
        if isinstance(content, OSError):
            return {"image": name, "error": content.strerror or str(content)}
        try:
            result = self._model.explain(content, **self._options)
        except ServiceError as error:
            return {"image": name, "error": str(error), **hash_image(content)}
        drawn = {"overlay": self._results.draw(name, result)} if self._overlays and result.explanations else {}
        return row_of(name, result) | drawn


def explain_all(
    addresses: Sequence[str],
    out: str,
    model: Path,
    options: Mapping[str, Any],
    *,
    column: str = "",
    overlays: bool = False,
    cluster: str | None = None,
    workers: int = 0,
    together: int = 64,
) -> dict[str, Any]:
    """Writes a row for each picture that has none yet, and returns the counts and the seconds.

    ``addresses`` and ``out`` are pyarrow's, ``column`` is that of Parquet files, ``overlays`` asks for pictures of
    the maps, ``cluster`` is Ray's address of one, ``workers`` are processes, 0 for one per core, and ``together`` the
    pictures of a file. Raises ``Source.find``'s errors, those of ``Results``, those of ``GraphModel`` and its
    ``check``, and an OSError where results cannot be written.
    """
    opened = GraphModel(model, threads=1)
    opened.check(**options)
    results = Results(out, {"graphs": dict(opened.card.graphs), "options": {**options, "overlays": overlays}})
    sources = [Source(address, column, out) for address in dict.fromkeys(addresses)]
    found = [source.find() for source in sources]
    told = {"rows": 0, "errors": 0}
    with results.held():
        done, started = results.prepare(), time.monotonic()
        if parts := [*_parts(sources, found, done, together)]:
            given = (model.absolute(), sources, results, options, overlays)
            total = len(done) + sum(len(part["paths"]) for part in parts)
            with tqdm(total=total, initial=len(done), unit=" pictures") as bar, _cluster(cluster, workers) as processes:
                of_actors = {"compute": ActorPoolStrategy(size=min(processes, len(parts))), "num_cpus": 1}
                lists = ray.data.from_items(parts, override_num_blocks=len(parts))
                for counts in lists.map(Worker, fn_constructor_args=given, **of_actors).iter_rows():
                    told = {name: told[name] + number for name, number in counts.items()}
                    bar.update(counts["rows"])
    return {**told, "known": len(done), "known_errors": sum(done.values()), "seconds": time.monotonic() - started}


def _parts(
    sources: Sequence[Source], found: Sequence[Sequence[Picture]], done: Iterable[str], together: int
) -> Iterator[dict[str, Any]]:
    """Lists of pictures of a source that have no row; a picture that two sources hold is in one list."""
    seen = {*done}
    for number, (source, pictures) in enumerate(zip(sources, found, strict=True)):
        names = {source.name_of(picture): picture for picture in pictures}
        left = [picture for name, picture in names.items() if name not in seen]
        seen |= {*names}
        for start in range(0, len(left), together):
            paths, rows = zip(*left[start : start + together], strict=True)
            yield {"source": number, "paths": [*paths], "rows": [*rows]}


@contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[int]:
    """Ray, on this machine or at an address, for as many processes as are yielded."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    alone = {} if address else {"num_cpus": workers or usable_cores(), "object_store_memory": _STORE}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(address or "local", **alone, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield workers or int(ray.cluster_resources()["CPU"])
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, OSError) else error from None
    finally:
        ray.shutdown()
