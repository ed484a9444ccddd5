"""Load a CLIP by its name, from a weight file, from a folder, or through open_clip. No code in a file is executed."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..config import InputError
from ..progress import SILENT, Progress
from ..spelling import did_you_mean
from .facts import ClipFacts, check_sizes, has_usual_heads
from .fetch import download, hash_file
from .folders import read_folder, refuse_foreign_tensors
from .licences import licence_of_folder, restriction
from .model import CLIP, HeadWidths, build_clip
from .open_clip_model import OWN, is_open_clip_name, load_open_clip
from .perception import PE_PIXELS
from .pixels import OPENAI, Pixels, parse_pixels
from .registry import MODELS, TINY, TINY_FILE, available_models, find_name
from .tokenizer import VOCAB_SIZE
from .weights import GET_AGAIN, read_state_dict

if TYPE_CHECKING:
    from .open_clip_model import OpenClipModel

OPENAI_HASHES = {entry.sha256 for entry in MODELS.values()}


def load_clip(
    name_or_path: str | Path,
    *,
    activation: str | None = None,
    pixels: Pixels | str | None = None,
    device: torch.device | str = "cpu",
    offline: bool = False,
    progress: Progress = SILENT,
) -> CLIP | OpenClipModel:
    """Load a CLIP in float32 and eval mode on `device`.

    `name_or_path` is one of these:
    - a name from `available_models()`, in upper or lower case, with "-" for "/". Its file is downloaded once, unless
      `offline=True`;
    - a weight file in OpenAI's layout: OpenAI's TorchScript archive, a state dict from `torch.save`, or `.safetensors`. PE-Core's
      files are recognised. Of other files nobody can see how they were trained: pass `activation` ("quick_gelu" for OpenAI's,
      "gelu" for most of LAION's) and `pixels` (see `parse_pixels`), else OpenAI's are assumed, and `progress` says so;
    - a folder in open_clip's own layout or of Hugging Face's `CLIPModel`. Its json files say all of this;
    - "open_clip:NAME/TAG", "hf-hub:OWNER/NAME" or "local-dir:DIR" for any model that the package open_clip can build.

    The model's `.name`, `.sha256`, `.pixels` and `.licence` describe it. Raises InputError for an unknown name, and for a file or
    folder that is damaged, is not a CLIP, or holds NaN or infinite numbers.
    """
    asked = str(name_or_path)
    given = parse_pixels(pixels) if isinstance(pixels, str) else pixels
    if is_open_clip_name(asked):
        if activation not in (None, OWN):
            raise InputError(f"open_clip knows the activation of {asked}. Remove `clip_activation`.")
        model = load_open_clip(asked, offline=offline)
        model.pixels = given or model.pixels
    elif find_name(asked) is None and Path(asked).is_dir():
        model = _from_folder(Path(asked), activation, given, progress)
    else:
        model = _from_file(asked, activation, given, offline, progress)
    if limit := restriction(model.licence):
        progress.log(
            f"warning: the weights of {asked} are {limit} (licence {model.licence}); find out whether this also holds for what you "
            "make with them"
        )
    return model.to(device)


def _from_file(asked: str, activation: str | None, pixels: Pixels | None, offline: bool, progress: Progress) -> CLIP:
    path, name, sha256 = _locate(asked, offline, progress)
    progress.detail(f"reading the weights of CLIP {name} from {path}")
    state = read_state_dict(path)
    refuse_foreign_tensors(state, path)
    openai = sha256 in OPENAI_HASHES or sha256 == _tiny_hash()
    perception = "visual.attn_pool.probe" in state
    if perception and activation not in (None, "gelu"):
        raise InputError(f"{path} is a PE-Core, which has the activation gelu. Remove `clip_activation`.")
    assumed = ClipFacts("gelu" if perception else "quick_gelu", HeadWidths(), PE_PIXELS if perception else OPENAI)
    if not openai and not perception and not (activation and pixels):
        what = [*([] if activation else [f"activation {assumed.activation}"]), *([] if pixels else ["OpenAI's pixels"])]
        progress.log(
            f"warning: {path} does not say how it was trained: {' and '.join(what)} are assumed. If that is wrong, the labels "
            "are bad. The model's open_clip_config.json tells (quick_gelu, preprocess_cfg): pass the folder with it, or "
            "`clip_activation` and `clip_pixels`"
        )
    facts = ClipFacts(activation or assumed.activation, assumed.heads, pixels or assumed.pixels)
    model = _built(state, facts, path)
    model.name, model.sha256 = name, sha256
    model.licence = "mit" if openai else "apache-2.0" if perception else ""
    return model


def _from_folder(folder: Path, activation: str | None, pixels: Pixels | None, progress: Progress) -> CLIP:
    state, facts, sha256 = read_folder(folder)
    refuse_foreign_tensors(state, folder)
    if activation and activation != facts.activation:
        progress.log(
            f"warning: the json in {folder} says {facts.activation}; {activation} is used, as `clip_activation` says"
        )
    if pixels and facts.pixels and not pixels.same_as(facts.pixels):
        progress.log(f"warning: the json in {folder} says pixels of {facts.pixels}; those of `clip_pixels` are used")
    if not (pixels or facts.pixels):
        progress.log(
            f"warning: {folder} holds no preprocessor_config.json: OpenAI's pixels are assumed. Download it from the same place, "
            "or pass `clip_pixels`"
        )
    chosen = ClipFacts(activation or facts.activation, facts.heads, pixels or facts.pixels or OPENAI, facts.sizes)
    model = _built(state, chosen, folder)
    model.name, model.sha256, model.licence = str(folder), sha256, licence_of_folder(folder)
    if not has_usual_heads(model):  # then these tensors give other embeddings than the same file without the folder
        model.sha256 = hashlib.sha256(f"{sha256} {tuple(facts.heads)}".encode()).hexdigest()
    return model


def _built(state: dict, facts: ClipFacts, path: Path) -> CLIP:
    try:
        model = build_clip(state, facts.activation, facts.heads)
        check_sizes(model, facts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_model(model, path)
    model.pixels = facts.pixels
    return model


def _locate(asked: str, offline: bool, progress: Progress) -> tuple[Path, str, str]:
    """Path, name and sha256 of the weight file. The file is hashed only once."""
    name = find_name(asked)
    if name in MODELS:
        return download(MODELS[name], progress=progress, offline=offline), name, MODELS[name].sha256
    path = TINY_FILE if name == TINY else Path(asked)
    if name == TINY and not path.is_file():
        raise InputError(f"{path} is missing, so the CLIP `tiny` cannot be loaded. Install mlclip again.")
    if not path.is_file():
        hint = did_you_mean(asked, available_models())
        raise InputError(
            f"{asked} is neither a file nor a folder nor a known CLIP.{hint} Known names: {', '.join(available_models())}, and "
            "open_clip:NAME/TAG; see `mlclip models`."
        )
    try:
        return path, name or str(path), hash_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error


@lru_cache
def _tiny_hash() -> str:
    return hash_file(TINY_FILE) if TINY_FILE.is_file() else ""


def _check_model(model: CLIP, path: Path) -> None:
    if model.vocab_size != VOCAB_SIZE:
        raise InputError(
            f"{path} was trained with a vocabulary of {model.vocab_size} tokens, but CLIP's has {VOCAB_SIZE}. "
            "Use weights trained with CLIP's tokenizer, or open_clip's version of this model."
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} holds NaN or infinite numbers in {name}. {GET_AGAIN}")
