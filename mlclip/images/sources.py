"""What sources name and do not: the paths in list files and tables; and what a search of folders leaves out, and what is said of it.

A list file is a text file with one path per line, or a column of a table, named as @list.txt or @table.csv:column.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch

from ..config import InputError
from ..files import load_text
from ..spelling import did_you_mean

TABLES = (".csv", ".tsv", ".parquet")
DEFAULT = "path"  # the column where none is named
_ADDRESS = re.compile(r"(https?|s3|gs|hdfs)://")


def read_paths(spec: str) -> tuple[str, list[str]]:
    """The folder of a list file and the absolute paths in it. Empty lines and lines that begin with "#" are ignored.

    `spec` is the file, or "table.csv:column", also of a .tsv or .parquet file; without a column, that is `path`.
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
        lines, folder = map(str.strip, text.split("\n")), os.path.dirname(file)
        return [line for line in lines if line[:1] != "#" or os.path.exists(os.path.join(folder, line))]  # "#1.jpg"
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


# -- what is left out

FOLDERS = ("@eadir", "#recycle", "@recycle", "$recycle.bin", ".thumbnails", "lost+found")  # in lower case
LIBRARY, ORIGINALS = ".photoslibrary", ("originals", "masters")  # of an Apple library, only these folders are searched
RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2")
_COPY = re.compile(r".+\.(jpe?g|png|tiff?|webp|heic)(~|\.\d+)")
_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8")

_NOT_READ = {  # kind of file -> what is said
    "raw": "{} RAW photos without a JPEG of the same name; `exiftool -b -PreviewImage -w .jpg -r FOLDER` writes the JPEGs inside them",
    "jxl": "{} JPEG XL photos; run `pip install pillow-jxl-plugin`",
    "bare": "{} photos without a suffix; add .jpg or the like to their names",
    "copy": "{} copies with another ending; rename those that are photos of their own",
}
_SAID = {
    "excluded": "left out by `exclude`: {}",
    "same name": "in shards, files with the name of a later file of the same shard, which alone is read: {}",
    "mask": "in shards, pictures that belong to a photo, such as masks, and are not read: {}",
    "shard": "shards that are not read unless you name them, because the same folder or one below it has photos of its own: {}",
}


class LeftOut:
    """Counts what one search leaves out. `exclude` are patterns for names, or for paths from the source or the current folder."""

    def __init__(self, exclude: Sequence[str] = ()):
        patterns = (each.replace(os.sep, "/").rstrip("/") for each in exclude)
        self.patterns = {pattern: os.path.abspath(pattern) for pattern in patterns}
        self.used: set[str] = set()  # patterns
        self.folders: Counter[str] = Counter()
        self.files: dict[str, list[str]] = defaultdict(list)  # by kind

    def excludes(self, path: str, top: str) -> bool:
        """Whether a pattern fits a path below `top`, or a folder in it; it is then counted."""
        parts = os.path.relpath(path, top).split(os.sep) if self.patterns else []
        for end in range(1, len(parts) + 1):
            here = "/".join(parts[:end])
            for pattern, absolute in self.patterns.items():
                inside = here if "/" in pattern else parts[end - 1]
                if fnmatch(inside, pattern) or fnmatch(os.path.join(top, *parts[:end]), absolute):
                    self.used.add(pattern)
                    self.files["excluded"].append(path)
                    return True
        return False

    def has_folder(self, parent: str, name: str) -> bool:
        """Whether a folder belongs to another program, so that its pictures are copies or were thrown away; it is then counted."""
        lower, library = name.lower(), parent.lower().endswith(LIBRARY)
        if not (lower in FOLDERS or lower.endswith(".lrdata") or (library and lower not in ORIGINALS)):
            return False
        self.folders[f"*{LIBRARY}/{name}" if library else name] += 1
        return True

    def add_files(self, paths: Sequence[str], photos: set[str]) -> None:
        """Count those files of one folder that look like photos. `photos`: the names without suffix of its photos, in lower case."""
        for path in paths:
            name = os.path.basename(path).lower()
            stem, suffix = os.path.splitext(name)
            if suffix in RAW and stem not in photos:
                self.files["raw"].append(path)
            elif suffix == ".jxl":  # its plug-in is not installed
                self.files["jxl"].append(path)
            elif _COPY.fullmatch(name):
                self.files["copy"].append(path)
            elif not suffix and _begins_like_a_photo(path):
                self.files["bare"].append(path)

    def lines(self) -> list[str]:
        """What is said about all of it."""
        said = {
            kind: text.format(len(self.files[kind])) + f" (such as {self.files[kind][0]})"
            for kind, text in (_NOT_READ | _SAID).items()
            if kind in self.files
        }
        folders = ", ".join(f"{name} ({count})" for name, count in sorted(self.folders.items()))
        found = [f"folders of other programs that are not searched: {folders}"] if folders else []
        rest = [said[kind] for kind in _NOT_READ if kind in said]
        found += [f"not read: {'; '.join(rest)}"] if rest else []
        found += [said[kind] for kind in _SAID if kind in said]
        return found + [f"`exclude` {pattern} fits no file" for pattern in self.patterns if pattern not in self.used]


def _begins_like_a_photo(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_HEADS) or head[8:] == b"WEBP"
