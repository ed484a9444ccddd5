"""Under which licence the weights of a CLIP may be used, as far as its folder or its name tells. No torch."""

from __future__ import annotations

import re
from pathlib import Path

README = "README.md"
LARGEST_HEADER = 64 << 10  # bytes of a README.md that are searched
RESEARCH_ONLY = ("apple-amlr", "apple-ascl", "apple-sample-code-license", "apple-aimv2")
_LICENCE = re.compile(r"^license(?:_name)?:\s*['\"]?([\w.+-]+)", re.MULTILINE)

# Of the tags of open_clip's weights, by how they start; the first that fits counts.
TAG_LICENCES = {
    "openai": "mit",
    "laion": "mit",
    "datacompdr": "apple-amlr",
    "datacomp1b": "apache-2.0",
    "datacomp": "mit",
    "commonpool": "mit",
    "dfndr": "apple-amlr",
    "dfn": "apple-amlr",
    "metaclip": "cc-by-nc-4.0",
    "webli": "apache-2.0",
    "merged2b": "mit",
    "meta": "apache-2.0",
}


def licence_of_folder(folder: Path) -> str:
    """The licence in the header of the README.md of a folder, as on Hugging Face, such as "mit"; "" if it has none."""
    try:
        with open(folder / README, "rb") as file:
            text = file.read(LARGEST_HEADER).decode("utf-8", "replace")
    except OSError:
        return ""
    header = text.split("---")[1] if text.startswith("---") else ""
    found = [name.lower() for name in _LICENCE.findall(header)]
    return next((name for name in found if name != "other"), found[0] if found else "")


def licence_of_tag(tag: str) -> str:
    """The licence of weights by the tag that open_clip gives them; "" if it is not known."""
    return next((licence for start, licence in TAG_LICENCES.items() if tag.lower().startswith(start)), "")


def restriction(licence: str) -> str | None:
    """What a licence forbids, in words; None if it is free or not known.

    >>> restriction("cc-by-nc-4.0")
    'not for commercial use'
    """
    if licence in RESEARCH_ONLY:
        return "for research only"
    return "not for commercial use" if "-nc" in licence else None
