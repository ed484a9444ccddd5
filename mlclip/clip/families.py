"""The families of teachers that mlclip can load, and under which licence weights may be used. No torch, no network."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

VOC07_SOURCE = "LAION's CLIP_benchmark, benchmark/benchmark.csv, voc2007_multilabel"
VOC07_OPENAI = {
    "ViT-B/32": 76.0,
    "ViT-B/16": 78.9,
    "ViT-L/14": 79.0,
    "ViT-L/14@336px": 80.4,
}  # mAP in percent, from there


@dataclass(frozen=True)
class Family:
    """Weights of one kind: `clip` is what the option --clip takes, `repositories` are how their names start on Hugging Face."""

    name: str
    sizes: str
    clip: str
    licence: str
    voc07: str = ""  # mAP in percent of raw cosines, from VOC07_SOURCE
    repositories: tuple[str, ...] = ()


FAMILIES = (
    Family("LAION-2B", "B/32 B/16 L/14 H/14 g/14 bigG/14", "DIR", "mit", "B/32 79.6, L/14 82.0, H/14 80.1, g/14 80.7",
           ("laion/CLIP-ViT-",)),
    Family("LAION-400M", "B/32 B/16 L/14", "DIR", "mit", "B/32 76.2, B/16 78.4, L/14 78.5", ("timm/vit_base_patch32_clip_224.laion400m",)),
    Family("DataComp, CommonPool", "B/32 B/16 L/14", "DIR", "mit", "", ("laion/CLIP-ViT-B-32-DataComp", "laion/CLIP-ViT-L-14-DataComp")),
    Family("DFN", "B/16 L/14 H/14", "DIR", "apple-amlr", "", ("apple/DFN",)),
    Family("MetaCLIP 1", "B/32 B/16 L/14 H/14 bigG/14", "DIR", "cc-by-nc-4.0", "", ("facebook/metaclip-",)),
    Family("Hugging Face's CLIPModel", "any with OpenAI's tokenizer", "DIR", "its README.md", "", ("openai/clip-",)),
    Family("PE-Core", "T S B L G", "open_clip:PE-Core-B-16/meta", "apache-2.0", "", ("timm/PE-Core", "facebook/PE-Core")),
    Family("SigLIP, SigLIP 2", "B L SO400M gopt", "open_clip:ViT-B-16-SigLIP2/webli", "apache-2.0", "", ("timm/ViT-",)),
    Family("MetaCLIP 2", "H/14 bigG/14", "open_clip:ViT-H-14-worldwide/metaclip2_worldwide", "cc-by-nc-4.0", "",
           ("timm/vit_huge_patch14_clip_224.metaclip2",)),
    Family("EVA-02", "B/16 L/14 E/14", "open_clip:EVA02-L-14/merged2b_s4b_b131k", "mit", "", ("timm/eva02_",)),
    Family("MobileCLIP 1, 2", "S0 to S4, B, L/14", "open_clip:MobileCLIP2-S2/dfndr2b", "apple-amlr", "",
           ("timm/MobileCLIP", "apple/MobileCLIP")),
)  # fmt: skip


def hub_folder() -> Path:
    """The folder of Hugging Face's cache; it may not exist."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def in_hub_cache(family: Family) -> list[str]:
    """The repositories of a family in Hugging Face's cache, such as "timm/ViT-B-16-SigLIP2". Their content is not checked."""
    folder = hub_folder()
    if not folder.is_dir():
        return []
    names = (
        name.removeprefix("models--").replace("--", "/", 1)
        for name in os.listdir(folder)
        if name.startswith("models--")
    )
    return sorted(name for name in names if name.startswith(family.repositories))


# Licences

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
