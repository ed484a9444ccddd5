"""The families of teachers that mlclip can load, for `mlclip models`. No torch, no network."""

from __future__ import annotations

import os
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
    Family("PE-Core", "T S B L G", "FILE (PE-Core-*.pt)", "apache-2.0", "", ("facebook/PE-Core",)),
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
