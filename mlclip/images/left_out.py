"""What a search for photos leaves out, and what is said about it: folders of other programs, and files that look like photos."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

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
        self.patterns = {pattern: os.path.abspath(pattern) for pattern in (each.rstrip("/") for each in exclude)}
        self.used: set[str] = set()  # patterns
        self.folders: Counter[str] = Counter()
        self.files: Counter[str] = Counter()
        self.first: dict[str, str] = {}  # kind -> the first path

    def add(self, kind: str, path: str, count: int = 1) -> None:
        self.files[kind] += count
        self.first.setdefault(kind, path)

    def excludes(self, path: str, top: str) -> bool:
        """Whether a pattern fits a path below `top`, or a folder in it; it is then counted."""
        parts = os.path.relpath(path, top).split(os.sep) if self.patterns else []
        for end in range(1, len(parts) + 1):
            here = "/".join(parts[:end])
            for pattern, absolute in self.patterns.items():
                inside = here if "/" in pattern else parts[end - 1]
                if fnmatchcase(inside, pattern) or fnmatchcase(os.path.join(top, here), absolute):
                    self.used.add(pattern)
                    self.add("excluded", path)
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
                self.add("raw", path)
            elif suffix == ".jxl":  # its plug-in is not installed
                self.add("jxl", path)
            elif _COPY.fullmatch(name):
                self.add("copy", path)
            elif not suffix and _begins_like_a_photo(path):
                self.add("bare", path)

    def lines(self) -> list[str]:
        """What is said about all of it."""
        examples = {kind: f" (such as {path})" for kind, path in self.first.items()}
        folders = ", ".join(f"{name} ({count})" for name, count in sorted(self.folders.items()))
        found = [f"folders of other programs that are not searched: {folders}"] if folders else []
        rest = [text.format(self.files[kind]) + examples[kind] for kind, text in _NOT_READ.items() if kind in examples]
        found += [f"not read: {'; '.join(rest)}"] if rest else []
        found += [text.format(self.files[kind]) + examples[kind] for kind, text in _SAID.items() if kind in examples]
        return found + [f"`exclude` {pattern} fits no file" for pattern in self.patterns if pattern not in self.used]


def _begins_like_a_photo(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_HEADS) or head[8:] == b"WEBP"
