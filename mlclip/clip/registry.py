"""The teachers that have a name: OpenAI's nine weight files, the families that are loaded in other ways, and their licences.

No torch, no network: `download.py` gets the files.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..files import cache_folder, refused

TINY = "tiny"  # a toy model that is part of the package, for trying mlclip
TINY_FILE = Path(__file__).with_name("tiny.pt")
BUILT_IN, HUB, FOLDER = "open_clip:", "hf-hub:", "local-dir:"  # how the names start that open_clip loads
PART_SUFFIX = ".part"  # of an unfinished download
OPENAI_URL = "https://openaipublic.azureedge.net/clip/models"
VOC07_SOURCE = "LAION's CLIP_benchmark, benchmark/benchmark.csv, voc2007_multilabel"


@dataclass(frozen=True)
class Entry:
    """One published weight file."""

    name: str
    url: str
    sha256: str
    approx_mb: int  # approximate size in 10⁶ bytes, only for display
    resolution: int  # side in pixels of the square training images
    voc07: str = ""  # mAP in percent of raw cosines, from VOC07_SOURCE

    @property
    def path(self) -> Path:
        """The path of the file in the cache. The file may not exist."""
        return cache_folder() / self.url.rsplit("/", 1)[-1]


MODELS: dict[str, Entry] = {
    name: Entry(name, f"{OPENAI_URL}/{sha256}/{name.replace('/', '-').replace('@', '-')}.pt", sha256, *rest)
    for name, sha256, *rest in (
        ("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", 256, 224),
        ("RN101", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", 292, 224),
        ("RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", 422, 288),
        ("RN50x16", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", 661, 384),
        ("RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", 1354, 448),
        ("ViT-B/32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 354, 224, "76.0"),
        ("ViT-B/16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 351, 224, "78.9"),
        ("ViT-L/14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 933, 224, "79.0"),
        ("ViT-L/14@336px", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 934, 336, "80.4"),
    )
}


def available_models() -> list[str]:
    """The names that `load_clip` knows: the toy model `tiny`, then OpenAI's nine models."""
    return [TINY, *MODELS]


def find_name(name: str) -> str | None:
    """The registered spelling of a name in upper or lower case, with "-" for "/" ("vit-b-32" -> "ViT-B/32"), or None."""
    keys = {known.lower().replace("/", "-").replace("@", "-"): known for known in available_models()}
    return keys.get(name.lower().replace("/", "-").replace("@", "-"))


def is_open_clip_name(name: str) -> bool:
    """Whether a name asks for open_clip: "open_clip:NAME/TAG", "hf-hub:OWNER/NAME" or "local-dir:DIR"."""
    return name.startswith((BUILT_IN, HUB, FOLDER))


def hash_file(path: Path) -> str:
    """The sha256 of a file as 64 hexadecimal digits. InputError if it cannot be read."""
    digest = hashlib.sha256()
    with refused(f"cannot read {path}", "Check its permissions.", OSError), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedWeights:
    """A downloaded weight file in the cache, or the part of one that an interrupted download left."""

    name: str
    path: Path
    size: int  # bytes
    complete: bool


def cached_weights() -> list[CachedWeights]:
    """The downloaded weight files in the cache, in the order of `available_models()`. Their content is not checked."""
    found = []
    for entry in MODELS.values():
        for suffix in ("", PART_SUFFIX):
            path = entry.path.with_name(entry.path.name + suffix)
            if path.is_file():
                found.append(CachedWeights(entry.name, path, path.stat().st_size, complete=not suffix))
    return found


# Other families


@dataclass(frozen=True)
class Family:
    """Weights of one kind: `clip` is what the option --clip takes, `repositories` are how their names start on Hugging Face."""

    name: str
    clip: str
    licence: str
    repositories: tuple[str, ...] = ()


METACLIP2 = "timm/vit_huge_patch14_clip_224.metaclip2"
FAMILIES = (
    Family("LAION-2B", "DIR", "mit", ("laion/CLIP-ViT-",)),
    Family("LAION-400M", "DIR", "mit", ("timm/vit_base_patch32_clip_224.laion400m",)),
    Family("DataComp, CommonPool", "DIR", "mit", ("laion/CLIP-ViT-B-32-DataComp", "laion/CLIP-ViT-L-14-DataComp")),
    Family("DFN", "DIR", "apple-amlr", ("apple/DFN",)),
    Family("MetaCLIP 1", "DIR", "cc-by-nc-4.0", ("facebook/metaclip-",)),
    Family("Hugging Face's CLIPModel", "DIR", "its README.md", ("openai/clip-",)),
    Family("PE-Core", "open_clip:PE-Core-B-16/meta", "apache-2.0", ("timm/PE-Core", "facebook/PE-Core")),
    Family("SigLIP, SigLIP 2", "open_clip:ViT-B-16-SigLIP2/webli", "apache-2.0", ("timm/ViT-",)),
    Family("MetaCLIP 2", "open_clip:ViT-H-14-worldwide/metaclip2_worldwide", "cc-by-nc-4.0", (METACLIP2,)),
    Family("EVA-02", "open_clip:EVA02-L-14/merged2b_s4b_b131k", "mit", ("timm/eva02_",)),
    Family(
        "MobileCLIP 1, 2", "open_clip:MobileCLIP2-S2/dfndr2b", "apple-amlr", ("timm/MobileCLIP", "apple/MobileCLIP")
    ),
)


def in_hub_cache(family: Family) -> list[str]:
    """The repositories of a family in Hugging Face's cache, such as "timm/ViT-B-16-SigLIP2". Their content is not checked."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()
    names = (file.name.removeprefix("models--").replace("--", "/", 1) for file in folder.glob("models--*"))
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
