"""Finds pictures and reads them: files, folders, patterns and Parquet files, on this machine or in the cloud."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSystem, FileType, LocalFileSystem

from handler.picture.decode import endings

_TABLE = ".parquet"
_CONTENT = "bytes"  # the field of a picture's content where a column holds structs, as Hugging Face's do

Picture = tuple[str, int]  # a file's path in its source, and the row in a Parquet file, or -1 for a picture's own file


def place_of(address: str) -> tuple[FileSystem, str]:
    """The file system of an address, and the path there; a path on this machine is made absolute."""
    return FileSystem.from_uri(address) if "://" in address else (LocalFileSystem(), os.path.abspath(address))


@dataclass(frozen=True)
class Source:
    """Where pictures are: a file, a folder, a pattern or a Parquet file; an address of pyarrow's file systems."""

    address: str  # "photos", "photos/**/*.jpg", "s3://bucket/photos"
    column: str = ""  # of the pictures in Parquet files; "": the only one that can be
    left_out: str = ""  # the address of a folder whose files are none of the source

    @cached_property
    def _place(self) -> tuple[FileSystem, str]:
        return place_of(self.address)

    def name_of(self, picture: Picture) -> str:
        """A picture's name in the results: ``s3://photos/cat.jpg``, ``photos.parquet#17``."""
        (path, row), (scheme, found, _) = picture, self.address.partition("://")
        return f"{scheme + found if found else ''}{path}{'' if row < 0 else f'#{row}'}"

    def find(self) -> list[Picture]:
        """All pictures in the order of their paths.

        A ValueError says that there is none, or that the column must be named, an OSError that nothing can be read.
        """
        found: list[Picture] = []
        for path in sorted(self._paths()):
            if not path.endswith(_TABLE):
                found.append((path, -1))
                continue
            with self._table(path) as table:
                self._column_of(table, path)
                found += [(path, row) for row in range(table.metadata.num_rows)]
        if not found:
            raise ValueError(
                f"{self.address} holds no picture; valid are pictures, folders, patterns and Parquet files"
            )
        return found

    def read(self, pictures: Sequence[Picture]) -> Iterator[bytes | OSError]:
        """The content of each picture, or why it cannot be read."""
        for path, group in groupby(pictures, lambda picture: picture[0]):
            rows, count = [row for _, row in group], 0
            try:
                for content in [self._content(path)] if rows == [-1] else self._rows(path, rows):
                    yield content
                    count += 1
            except (OSError, ValueError) as error:  # of a damaged Parquet file
                yield from [OSError(str(error))] * (len(rows) - count)

    def _paths(self) -> list[str]:
        files, path = self._place
        wrapped, known, kind = ArrowFSWrapper(files), {*endings(), _TABLE}, files.get_file_info(path).type
        others, without = place_of(self.left_out) if self.left_out else (None, "")
        left_out = f"{without}/" if others == files else None
        if kind == FileType.NotFound and any(sign in path for sign in "*?["):
            found = [one for one in wrapped.glob(path) if wrapped.isfile(one)]
            return [one for one in found if not (left_out and one.startswith(left_out))]
        if kind == FileType.NotFound:
            raise FileNotFoundError(f"{self.address} does not exist")
        if kind != FileType.Directory:
            return [path]
        inside = [PurePosixPath(one) for one in wrapped.find(path) if not (left_out and one.startswith(left_out))]
        hidden = len(PurePosixPath(path).parts)
        kept = [one for one in inside if not any(part.startswith(".") for part in one.parts[hidden:])]
        return [str(one) for one in kept if one.suffix.lower() in known]

    def _content(self, path: str) -> bytes | OSError:
        try:
            with self._place[0].open_input_stream(path) as file:
                return bytes(file.read())
        except OSError as error:
            return error

    @contextmanager
    def _table(self, path: str) -> Iterator[Any]:
        try:
            with self._place[0].open_input_file(path) as file:
                yield pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}") from error

    def _rows(self, path: str, rows: Sequence[int]) -> Iterator[bytes | OSError]:
        """The pictures in rows that ascend, whose groups are read one after the other."""
        with self._table(path) as table:
            column, start = self._column_of(table, path), 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if wanted := [row - start for row in rows if start <= row < end]:
                    values = table.read_row_group(group, columns=[column]).column(column)
                    yield from (self._value(values[row].as_py()) for row in wanted)
                start = end

    def _value(self, value: Any) -> bytes | OSError:
        value = value.get(_CONTENT) or value.get("path") if isinstance(value, dict) else value
        if isinstance(value, str):
            return self._content(value)
        return value if value else OSError("the row holds no picture")

    def _column_of(self, table: Any, path: str) -> str:
        """The column of the pictures: of their content, or of their paths if it is named."""

        def holds(kind: pa.DataType) -> bool:
            if pa.types.is_struct(kind):
                return bool(kind.get_field_index(_CONTENT) >= 0)
            return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

        schema = table.schema_arrow
        can = [field.name for field in schema if holds(field.type)]
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        if self.column in can + texts:
            return self.column
        if self.column or len(can) != 1:
            valid = ", ".join(can + texts) or "none: the file holds neither binary columns nor texts"
            raise ValueError(f"{path}: say which column holds the pictures or their paths, --column; valid: {valid}")
        return str(can[0])
