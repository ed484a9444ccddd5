"""List files: text files with one path per line, or a column of a table, named as @list.txt or @table.csv:column."""

from __future__ import annotations

import csv
import io
import os
import re

from ..config import InputError
from ..files import load_text
from ..spelling import did_you_mean

TABLES = (".csv", ".tsv", ".parquet")
DEFAULT = "path"  # the column where none is named
_ADDRESS = re.compile(r"(https?|s3|gs|hdfs)://")


def read_paths(spec: str) -> tuple[str, list[str]]:
    """The folder of a list file and the absolute paths in it. Empty lines and lines that begin with "#" are ignored.

    `spec` is the file, or "table.csv:column", also of a .tsv or .parquet file; without a column, that is `path`.
    Raises InputError if the file cannot be read, is not text, has no such column, or names no path.
    """
    file, column = spec, None
    if not os.path.isfile(spec) and spec.rpartition(":")[0].lower().endswith(TABLES):
        file, _, column = spec.rpartition(":")
    names = _parquet_column(file, column) if file.lower().endswith(".parquet") else _names(file, column)
    names = [name.strip() for name in names if name and name.strip()]
    if any("\0" in name for name in names):
        raise InputError(f"@{spec} is not a text file with one path per line. To use a photo, name it without the @.")
    address = next((name for name in names if _ADDRESS.match(name)), None)
    if address:
        raise InputError(f"@{spec} holds addresses such as {address[:60]}, not paths. Download the photos first.")
    if not names:
        raise InputError(f"@{spec} names no photos. Write one path per line.")
    folder = os.path.dirname(os.path.abspath(file))
    return folder, [os.path.abspath(os.path.join(folder, name)) for name in names]


def _names(file: str, column: str | None) -> list[str]:
    """The lines of a list; or the cells of a column, if the text is a table with a header."""
    text = load_text(file)
    first = text.lstrip("\n").partition("\n")[0]
    separator = max(",\t;", key=first.count)
    is_table = column or (file.lower().endswith(TABLES) and (separator in first or first.strip() == DEFAULT))
    if not is_table:
        return [line for line in text.split("\n") if not line.strip().startswith("#")]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows.fieldnames = [name.strip() for name in rows.fieldnames or []]
        place = _find_column(file, column, rows.fieldnames)
        found = [(rows.line_num, row[place]) for row in rows]
    except csv.Error as error:
        raise InputError(f"@{file}, line {rows.line_num}: {error}. Save it as a comma-separated file.") from error
    short = next((line for line, cell in found if cell is None), None)
    if short:
        raise InputError(f"@{file}, line {short}: no cell for {place!r}. Correct the line.")
    return [cell for _, cell in found]


def _parquet_column(file: str, column: str | None) -> list[str | None]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"@{file} needs the pyarrow package. Run: pip install pyarrow") from error
    try:
        name = _find_column(file, column, parquet.read_schema(file).names)
        cells = parquet.read_table(file, columns=[name]).column(0)
        names = cells.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"@{file} cannot be read as Parquet ({reason}). Write the file again.") from error
    if not all(value is None or isinstance(value, str) for value in names):
        raise InputError(f"@{file}: the column {name!r} holds {cells.type}, not text. Name a column of paths.")
    return names


def _find_column(file: str, column: str | None, header: list[str]) -> str:
    name = column or DEFAULT
    if header.count(name) == 1:
        return name
    what = "two columns" if name in header else "no column"
    hint = did_you_mean(name, header) if column and name not in header else ""
    how = "" if column else f" Name the column of the paths: @{file}:COLUMN."
    raise InputError(f"@{file} has {what} {name!r}.{hint}{how} It has {', '.join(cell[:60] for cell in header[:20])}.")
