"""XML files: read without entities, with bounded size and depth, and without a change of prefixes; written completely or not at all.

An element keeps the names of the file, such as "dc:subject", and its `xmlns` attributes. So a file that is read and written
again has the same namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.parsers import expat

from ...config import InputError
from ...files import atomic

LARGEST_XML = 100 << 20  # bytes; a tree of elements takes about ten times as much memory
DEEPEST_XML = 100  # nested elements
# Characters that XML 1.0 cannot contain, even escaped. Surrogates are file names that are not valid text.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class XmlError(Exception):
    """Text is not XML that mlclip reads. The message is the reason, without the file name."""


def parse_xml(data: bytes) -> Element:
    """The root element. Comments and processing instructions inside it are kept. Raises XmlError with the reason."""
    builder = ElementTree.TreeBuilder(insert_comments=True, insert_pis=True)
    parser, depth = expat.ParserCreate(), 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST_XML:
            raise XmlError("nested too deeply")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: Any) -> None:
        raise XmlError("has a document type")

    def inside(add: Any) -> Any:
        return lambda *parts: add(*parts) if depth else None

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.CommentHandler, parser.ProcessingInstructionHandler = inside(builder.comment), inside(builder.pi)
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the last two: an unknown encoding
        raise XmlError(f"is damaged ({str(error)[:80]})") from error
    return builder.close()


def xml_text(root: Element, what: str | Path) -> str:
    """The element as text, without a declaration. InputError naming `what` if a name or text cannot be stored in XML."""
    for element in root.iter():
        check_texts([element.text or "", element.tail or "", *element.attrib.values()], what)
    return ElementTree.tostring(root, encoding="unicode")


def check_texts(texts: Iterable[str], what: str | Path) -> None:
    """InputError naming `what` if a text has characters that XML does not have."""
    bad = next((text for text in texts if _IMPOSSIBLE.search(text)), None)
    if bad:
        raise InputError(f"{what} cannot store {bad[:60]!r}: XML has no such characters. Rename it.")


def save_xml(root: Element, path: Path) -> None:
    """Write an indented XML file in UTF-8, without a declaration: Label Studio refuses one with an encoding."""
    ElementTree.indent(root)
    text = xml_text(root, path)
    with atomic(path) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8", newline="\n")


def add(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    """A new child element with a text."""
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child
