"""Reads delimited text and Parquet into columns; what cannot be read is told by file and line.

The fast path is pyarrow's reader. Only when it refuses a file is the file read again, line by line, to find the line
that is broken.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from recsim_env.errors import DataError, MissingColumnError
from recsim_env.records import TextArray

_UNIT_SEPARATOR = "\x1f"  # stands for separators of two characters, which pyarrow cannot read


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The columns of a file, with the way back from a row to its line.

    Attributes:
        path: The file.
        columns: Its columns.
        quoted: It is a CSV file with a header, in which a row may span several lines.
    """

    path: Path
    columns: pa.Table
    quoted: bool = False

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    def line(self, row: int) -> int:
        """Line in the file, counted from 1, of a row, counted from 0; for Parquet the row counted from 1."""
        if self.quoted:
            return next(line for i, (line, _) in enumerate(_csv_records(self.path)) if i == row + 1)
        return row + 1

    def text(self, name: str, required: bool = True) -> TextArray:
        """A column as str objects (R,); numbers become text, lists are joined by ``|``, an absent value is "".

        Raises:
            MissingColumnError: If there is no such column.
            DataError: If a value is empty although one is required.
        """
        values = self._column(name)
        if pa.types.is_list(values.type):
            values = pc.binary_join(values, "|")
        if not pa.types.is_string(values.type):
            values = pc.cast(values, pa.string())
        array: TextArray = pc.fill_null(values, "").to_numpy(zero_copy_only=False).astype(object)
        if required and (empty := np.flatnonzero(array == "")).size:
            raise self.broken(int(empty[0]), f"{name} is empty.")
        return array

    def ids(self, name: str) -> TextArray:
        """A column of ids as str objects (R,), each once.

        Raises:
            MissingColumnError: If there is no such column.
            DataError: If an id is empty or stands twice.
        """
        values = self.text(name)
        again = pd.Series(values).duplicated().to_numpy()
        if again.any():
            row = int(np.argmax(again))
            raise self.broken(row, f"{name} {values[row]!r} stands there twice.", "Keep one line of each.")
        return values

    def numbers(self, name: str, required: bool = True) -> NDArray[np.float64]:
        """A column as float64 (R,); an absent value is NaN.

        Raises:
            MissingColumnError: If there is no such column.
            DataError: If a value is no number, or is absent although one is required.
        """
        values = self._column(name)
        if pa.types.is_timestamp(values.type):
            values = pc.cast(pc.cast(values, pa.timestamp("s"), safe=False), pa.int64())
        try:
            numbers = np.asarray(pc.cast(values, pa.float64()).to_numpy(), np.float64)
        except pa.ArrowInvalid:
            numbers = pd.to_numeric(values.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
        except pa.ArrowNotImplementedError:
            raise DataError(f"Column {name!r} holds {values.type}, not numbers.", self.path) from None
        for row in np.flatnonzero(np.isnan(numbers)):
            raw = values[int(row)].as_py()
            if required or raw not in (None, ""):
                raise self.broken(int(row), f"{name} is {raw!r}, not a number.")
        return numbers

    def broken(self, row: int, message: str, remedy: str = "Correct or remove the line.") -> DataError:
        """An error that points at a row."""
        return DataError(message, self.path, self.line(row), remedy)

    def lacks(self, name: str, remedy: str) -> MissingColumnError:
        """An error that names a column which is not there."""
        names = self.columns.column_names
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            remedy = "Its columns are not separated by commas: write it with commas."
        return MissingColumnError(name, names, str(self.path), remedy)

    def _column(self, name: str) -> pa.ChunkedArray:
        names = self.columns.column_names
        if name not in names:
            raise self.lacks(name, "Set the names under data.columns (timestamp may be null).")
        if names.count(name) > 1:
            raise DataError(f"Column {name!r} stands there twice.", self.path, 1, "Rename or remove one of them.")
        return self.columns.column(name)


def read_delimited(path: Path, separator: str, names: Sequence[str], encoding: str = "utf-8") -> Table:
    """Reads a text file without header or quotes, one record per line. All columns are text.

    Args:
        path: The file.
        separator: One or two characters, such as ``"::"``.
        names: Names of all its columns.
        encoding: Its encoding.

    Raises:
        DataError: If the file cannot be read or a line has another number of fields.
    """
    try:
        text = _read_bytes(path).decode(encoding).replace("\r\n", "\n").rstrip("\n")
    except UnicodeDecodeError:
        raise _not_text(path, encoding) from None
    single = text if len(separator) == 1 else text.replace(separator, _UNIT_SEPARATOR)
    delimiter = separator if len(separator) == 1 else _UNIT_SEPARATOR
    if not text:
        raise DataError("The file is empty.", path, remedy="Give a file with one record per line.")
    try:
        columns = pa_csv.read_csv(
            pa.BufferReader(single.encode()),
            pa_csv.ReadOptions(column_names=list(names)),
            pa_csv.ParseOptions(delimiter=delimiter, quote_char=False, ignore_empty_lines=False),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid as error:
        lines = ((i, line.split(delimiter)) for i, line in enumerate(single.split("\n"), 1))
        raise _explain(path, lines, len(names), error) from None
    return Table(path, columns)


def read_csv(path: Path) -> Table:
    """Reads a CSV file (UTF-8, comma, header in the first line). All columns are text.

    Raises:
        DataError: If the file cannot be read or a line has another number of fields than the header.
    """
    _check_file(path)
    try:
        header = next((fields for _, fields in _csv_records(path)), None)
        if header is None:
            raise DataError("The file is empty.", path, remedy="Give a CSV file with a header line.")
        columns = pa_csv.read_csv(
            path,
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string())),
        )
        return Table(path, columns, quoted=True)
    except pa.ArrowInvalid as error:
        try:
            raise _explain(path, _csv_records(path), len(header or ()), error) from None
        except UnicodeDecodeError:
            raise _not_text(path, "utf-8") from None
    except UnicodeDecodeError:
        raise _not_text(path, "utf-8") from None


def read_parquet(path: Path) -> Table:
    """Reads a Parquet file.

    Raises:
        DataError: If the file cannot be read.
    """
    _check_file(path)
    try:
        return Table(path, pa_parquet.read_table(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"This is no readable Parquet file: {error}.", path, remedy="Write it again.") from None


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError("There is no such file.", path, remedy="Check the path.")


def _read_bytes(path: Path) -> bytes:
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The file cannot be read: {error.strerror}.", path) from None


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """First line, counted from 1, and fields of each record of a CSV file, blank lines left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader, start = csv.reader(file), 1
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1


def _explain(path: Path, lines: Iterator[tuple[int, list[str]]], n_fields: int, error: pa.ArrowInvalid) -> DataError:
    for line, fields in lines:
        if len(fields) != n_fields:
            message = f"{len(fields)} fields instead of {n_fields}: {' '.join(fields)[:60]!r}."
            return DataError(message, path, line, "Correct or remove the line.")
    return DataError(f"The file cannot be read: {error}.", path, remedy="Check its format.")


def _not_text(path: Path, encoding: str) -> DataError:
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return DataError(f"The file is not {encoding} text.", path, line, f"Save it as {encoding}.")
    raise AssertionError(f"{path} was refused as {encoding} and then read as it")
