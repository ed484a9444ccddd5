"""XMP sidecars: keywords of photos for photo managers (`dc:subject`, `lr:hierarchicalSubject`). No photo is written.

A sidecar that exists keeps everything else that is in it. The keywords that come from mlclip are listed in `mlclip:labels` and
`mlclip:hierarchy`, so that the next export replaces them and keeps those of the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from ...config import InputError
from ...files import atomic
from ...images import SUFFIXES
from ..class_tree import ClassTree, ancestors
from ..datasets.source import photo_path, read_data, table_of
from ..table import Labels
from .chosen import checked_paths, chosen
from .xml_file import XmlError, check_texts, parse_xml, xml_text
from .xmp_packet import DC, LIGHTROOM, MLCLIP, PHOTOSHOP, Packet

LARGEST_SIDECAR = 32 << 20  # bytes
BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
END = '\n<?xpacket end="w"?>\n'
SEPARATOR = "|"  # of Lightroom's hierarchical keywords
Skipped = list[tuple[str, str]]


def write_xmp(labels: Labels, folder: Path | None, sidecar_name: str) -> tuple[int, Skipped]:
    """Write a sidecar for every photo in `folder`, at the photo's path there; None writes beside the photos.

    `sidecar_name` is "full" (photo.jpg.xmp) or "stem" (photo.xmp). A class that reaches its threshold becomes a keyword. A
    sidecar that exists in the folder, or else beside the photo, is the start of the new one. Returns the number of sidecars,
    and (path, reason) of those that cannot be read, which stay as they are. InputError if the folder holds the photos, or if two
    photos would share a sidecar.
    """
    root, parents = Path(os.path.abspath(labels.root)), ClassTree.of(labels.meta).parents
    keywords = {name: SEPARATOR.join([*reversed(ancestors(name, parents)), name]) for name in labels.classes}
    check_texts(keywords.values(), "XMP")
    if folder is not None and os.path.realpath(folder) == os.path.realpath(root):
        raise InputError(f"{folder} is the folder of the photos. Pass `beside_photos=True` to write there.")
    names = _sidecars(checked_paths(labels), sidecar_name)
    written, skipped = 0, []
    for path, marks in chosen(labels):
        beside = root / names[path]
        target = beside if folder is None else folder / names[path]
        try:
            packet = _start(target if target.is_file() else beside)
            _update(packet, {name: keywords[name] for name in marks}, nested=bool(parents))
        except (XmlError, InputError) as error:
            skipped.append((names[path], str(error)))
            continue
        if sidecar_name == "stem" and os.path.splitext(path)[1]:
            packet.set_text(PHOTOSHOP, "SidecarForExtension", os.path.splitext(path)[1][1:])
        _save(packet, target)
        written += 1
    return written, skipped


def _sidecars(paths: list[str], sidecar_name: str) -> dict[str, str]:
    """The path of the sidecar of each photo."""
    names = {path: (path if sidecar_name == "full" else os.path.splitext(path)[0]) + ".xmp" for path in paths}
    photo_of: dict[str, str] = {}
    for path, name in names.items():
        if name in photo_of:
            raise InputError(f'{photo_of[name]} and {path} would share the sidecar {name}. Use `sidecar_name="full"`.')
        if name in names:
            raise InputError(f'the sidecar of {path} would be {name}, which is a photo. Use `sidecar_name="full"`.')
        photo_of[name] = path
    return names


def _start(sidecar: Path) -> Packet:
    """The packet of a sidecar; a new one where there is none."""
    return Packet(parse_xml(read_data(sidecar, LARGEST_SIDECAR))) if os.path.lexists(sidecar) else Packet.new()


def _update(packet: Packet, keywords: Mapping[str, str], *, nested: bool) -> None:
    """Replace the keywords of the last export by `keywords`: plain -> with its parents. `nested`: the classes have parents.

    Programs that find hierarchical keywords do not read the plain ones. So with a hierarchy, all keywords are in both lists.
    """
    own = _replace(packet, DC, "subject", "labels", list(keywords))
    earlier = packet.texts(MLCLIP, "hierarchy")
    if any(text not in earlier for text in packet.texts(LIGHTROOM, "hierarchicalSubject")):
        wanted = list(keywords.values())  # the user has a list of these
    else:
        wanted = own + list(keywords.values()) if nested else []
    _replace(packet, LIGHTROOM, "hierarchicalSubject", "hierarchy", wanted)


def _replace(packet: Packet, space: str, field: str, ours: str, names: list[str]) -> list[str]:
    """Replace the texts of a list that are recorded in the list `ours`, and record the new ones. Returns the user's texts."""
    earlier = packet.texts(MLCLIP, ours)
    kept = [text for text in packet.texts(space, field) if text not in earlier]
    packet.change(space, field, remove=earlier, add=names)
    packet.change(MLCLIP, ours, remove=earlier, add=[name for name in names if name not in kept])
    return kept


def _save(packet: Packet, target: Path) -> None:
    if packet.is_new:
        ElementTree.indent(packet.root)
    text = xml_text(packet.root, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write in {target.parent}: {error.strerror}. Choose another folder.") from error
    with atomic(target) as temporary:
        temporary.write_text(BEGIN + text + END, encoding="utf-8", newline="\n")


def read_xmp(folder: str | Path, *, truth: bool = False) -> Labels:
    """The keywords (`dc:subject`) of all sidecars in a folder and its subfolders: 1 for the keywords of a photo, else 0.

    Sidecars hold no scores, so `truth` changes nothing. The path of a photo is that of its sidecar without .xmp; for photo.xmp,
    the suffix is that of the photo beside it or of the sidecar's `photoshop:SidecarForExtension`. InputError if the folder has no
    sidecars, if no sidecar has a keyword, or if one cannot be read.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not a folder. Give the folder of the sidecars.")
    rows: dict[str, dict[str, float]] = {}
    size = 0
    for sidecar in _files(folder):
        try:
            data = read_data(folder / sidecar, LARGEST_SIDECAR)
            packet = Packet(parse_xml(data))
        except XmlError as error:
            raise InputError(f"{folder / sidecar}: it {error}. Remove the sidecar or write it again.") from error
        size += len(data)
        path = _photo_of(folder, sidecar, packet)
        if path in rows:
            raise InputError(f"{folder} has two sidecars of {path}. Remove one.")
        rows[path] = dict.fromkeys(filter(None, packet.texts(DC, "subject")), 1.0)
    return table_of(
        rows, dict.fromkeys(name for marks in rows.values() for name in marks), folder, size=size, root=folder
    )


def _files(folder: Path) -> Iterator[str]:
    """Paths of the sidecars relative to the folder, sorted. Links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(".xmp") and not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")


def _photo_of(folder: Path, sidecar: str, packet: Packet) -> str:
    """The path of the photo of a sidecar."""
    stem = sidecar[: -len(".xmp")]
    if stem.lower().endswith(SUFFIXES):
        return stem
    place, name = os.path.split(stem)
    photos = _beside(folder / place, name)
    suffix = packet.text(PHOTOSHOP, "SidecarForExtension")
    ending = photos[0][len(name) :] if len(photos) == 1 else f".{suffix}" if suffix else ""
    return photo_path(stem + ending)


def _beside(folder: Path, name: str) -> list[str]:
    """The names of photos in the folder that are `name` without their suffix."""
    names: Iterable[str] = os.listdir(folder)
    return [each for each in names if os.path.splitext(each)[0] == name and each.lower().endswith(SUFFIXES)]
