"""The properties in an XMP packet: read and changed in place, with everything else kept as it is.

Elements have the names of the file ("dc:subject"), so that the prefixes of the file stay. A property is found by the namespace
that its prefix stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from .xml_file import XmlError

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
LIGHTROOM = "http://ns.adobe.com/lightroom/1.0/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
MLCLIP = "urn:mlclip:1.0/"
META = "adobe:ns:meta/"
PREFIXES = {RDF: "rdf", DC: "dc", LIGHTROOM: "lr", PHOTOSHOP: "photoshop", MLCLIP: "mlclip"}
LISTS = ((RDF, "Bag"), (RDF, "Seq"), (RDF, "Alt"))
Scope = Mapping[str, str]  # prefix -> namespace; "" is the default namespace


class Packet:
    """An XMP packet. `root` is its outermost element, x:xmpmeta or rdf:RDF. XmlError if there is no rdf:RDF in it."""

    def __init__(self, root: Element, *, is_new: bool = False):
        self.root, self.is_new = root, is_new
        outer = _scope(root, {})
        inside = [(root, outer), *((child, _scope(child, outer)) for child in _elements(root))]
        found = next(((each, scope) for each, scope in inside if _name(each, scope) == (RDF, "RDF")), None)
        if found is None:
            raise XmlError("is not an XMP packet")
        self._rdf, scope = found
        parts = [(each, _scope(each, scope)) for each in _elements(self._rdf)]
        self._parts = [(each, inner) for each, inner in parts if _name(each, inner) == (RDF, "Description")]
        if not self._parts:
            tag, declared = _tag(RDF, "Description", scope)
            about, _ = _tag(RDF, "about", {**scope, **declared})
            part = ElementTree.SubElement(self._rdf, tag, {**_attributes(declared), about: ""})
            self._parts = [(part, {**scope, **declared})]

    @classmethod
    def new(cls) -> Packet:
        """An empty packet."""
        root = Element("x:xmpmeta", {"xmlns:x": META, "x:xmptk": "mlclip"})
        rdf = ElementTree.SubElement(root, "rdf:RDF", {"xmlns:rdf": RDF})
        ElementTree.SubElement(rdf, "rdf:Description", {"rdf:about": ""})
        return cls(root, is_new=True)

    def texts(self, space: str, field: str) -> list[str]:
        """The texts of a list property; of a plain text, that text. Empty if the property does not exist."""
        _, element, scope = self._find(space, field)
        items = [] if element is None else [item.text or "" for _, item in _items(element, scope)]
        return [text.strip() for text in items or [self.text(space, field)] if text.strip()]

    def text(self, space: str, field: str) -> str:
        """A plain text property, an attribute or an element; "" if it does not exist."""
        for part, scope in self._parts:
            for name, value in part.attrib.items():
                if _attribute_name(name, scope) == (space, field):
                    return value.strip()
        element = self._find(space, field)[1]
        return (element.text or "").strip() if element is not None else ""

    def set_text(self, space: str, field: str, text: str) -> None:
        """Set a plain text property, unless it exists."""
        if not self.text(space, field):
            self._new(space, field)[0].text = text

    def change(self, space: str, field: str, *, remove: Collection[str], add: Sequence[str]) -> None:
        """Remove and add texts of a list property; a text that is in both stays. The other items are not changed.

        A property whose last item is removed is removed, too. A property that was a plain text becomes a list.
        """
        plain, part, element, scope = self._take_plain(space, field), *self._find(space, field)
        if element is None:
            if not (plain or add):
                return
            element, scope = self._new(space, field)
        ours = [pair for pair in _items(element, scope) if (pair[1].text or "").strip() in set(remove) - set(add)]
        for bag, item in ours:
            bag.remove(item)
        _append(
            element, scope, [text for text in dict.fromkeys([*plain, *add]) if text not in self.texts(space, field)]
        )
        if ours and not list(_items(element, scope)):
            part.remove(element)

    def _take_plain(self, space: str, field: str) -> list[str]:
        """Remove a list property that was written as plain text, and return the text."""
        text = self.text(space, field)
        for part, scope in self._parts:
            for name in [name for name in part.attrib if _attribute_name(name, scope) == (space, field)]:
                del part.attrib[name]
        element = self._find(space, field)[1]
        if element is not None and text:
            element.text = None
        return [text] if text else []

    def _find(self, space: str, field: str) -> tuple[Element, Element | None, Scope]:
        """The description with a property, the property's element, and its scope; the element is None where there is none."""
        for part, scope in self._parts:
            for each in _elements(part):
                inner = _scope(each, scope)
                if _name(each, inner) == (space, field):
                    return part, each, inner
        return self._parts[0][0], None, {}

    def _new(self, space: str, field: str) -> tuple[Element, Scope]:
        part, scope = self._parts[0]
        tag, declared = _tag(space, field, scope)
        return ElementTree.SubElement(part, tag, _attributes(declared)), {**scope, **declared}


def _elements(parent: Element) -> list[Element]:
    """The child elements, without comments and processing instructions."""
    return [child for child in parent if isinstance(child.tag, str)]


def _scope(element: Element, outer: Scope) -> Scope:
    """The namespaces inside an element, by prefix."""
    own = {name[6:]: value for name, value in element.attrib.items() if name == "xmlns" or name.startswith("xmlns:")}
    return {**outer, **own} if own else outer


def _name(element: Element, scope: Scope) -> tuple[str, str]:
    """The namespace and the local name of an element."""
    prefix, _, local = element.tag.rpartition(":")
    return scope.get(prefix, ""), local


def _attribute_name(name: str, scope: Scope) -> tuple[str, str]:
    prefix, colon, local = name.rpartition(":")
    return (scope.get(prefix, ""), local) if colon else ("", name)


def _tag(space: str, local: str, scope: Scope) -> tuple[str, dict[str, str]]:
    """The tag of a new element, with the prefix of the file, and the namespaces that must be declared for it."""
    prefix = next((prefix for prefix, value in scope.items() if value == space and prefix), None)
    if prefix is not None:
        return f"{prefix}:{local}", {}
    return f"{PREFIXES[space]}:{local}", {PREFIXES[space]: space}


def _attributes(declared: Mapping[str, str]) -> dict[str, str]:
    return {f"xmlns:{prefix}": space for prefix, space in declared.items()}


def _items(element: Element, scope: Scope) -> Iterator[tuple[Element, Element]]:
    """(list, item) of each item in a property's rdf:Bag, rdf:Seq or rdf:Alt."""
    for each in _elements(element):
        inner = _scope(each, scope)
        if _name(each, inner) in LISTS:
            yield from ((each, item) for item in _elements(each) if _name(item, _scope(item, inner)) == (RDF, "li"))


def _append(element: Element, scope: Scope, texts: Sequence[str]) -> None:
    """Add items to a property's list, which is made where there is none."""
    lists = [(each, _scope(each, scope)) for each in _elements(element)]
    bag, inner = next(((each, s) for each, s in lists if _name(each, s) in LISTS), (None, scope))
    if bag is None and texts:
        tag, declared = _tag(RDF, "Bag", scope)
        bag, inner = ElementTree.SubElement(element, tag, _attributes(declared)), {**scope, **declared}
    for text in texts:
        tag, declared = _tag(RDF, "li", inner)
        ElementTree.SubElement(bag, tag, _attributes(declared)).text = text
