"""What a run writes: Parquet files with a row per picture, which appear whole, and pictures of the maps."""

import fcntl
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image
from pyarrow.fs import FileSelector, FileSystem, LocalFileSystem

from deploy.bulk.pictures import place_of
from handler.errors import ModelError
from handler.explanation.maps import resize, scale
from handler.rendering.render import draw_map
from handler.rendering.result import Result

logger = logging.getLogger(__name__)
_CLASS = [("index", pa.int32()), ("label", pa.string()), ("probability", pa.float32())]
_MAP = [
    *(*_CLASS, ("logit", pa.float32())),  # of the class that the map explains
    *(("method", pa.string()), ("layer", pa.string()), ("map", pa.string())),
    *(("minimum", pa.float32()), ("maximum", pa.float32()), ("degenerate", pa.bool_())),  # before the map was scaled
    *(("shape", pa.list_(pa.int32())), ("values", pa.list_(pa.float16()))),
]
SCHEMA = pa.schema(
    [
        *(("image", pa.string()), ("error", pa.string())),  # of a picture without an explanation, and null otherwise
        *(("sha256", pa.string()), ("bytes", pa.int64())),  # of the upload
        *(("doubt", pa.float32()), ("predictions", pa.list_(pa.struct(_CLASS)))),
        *(("scores", pa.list_(pa.float32())), ("maps", pa.list_(pa.struct(_MAP)))),
        *(("receipt", pa.string()), ("overlay", pa.string())),  # JSON; a file in the results, of the first map
    ]
)
_ABOUT = b"shufflenet-cam"  # the key of a file's metadata under which it says what made the rows
_ROWS = "explanations-"
_OVERLAYS, _UNFINISHED = "_overlays", "_unfinished-"  # what reads a folder of Parquet files passes over such names
_NAME_LETTERS = 16


def row_of(image: str, result: Result) -> dict[str, Any]:
    """A picture's row, without an overlay; a picture's doubt is 1 less the margin of its two best classes."""
    chances = [*(one.probability for one in result.predictions), 0.0]
    maps = [
        {
            **vars(one.target),
            **{"method": one.method, "layer": ", ".join(one.layers), "map": name},
            **{"minimum": np.min(made.minimum), "maximum": np.max(made.maximum), "degenerate": made.degenerate},
            **{"shape": made.values.shape, "values": made.values.astype(np.float16).ravel()},
        }
        for one in result.explanations
        for name, made in one.maps.items()
    ]
    return {
        **{"image": image, **result.provenance["image"], "doubt": 1 - (chances[0] - chances[1])},
        **{"predictions": [vars(one) for one in result.predictions], "scores": result.logits, "maps": maps},
        "receipt": json.dumps(result.receipt()),
    }


@dataclass(frozen=True)
class Results:
    """A folder of results."""

    address: str  # of pyarrow's file systems
    about: Mapping[str, Any]  # what makes the rows: the graph's hash, the options

    @cached_property
    def _place(self) -> tuple[FileSystem, str]:
        return place_of(self.address)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder, and keeps other runs of this machine from it, where its file system has locks.

        A ModelError says that another run writes to the folder.
        """
        files, folder = self._place
        files.create_dir(folder)
        with ExitStack() as held:
            if isinstance(files, LocalFileSystem):
                held.callback(os.close, opened := os.open(folder, os.O_RDONLY))
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with this process
                except BlockingIOError as error:
                    raise ModelError(f"another run writes to {self.address}; wait, or give another folder") from error
                except OSError:
                    logger.debug("%s has no locks", self.address)
            yield

    def prepare(self) -> dict[str, bool]:
        """Removes what an interrupted run left unfinished, and says which pictures have a row.

        The values are whether the row is an error.

        A ModelError says that the rows are of another graph or other options, or that the folder holds something else.
        """
        files, folder = self._place
        known: dict[str, bool] = {}
        for found in files.get_file_info(FileSelector(folder)):
            if found.base_name.startswith(_UNFINISHED):
                files.delete_file(found.path)
            elif found.base_name.startswith(_ROWS):
                with files.open_input_file(found.path) as file:
                    about = json.loads((pq.read_schema(file).metadata or {}).get(_ABOUT, b"{}"))
                    if about != self.about:
                        what = f"rows of {about}, and these are {self.about}"
                        raise ModelError(f"{self.address} holds {what}; give another folder")
                    table = pq.read_table(file, columns=["image", "error"])
                    images, errors = (table.column(name).to_pylist() for name in table.column_names)
                    known |= {image: error is not None for image, error in zip(images, errors, strict=True)}
            elif found.base_name != _OVERLAYS:
                raise ModelError(f"{self.address} holds {found.base_name}, which is no result; give an empty folder")
        return known

    def draw(self, image: str, result: Result) -> str:
        """Writes the first map of a picture, laid on the picture, and returns the file's path in the folder."""
        (name, made), *_ = result.explanations[0].maps.items()
        seen = result.canvas.seen.picture
        if made.values.shape[:2] != seen.shape[:2]:
            made = replace(made, values=scale(resize(made.values, *seen.shape[:2])))
        file, path = io.BytesIO(), f"{_OVERLAYS}/{_short(image)}.jpg"
        Image.fromarray(draw_map(name, made, result.canvas)).save(file, "JPEG", quality=90)
        self._write(path, file.getvalue())
        return path

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows as one file, whose name is that of the pictures in it: the same rows never appear twice."""
        table = pa.Table.from_pylist([*rows], SCHEMA).replace_schema_metadata({_ABOUT: json.dumps(self.about)})
        pq.write_table(table, file := io.BytesIO(), compression="zstd")
        self._write(f"{_ROWS}{_short(*table.column('image').to_pylist())}.parquet", file.getvalue())

    def _write(self, path: str, content: bytes) -> None:
        files, folder = self._place
        files.create_dir(f"{folder}/{path}".rpartition("/")[0])
        unfinished = f"{folder}/{_UNFINISHED}{path.rpartition('/')[2]}"
        with files.open_output_stream(unfinished) as file:
            file.write(content)
        files.move(unfinished, f"{folder}/{path}")


def most_doubtful(address: str, most: int) -> list[str]:
    """The pictures of a folder of results whose doubt is largest, at most so many."""
    files, folder = place_of(address)
    paths = [one.path for one in files.get_file_info(FileSelector(folder)) if one.base_name.startswith(_ROWS)]
    table = pq.ParquetDataset(paths, files).read(columns=["image", "doubt"])
    return list(table.take(pc.select_k_unstable(table, most, [("doubt", "descending")])).column("image").to_pylist())


def _short(*names: str) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:_NAME_LETTERS]
