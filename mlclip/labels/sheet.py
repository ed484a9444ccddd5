"""Text files on disk, and a .csv of any program as rows of text: its separator, its header, and its rows. No torch here.

File names in them need not be valid text: bytes that are not UTF-8 are kept as Python's surrogate escapes and are written
back unchanged.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..config import InputError
from ..files import atomic, check_output, load_text, parse_json
from ..spelling import one_line, shorten

TABLE_SUFFIXES = (".pt", ".csv", ".json", ".jsonl")  # of tables that mlclip writes

SEPARATORS = {"commas": ",", "semicolons": ";", "tabs": "\t", "pipes": "|"}
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # zero-width characters around a name in a header
TRIED_LINES = 50  # lines that show which separator a file has
RECIPES = "docs/formats.md has recipes for other tables"

# Names of a column of photos, as `short_key` gives them.
_PATH_WORDS = """path filepath imagepath imgpath relativepath fullpath filename file files image images imageid imageids imageindex
imagename imagefile imagefilename imgid imgname imgfile img fname photo photos photoid photopath photoname photofile picture
pictureid picturename imageurl url uri sourcefile"""
PATH_NAMES = frozenset(_PATH_WORDS.split())

PHOTO = re.compile(r"\.(jpe?g|png|gif|bmp|tiff?|webp|ppm|pgm|heic|avif|jfif)$", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")

Say = Callable[[str], None]


def check_table_output(path: str | Path, *, overwrite: bool) -> Path:
    """As `files.check_output`. InputError for a suffix that no table of labels has too."""
    table_suffix(path)
    return check_output(path, overwrite=overwrite)


def table_suffix(path: str | Path, suffixes: Sequence[str] = TABLE_SUFFIXES) -> str:
    """The suffix in lower case. InputError for one that no table of labels has."""
    suffix = Path(path).suffix.lower()
    if suffix in (".xlsx", ".xls", ".ods"):
        raise InputError(f"{path} is a spreadsheet. Save its table as .csv (CSV UTF-8 in Excel).")
    if suffix not in suffixes:
        raise InputError(f"{path} is not a name for a labels file. It must end in .pt, .csv, .json or .jsonl.")
    return suffix


def json_in(text: str, file: Path, line: int = 1) -> Any:
    """The content of JSON in a file; the text begins at `line`. InputError where it is none."""
    try:
        return parse_json(text)
    except ValueError as error:  # among them: too many brackets, and a number of thousands of digits
        where = f"{file}, line {line + getattr(error, 'lineno', 1) - 1}"
        raise InputError(f"{where}: not JSON ({str(error)[:80]}). Write or export the file again.") from error


def is_valid_text(text: str) -> bool:
    """Whether the text has no surrogate escapes: all of its bytes could be decoded."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def save_text(text: str, path: Path) -> None:
    """Write UTF-8; surrogate escapes become the bytes that they stand for. The file is never half-written."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:  # half of a surrogate pair; only Windows allows it in a file name
        raise InputError(f"{path} cannot store a file name that is not valid text. Write a .pt file.") from error
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def save_csv(rows: Iterable[Sequence[str]], path: Path) -> None:
    """Write rows as CSV with line ends "\\n".

    The writer keeps its default line end "\\r\\n": before Python 3.13 it quotes a "\\r" inside a cell only then.
    """
    lines: list[str] = []
    csv.writer(SimpleNamespace(write=lines.append)).writerows(rows)
    save_text("".join(line.removesuffix("\r\n") + "\n" for line in lines), path)


# -- reading a .csv


@dataclass(frozen=True)
class Sheet:
    """A rectangular table of text. `lines` has the line number of each row, `header` one name per column; "" = no name."""

    file: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]

    def column(self, number: int) -> list[str]:
        return [row[number] for row in self.rows]


def short_key(name: str) -> str:
    """A column name in lower case without blanks, hyphens, underscores and dots: `Image ID` and `image_id` are the same."""
    return re.sub(r"[\s_\-.]+", "", name.casefold())


def read_sheet(file: Path, say: Say = lambda line: None) -> Sheet:
    """The rows of a .csv. `say` gets a line about an unusual separator. InputError names the file, the line and a remedy.

    Rows in which every cell is empty are left out, and so are columns without a name and without a value. Rows with one
    more cell than the header begin with a row number, as R writes them.
    """
    text, separator = _separator(load_text(file), file)
    if separator != "commas":
        say(f"{file}: its columns are separated by {separator}")
    lines = _parse(text, SEPARATORS[separator], file)
    if not lines:
        raise InputError(f"{file}, line 1: the table is empty; it needs a column `path`. Write path,class,class,...")
    header = [name.strip().strip(INVISIBLE).strip() for name in lines[0][1]]
    if not all(map(is_valid_text, header)):
        raise InputError(f"{file}, line 1: the names are not UTF-8 text. Save the table as UTF-8 (CSV UTF-8 in Excel).")
    body = [(line, cells) for line, cells in lines[1:] if any(map(str.strip, cells))]
    if body and all(len(cells) == len(header) + 1 and cells[0].strip().isdigit() for _, cells in body):
        header = ["", *header]
    width, rows = len(header), []
    for line, cells in body:
        if len(cells) < width or any(map(str.strip, cells[width:])):
            raise InputError(f"{file}, line {line}: {len(cells)} cells, but line 1 has {width}. Correct the line.")
        rows.append(cells[:width])
    kept = [n for n, name in enumerate(header) if name or any(row[n].strip() for row in rows)]
    if len(kept) < width:
        rows = [[row[n] for n in kept] for row in rows]
    return Sheet(file, [header[n] for n in kept], [line for line, _ in body], rows)


def check_names(names: Sequence[str], lines: Sequence[int], file: Path, kind: str) -> None:
    """InputError for a blank name or one that is there twice; `kind` is "path" or "class"."""
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name:
            raise InputError(f"{file}, line {line}: a {kind} has no name. Give it one or remove it.")
        if before := first.get(name):
            raise InputError(f"{file}, line {line}: the {kind} {name!r:.200} is already in line {before}. Remove one.")
        first[name] = line


def photo_column(sheet: Sheet, wanted: str | None, say: Say) -> int:
    """The number of the column with the photos, by its name or else by its cells. InputError if none or several could be it."""
    header, keys, where = sheet.header, [short_key(name) for name in sheet.header], f"{sheet.file}, line 1"
    photo = next((name for name in header if PHOTO.search(name)), None)
    if photo:
        raise InputError(f"{where}: the first line has a photo ({photo!r}). Write path,class,class,... above it.")
    columns, shown = range(len(header)), shorten([repr(name) if name else "without a name" for name in header])
    exact = [n for n in columns if header[n] == "path"]
    if wanted:
        found = [n for n in columns if header[n] == wanted] or [n for n in columns if keys[n] == short_key(wanted)]
        if not found and not exact:
            raise InputError(f"{where}: `path_column` {wanted!r} is none of the columns: {shown}. Correct it.")
        return (found or exact)[0]
    named = [n for n in columns if keys[n] in PATH_NAMES]
    photos = [n for n in columns if sheet.rows and all(PHOTO.search(cell.strip()) for cell in sheet.column(n))]
    ids = [n for n in columns if keys[n] in ("name", "id", "key")]
    index = [0] if not header[0] and all(number_in(cell) is None for cell in sheet.column(0)) else []  # of pandas
    found = exact or [n for n in photos if n in named] or named or photos or ids[:1] or index
    if len(found) > 1:
        choices = " or ".join(f'`path_column="{one_line(header[n])}"`' for n in found[:3])
        raise InputError(f"{where}: several columns could hold the photos. Choose one: {choices}; or name it `path`.")
    if not found:
        remedy = 'Write path,class,class,..., or name the column with `path_column="..."`.'
        raise InputError(f"{where}: no column `path` with the photos. The columns are {shown}. {remedy}")
    if header[found[0]].lower() != "path":
        say(f"{sheet.file}: the photos are in the column {header[found[0]] or 'without a name'!r}")
    return found[0]


def number_in(cell: str) -> float | None:
    """The number in a cell, with a decimal point or a decimal comma; None where there is none.

    >>> number_in(" 0,25 "), number_in("1.0"), number_in("cat")
    (0.25, 1.0, None)
    """
    text = cell.strip()
    if "_" in text:  # Python would read 2008_000008 as a number
        return None
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None


def _parse(text: str, separator: str, file: Path, most: int | None = None) -> list[tuple[int, list[str]]]:
    """(line number, cells) of the lines that are not blank, at most `most`. InputError where quotes are not balanced."""
    csv.field_size_limit(2**31 - 1)  # cells of Label Studio exceed the 131,072 characters that csv reads otherwise
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found = []
    try:
        for cells in reader:
            if cells:
                found.append((reader.line_num, cells))
            if len(found) == most:
                break
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}. Save it as a comma-separated file.") from error
    return found


def _separator(text: str, file: Path) -> tuple[str, str]:
    """The text without Excel's line `sep=;`, and the name of the separator.

    It is the one under which the first lines have equally many cells, two or more; then the one that gives a column such as
    `path`; then the one that gives the most columns.
    """
    first, _, rest = text.partition("\n")
    told = first.strip("\r\"' ").lower()
    widths: dict[str, tuple[bool, bool, int]] = {}
    for name, mark in SEPARATORS.items():
        if told == f"sep={mark}":
            return "\n" + rest, name  # the line stays, blank: line numbers are right
        try:
            lines = [cells for _, cells in _parse(text, mark, file, TRIED_LINES)]
        except InputError:
            continue
        if lines and len(lines[0]) > 1:
            named = any(short_key(cell.strip()) in PATH_NAMES for cell in lines[0])
            widths[name] = (len(set(map(len, lines))) == 1, named, len(lines[0]))
    return text, max(widths, key=widths.__getitem__, default="commas")
