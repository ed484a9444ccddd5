"""The published CLIP weights that have a name, and the paths of their files in the cache. No torch, no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import InputError
from ..files import cache_folder
from ..spelling import did_you_mean

TINY = "tiny"  # a toy model that is part of the package, for trying mlclip
TINY_FILE = Path(__file__).with_name("tiny.pt")
PART_SUFFIX = ".part"  # of an unfinished download


@dataclass(frozen=True)
class Entry:
    """One published weight file."""

    name: str
    url: str
    sha256: str
    approx_mb: int  # approximate size in 10⁶ bytes, only for display
    resolution: int  # side in pixels of the square training images

    @property
    def path(self) -> Path:
        """The path of the file in the cache. The file may not exist."""
        return cache_folder() / self.url.rsplit("/", 1)[-1]


def _openai(name: str, sha256: str, approx_mb: int, resolution: int) -> Entry:
    file = name.replace("/", "-").replace("@", "-") + ".pt"
    return Entry(name, f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}", sha256, approx_mb, resolution)


_ENTRIES = (
    _openai("RN50", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", 256, 224),
    _openai("RN101", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", 292, 224),
    _openai("RN50x4", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", 422, 288),
    _openai("RN50x16", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", 661, 384),
    _openai("RN50x64", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", 1354, 448),
    _openai("ViT-B/32", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 354, 224),
    _openai("ViT-B/16", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 351, 224),
    _openai("ViT-L/14", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 933, 224),
    _openai("ViT-L/14@336px", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 934, 336),
)
MODELS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def available_models() -> list[str]:
    """The names that `load_clip` knows: the toy model `tiny`, then OpenAI's nine models."""
    return [TINY, *MODELS]


def _key(name: str) -> str:
    return name.lower().replace("/", "-").replace("@", "-")


def find_name(name: str) -> str | None:
    """The registered spelling of a name in upper or lower case, with "-" for "/" ("vit-b-32" -> "ViT-B/32"), or None."""
    return next((known for known in available_models() if _key(known) == _key(name)), None)


def model_path(name: str) -> Path:
    """The path of the weight file of a registered name; the file may not exist. InputError for any other name."""
    known = find_name(name)
    if known is None:
        hint = did_you_mean(name, available_models())
        raise InputError(f"{name} is not a known CLIP.{hint} Choose one of {', '.join(available_models())}.")
    return TINY_FILE if known == TINY else MODELS[known].path


def is_cached(name: str) -> bool:
    """Whether the weight file of a registered name exists. Its content is not checked."""
    return model_path(name).is_file()


@dataclass(frozen=True)
class CachedWeights:
    """A downloaded weight file in the cache, or the part of one that an interrupted download left."""

    name: str
    path: Path
    size: int  # bytes
    complete: bool


def cached_weights() -> list[CachedWeights]:
    """The downloaded weight files in the cache, in the order of `available_models()`. Their content is not checked.

    The toy model `tiny` is not in the cache: it is part of the package.
    """
    files = [(entry, suffix) for entry in MODELS.values() for suffix in ("", PART_SUFFIX)]
    paths = [(entry.name, entry.path.with_name(entry.path.name + suffix), not suffix) for entry, suffix in files]
    return [CachedWeights(name, path, path.stat().st_size, whole) for name, path, whole in paths if path.is_file()]
