"""XMP sidecars: the user's fields and keywords stay, ours are replaced, and no photo is written."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from mlclip.cli import _status
from mlclip.config import ExportConfig, InputError
from mlclip.labels.datasets import read_truth
from mlclip.labels.exchange import export_labels
from mlclip.labels.table import Labels, write_labels

NAMES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}
# As darktable and Lightroom write them: other prefixes, attributes, comments, a second description.
FOREIGN = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:ns7="urn:other" xmp:Rating="4">
   <!-- a note -->
   <ns7:history><r:Seq><r:li ns7:op="exposure">1 &lt; 2</r:li></r:Seq></ns7:history>
  </r:Description>
  <r:Description r:about="uuid:1" xmlns:DC="http://purl.org/dc/elements/1.1/">
   <DC:subject><r:Bag><r:li>holiday</r:li><r:li>dog</r:li></r:Bag></DC:subject>
   <DC:title><r:Alt><r:li xml:lang="x-default">A title</r:li></r:Alt></DC:title>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
"""


def table(root: Path, *rows: float, paths=("a.jpg",), classes=("cat", "dog"), **meta) -> Labels:
    """A table, and empty files as its photos."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return Labels(list(paths), list(classes), torch.tensor(rows), root=str(root), meta=meta)


def write(labels: Labels, folder: Path | None, **settings):
    return export_labels(labels, folder or "unused", ExportConfig("xmp", beside_photos=folder is None, **settings))


def keywords(file: Path, field: str = "dc:subject") -> list[str]:
    root = ElementTree.parse(file).getroot()
    return [item.text for item in root.findall(f".//{field}/rdf:Bag/rdf:li", NAMES)]


def test_a_new_sidecar_holds_the_classes_as_keywords(tmp_path):
    written = write(table(tmp_path, [0.9, 0.8]), tmp_path / "out")
    assert (written.photos, written.skipped) == (1, [])
    text = (tmp_path / "out" / "a.jpg.xmp").read_text("utf-8")
    assert text.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>') and text.endswith(
        '<?xpacket end="w"?>\n'
    )
    assert keywords(tmp_path / "out" / "a.jpg.xmp") == ["cat", "dog"]
    assert keywords(tmp_path / "out" / "a.jpg.xmp", "lr:hierarchicalSubject") == []


def test_foreign_fields_prefixes_and_comments_stay(tmp_path):
    (tmp_path / "a.jpg.xmp").write_text(FOREIGN)
    write(table(tmp_path, [0.9, 0.1]), None)
    text = (tmp_path / "a.jpg.xmp").read_text("utf-8")
    assert keywords(tmp_path / "a.jpg.xmp") == ["holiday", "dog", "cat"]
    for line in FOREIGN.splitlines():
        if line.strip() and "DC:subject" not in line and "Description" not in line and "?xml" not in line:
            assert line.strip() in text, line
    root = ElementTree.parse(tmp_path / "a.jpg.xmp").getroot()
    first = root.find(".//rdf:Description", NAMES)
    assert first.get(f"{{{NAMES['xmp']}}}Rating") == "4" and first.get(f"{{{NAMES['rdf']}}}about") == "uuid:1"


def test_our_keywords_are_replaced_and_the_user_s_stay(tmp_path):
    sidecar = tmp_path / "a.jpg.xmp"
    sidecar.write_text(FOREIGN)
    write(table(tmp_path, [0.9, 0.9], classes=("cat", "dog")), None)  # the user has "dog", too
    assert keywords(sidecar) == ["holiday", "dog", "cat"]
    write(table(tmp_path, [0.1, 0.1, 0.9], classes=("cat", "dog", "cow")), None)
    assert keywords(sidecar) == ["holiday", "dog", "cow"]
    before = sidecar.read_bytes()
    write(table(tmp_path, [0.1, 0.1, 0.9], classes=("cat", "dog", "cow")), None)
    assert sidecar.read_bytes() == before
    write(table(tmp_path, [0.1, 0.1, 0.1], classes=("cat", "dog", "cow")), None)
    assert keywords(sidecar) == ["holiday", "dog"] and "mlclip" not in ElementTree.tostring(
        ElementTree.parse(sidecar).getroot()
    ).decode().replace("urn:mlclip", "")


def test_with_a_hierarchy_all_keywords_are_in_the_hierarchical_list(tmp_path):
    parents = {"parents": {"dog": "mammal", "mammal": "animal"}}
    (tmp_path / "a.jpg.xmp").write_text(FOREIGN.replace("<r:li>dog</r:li>", ""))
    write(table(tmp_path, [0.9, 0.9], hierarchy=parents), None)
    field = "lr:hierarchicalSubject"
    assert keywords(tmp_path / "a.jpg.xmp") == ["holiday", "cat", "dog"]
    assert keywords(tmp_path / "a.jpg.xmp", field) == ["holiday", "cat", "animal|mammal|dog"]
    write(table(tmp_path, [0.9, 0.1], hierarchy=parents), None)
    assert keywords(tmp_path / "a.jpg.xmp", field) == ["holiday", "cat"]
    write(table(tmp_path, [0.9, 0.1]), None)
    assert keywords(tmp_path / "a.jpg.xmp", field) == []


@pytest.mark.parametrize(
    "subject",
    [
        '<r:Description xmlns:dc="{dc}" dc:subject="holiday"/>',
        '<r:Description xmlns:dc="{dc}"><dc:subject>holiday</dc:subject></r:Description>',
        '<r:Description><subject xmlns="{dc}"><r:Seq><r:li>holiday</r:li></r:Seq></subject></r:Description>',
        '<r:Description xmlns:dc="urn:other" dc:subject="other"/>',
        "",
    ],
)
def test_other_forms_of_the_property_are_understood(subject, tmp_path):
    text = f'<r:RDF xmlns:r="{NAMES["rdf"]}">{subject.format(dc=NAMES["dc"])}</r:RDF>'
    (tmp_path / "a.jpg.xmp").write_text(text)
    for _ in range(2):
        write(table(tmp_path, [0.9, 0.1]), None)
    found = read_truth(f"xmp:{tmp_path}").classes
    assert found == (["holiday", "cat"] if "holiday" in subject else ["cat"])
    assert "urn:other" not in subject or 'subject="other"' in (tmp_path / "a.jpg.xmp").read_text()


def test_a_sidecar_in_another_folder_starts_from_the_one_beside_the_photo(tmp_path):
    (tmp_path / "a.jpg.xmp").write_text(FOREIGN)
    write(table(tmp_path, [0.9, 0.1]), tmp_path / "out")
    assert (tmp_path / "a.jpg.xmp").read_text() == FOREIGN
    assert "A title" in (tmp_path / "out" / "a.jpg.xmp").read_text()
    with pytest.raises(InputError, match="`beside_photos=True`"):
        write(table(tmp_path, [0.9, 0.1]), tmp_path / "out" / "..")


def test_short_names_are_read_back_with_the_photo_s_suffix_and_may_not_collide(tmp_path):
    write(table(tmp_path, [0.9, 0.1], paths=["x/a.JPG"]), tmp_path / "out", sidecar_name="stem")
    assert (tmp_path / "out" / "x" / "a.xmp").is_file()
    assert read_truth(f"xmp:{tmp_path / 'out'}").paths == ["x/a.JPG"]
    with pytest.raises(InputError, match=r"would share the sidecar a\.xmp"):
        write(
            table(tmp_path, [0.9], [0.9], paths=["a.jpg", "a.png"], classes=["cat"]),
            tmp_path / "out",
            sidecar_name="stem",
        )
    with pytest.raises(InputError, match="which is a photo"):
        write(table(tmp_path, [0.9], paths=["a.xmp"], classes=["cat"]), None, sidecar_name="stem")


def test_a_damaged_sidecar_is_refused_in_a_short_message(tmp_path):
    (tmp_path / "a.jpg.xmp").write_text(f'<?xml version="1.0" encoding="{"U" * 5000}"?><a/>')
    with pytest.raises(InputError, match=r"a\.jpg\.xmp: it is damaged \(unknown encoding: U+\)\.") as error:
        read_truth(f"xmp:{tmp_path}")
    assert len(str(error.value)) < 1000


def test_a_damaged_sidecar_stays_as_it_is_and_is_listed(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg.xmp").write_text("<not xml")
    labels = table(tmp_path / "photos", [0.9], [0.9], [0.9], paths=["a.jpg", "b.jpg", "c.jpg"], classes=["cat"])
    (tmp_path / "photos" / "c.jpg").unlink()
    write_labels(labels, "labels.pt")
    assert _status(["export", "--to", "xmp", "--beside-photos"]) == 3
    err = capfd.readouterr().err
    assert "photos: 1 photos; next" in err and "a.jpg.xmp: is damaged" in err
    assert "c.jpg: the photo does not exist" in err and not (tmp_path / "photos" / "c.jpg.xmp").exists()
    assert (tmp_path / "photos" / "a.jpg.xmp").read_text() == "<not xml"
    assert keywords(tmp_path / "photos" / "b.jpg.xmp") == ["cat"]
