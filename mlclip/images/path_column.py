"""A column of paths in a CSV, TSV or Parquet file, named on the command line as @table.csv:column."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from ..config import InputError
from ..spelling import did_you_mean

SUFFIXES = (".csv", ".tsv", ".parquet")
DEFAULT = "path"  # the column where none is named
MOST_ROWS = 50_000_000  # of a Parquet file, whose size says little about its content
MOST_CHARACTERS = 2 << 30
ROWS_AT_ONCE = 1024
_SEPARATORS = (",", "\t", ";")


def split_column(spec: str) -> tuple[str, str | None]:
    """The file and the column of "table.csv:column"; the column is None where none is named.

    >>> split_column("t.csv:image path"), split_column("C:/t.csv"), split_column("list.txt")
    (('t.csv', 'image path'), ('C:/t.csv', None), ('list.txt', None))
    """
    file, mark, column = spec.rpartition(":")
    return (file, column) if mark and file.lower().endswith(SUFFIXES) else (spec, None)


def csv_paths(file: str, text: str, column: str | None) -> list[str] | None:
    """The cells of a column that are not empty. None if the text is a plain list: one column, not called `path`.

    Raises InputError if there is no such column, if a line is too short, or if the text is not CSV.
    """
    head = text.lstrip("\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        if column is None and len(header) < 2 and header != [DEFAULT]:
            return None
        place = _column(file, column, header)
        return [cell for cell in _cells(file, reader, place) if cell]
    except csv.Error as error:
        raise InputError(f"@{file}, line {reader.line_num}: {error}. Save it as a comma-separated file.") from error


def _cells(file: str, reader: csv.reader, place: int) -> Iterator[str]:
    for row in reader:
        if row and len(row) <= place:
            raise InputError(f"@{file}, line {reader.line_num}: only {len(row)} cells. Correct the line.")
        if row:
            yield row[place].strip()


def parquet_paths(file: str, column: str | None) -> list[str]:
    """The values of a column of text that are not empty. Needs pyarrow. Raises InputError."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f'@{file} needs the pyarrow package. Run: pip install "mlclip[parquet]"') from error
    try:
        with ParquetFile(file) as table:
            schema = table.schema_arrow
            field = schema.field(_column(file, column, schema.names))
            kind = getattr(field.type, "value_type", field.type)  # of a dictionary
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise InputError(
                    f"@{file}: the column {field.name!r} holds {field.type}, not text. Name a column of paths."
                )
            if table.metadata.num_rows > MOST_ROWS:
                raise InputError(
                    f"@{file} has {table.metadata.num_rows:,} rows, over {MOST_ROWS:,}. Write several files."
                )
            return _values(file, lambda: table.iter_batches(ROWS_AT_ONCE, columns=[field.name]))
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"@{file} cannot be read as Parquet ({reason}). Write the file again.") from error


def _values(file: str, batches: Callable[[], Iterator]) -> list[str]:
    found, characters = [], 0
    for batch in batches():
        cells = [cell.strip() for cell in batch.column(0).to_pylist() if cell and cell.strip()]
        characters += sum(map(len, cells))
        if characters > MOST_CHARACTERS:
            raise InputError(f"@{file} holds more than {MOST_CHARACTERS >> 30} GiB of paths. Write several files.")
        found += cells
    return found


def _column(file: str, column: str | None, header: Sequence[str]) -> int:
    name = column or DEFAULT
    if header.count(name) == 1:
        return list(header).index(name)
    what = "two columns" if name in header else "no column"
    hint = did_you_mean(name, header) if column and name not in header else ""
    how = "" if column else f" Name the column of the paths: @{file}:COLUMN."
    raise InputError(f"@{file} has {what} {name!r}.{hint}{how} It has {', '.join(cell[:60] for cell in header[:20])}.")
