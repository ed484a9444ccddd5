"""A .csv of any program as rows of text: its separator, its header, and its rows without what spreadsheets add around them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import InputError, TableOptions
from .text_files import is_valid_text, load_text

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # zero-width characters around a name in a header
TRIED_LINES = 50  # lines that show which separator a file has

# Names of a column of photos, as `short_key` gives them.
_PATH_WORDS = """path filepath imagepath imgpath relativepath fullpath filename file files image images imageid imageids imagename
imagefile imagefilename imgid imgname imgfile img fname photo photos photoid picture pictureid imageurl url uri filelocation
photopath photoname photofile picturename"""
PATH_NAMES = frozenset(_PATH_WORDS.split())
# Names of a column of class names.
_LABEL_WORDS = """label labels tag tags class classes category categories categoryname categorynames classname classnames
labelname labelnames target targets annotation annotations choice choices keywords objects object concepts groundtruth gt
truth species findinglabels attributes"""
LABEL_NAMES = frozenset(_LABEL_WORDS.split())

Lines = list[tuple[int, list[str]]]  # line number and cells of each row that is not empty
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sheet:
    """A rectangular table of text. `lines` has the line number of each row, `header` one name per column; "" = no name."""

    file: Path
    header: list[str]
    lines: list[int]
    rows: list[list[str]]
    separator: str

    def column(self, number: int) -> list[str]:
        return [row[number] for row in self.rows]


def short_key(name: str) -> str:
    """A column name in lower case without blanks, hyphens and underscores: `Image ID` and `image_id` are the same."""
    return re.sub(r"[\s_\-.]+", "", name.casefold())


def read_sheet(file: Path, options: TableOptions, say: Say) -> Sheet:
    """The rows of a .csv. `say` gets one line for each rule that was applied. InputError names the file, the line and a remedy.

    The separator is that under which the first lines have equally many cells. Rows and columns in which every cell is empty
    are left out, and so is a first line `sep=;`.
    """
    text = load_text(file, options.encoding)
    text, separator = _separator(text, file, options, say)
    lines = parse_lines(text, separator, file)
    if not lines:
        raise InputError(f"{file}, line 1: the table is empty; it needs a column `path`. {_WANTED}")
    (_, header), *body = lines
    header = [name.strip().strip(INVISIBLE).strip() for name in header]
    if not all(map(is_valid_text, header)):
        raise InputError(
            f'{file}, line 1: the names are not UTF-8 text. Save the table as UTF-8, or name its encoding: `encoding="cp1252"` '
            "is that of older Excel files."
        )
    body = [(line, cells) for line, cells in body if any(map(str.strip, cells))]
    body, header = _rectangular(file, header, body, say)
    return _without_empty_columns(
        Sheet(file, header, [n for n, _ in body], [cells for _, cells in body], separator), say
    )


_WANTED = "Write path,class,class,... with commas."


def parse_lines(text: str, separator: str, file: Path, most: int | None = None) -> Lines:
    """The lines that are not blank, at most `most` of them. InputError where quotes are not balanced."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: Lines = []
    try:
        for cells in reader:
            if cells:
                found.append((reader.line_num, cells))
            if most and len(found) >= most:
                break
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}. Save it as a comma-separated file.") from error
    return found


def _separator(text: str, file: Path, options: TableOptions, say: Say) -> tuple[str, str]:
    """The text without Excel's `sep=` line, and its separator."""
    first, _, rest = text.partition("\n")
    told = first.strip().strip('"').strip()
    if (told.lower().startswith("sep=") and told[4:] in SEPARATORS.values()) or first.rstrip(
        "\r\n"
    ).lower() == "sep=\t":
        said = told[4:] or "\t"
        say(f"{file}: its columns are separated by {said!r}, as its first line says")
        return "\n" + rest, SEPARATORS.get(
            options.separator or "", said
        )  # the line stays, blank: line numbers are right
    if options.separator:
        return text, SEPARATORS[options.separator]
    found = _fitting(text, file)
    if len(found) > 1:
        shown = " or ".join(f"{name}s ({len(header)} columns)" for name, header in found.items())
        raise InputError(
            f'{file}, line 1: the columns could be separated by {shown}. Say which with `separator="{next(iter(found))}"` or '
            f'`separator="{list(found)[1]}"`.'
        )
    name = next(iter(found), "comma")
    if name != "comma":
        say(f"{file}: its columns are separated by {name}s")
    return text, SEPARATORS[name]


def _fitting(text: str, file: Path) -> dict[str, list[str]]:
    """The separators that give two columns or more, each with its header; only the best kind: same width in all lines."""
    headers: dict[str, list[str]] = {}
    even: dict[str, bool] = {}
    for name, mark in SEPARATORS.items():
        try:
            lines = parse_lines(text, mark, file, TRIED_LINES)
        except InputError:
            continue
        if lines and len(lines[0][1]) > 1:
            headers[name] = lines[0][1]
            widths = {len(_trimmed(cells)) for _, cells in lines}
            even[name] = max(widths) <= len(lines[0][1]) and (len({len(cells) for _, cells in lines}) == 1)
    chosen = [name for name in headers if even[name]] or list(headers)
    with_path = [name for name in chosen if any(short_key(cell.strip()) in PATH_NAMES for cell in headers[name])]
    return {name: headers[name] for name in (with_path or chosen)}


def _trimmed(cells: Sequence[str]) -> Sequence[str]:
    """The cells without empty ones at the end."""
    end = len(cells)
    while end and not cells[end - 1].strip():
        end -= 1
    return cells[:end]


def _rectangular(file: Path, header: list[str], body: Lines, say: Say) -> tuple[Lines, list[str]]:
    """Rows as long as the header. Empty cells beyond it are cut; one more column of row numbers, as R writes it, gets a name."""
    width = len(header)
    if body and all(len(cells) == width + 1 and cells[0].strip().isdigit() for _, cells in body):
        return body, ["", *header]
    if short_key(header[-1]) in LABEL_NAMES and any(len(_trimmed(cells)) > width for _, cells in body):
        say(f"{file}: the cells from {header[-1]!r} on are one list of names")
        body = [(line, [*cells[: width - 1], ",".join(_trimmed(cells[width - 1 :]))]) for line, cells in body]
    rows: Lines = []
    for line, cells in body:
        if len(cells) < width or len(_trimmed(cells)) > width:
            raise InputError(f"{file}, line {line}: {len(cells)} cells, but line 1 has {width}. Correct the line.")
        rows.append((line, cells[:width]))
    return rows, header


def _without_empty_columns(sheet: Sheet, say: Say) -> Sheet:
    """Without the columns that have neither a name nor a value, which spreadsheets leave at the end."""
    nameless = [n for n, name in enumerate(sheet.header) if not name]
    empty = {n for n in nameless if not any(row[n].strip() for row in sheet.rows)}
    if not empty:
        return sheet
    say(f"{sheet.file}: {len(empty)} empty column{'s' * (len(empty) > 1)} ignored")
    kept = [n for n in range(len(sheet.header)) if n not in empty]
    rows = [[row[n] for n in kept] for row in sheet.rows]
    return Sheet(sheet.file, [sheet.header[n] for n in kept], sheet.lines, rows, sheet.separator)
