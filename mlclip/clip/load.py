"""Load a CLIP by its name, from a weight file, from a folder, or through open_clip. No code in a file is executed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import InputError
from ..files import refused
from ..progress import SILENT, Progress
from ..spelling import did_you_mean
from .download import download
from .encoders import HEAD_WIDTH, WIDE_HEADS, ModifiedResNet
from .folders import ClipFacts, foreign_setting, read_folder
from .model import CLIP, HeadWidths, build_clip
from .open_clip_model import OWN, load_open_clip
from .pixels import OPENAI, Pixels, parse_pixels
from .registry import (
    FOLDER,
    MODELS,
    TINY,
    TINY_FILE,
    available_models,
    find_name,
    hash_file,
    is_open_clip_name,
    licence_of_folder,
    restriction,
)
from .tokenizer import VOCAB_SIZE
from .weights import read_state_dict

if TYPE_CHECKING:
    from .open_clip_model import OpenClipModel

INSTALL = "Run `pip install open_clip_torch transformers` and pass"
_FOREIGN = {  # names of tensors -> what they are, if not a CLIP in OpenAI's layout
    r"lora_": "a LoRA adapter, not a whole CLIP. Merge it into its model first",
    r"^(text|vision)_model\.": "a Hugging Face file. Pass the folder that it is in, with its config.json and "
    "preprocessor_config.json",
    r"^visual\.(attn_pool\.probe|trunk\.)|^text\.transformer\.embeddings": "a model that only open_clip builds, such as SigLIP or "
    f"PE-Core. {INSTALL} local-dir:DIR of the folder with its open_clip_config.json, or open_clip:NAME/TAG, see `mlclip models`",
}


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
    - a weight file in OpenAI's layout: OpenAI's TorchScript archive, a state dict from `torch.save`, or `.safetensors`. Of
      other files than OpenAI's nobody can see how they were trained: pass `activation` ("quick_gelu" for OpenAI's,
      "gelu" for most of LAION's) and `pixels` (see `parse_pixels`), else OpenAI's are assumed, and `progress` says so;
    - a folder in open_clip's own layout or of Hugging Face's `CLIPModel`. Its json files say all of this. If only open_clip can
      build its model, it is loaded as "local-dir:DIR";
    - "open_clip:NAME/TAG", "hf-hub:OWNER/NAME" or "local-dir:DIR" for any model that the package open_clip can build.

    The model's `.name`, `.sha256`, `.pixels` and `.licence` describe it.
    """
    asked = str(name_or_path)
    pixels = parse_pixels(pixels) if isinstance(pixels, str) else pixels
    is_folder = not is_open_clip_name(asked) and find_name(asked) is None and Path(asked).is_dir()
    if is_folder and (setting := foreign_setting(Path(asked))):
        progress.log(f"open_clip loads {asked}: mlclip's own encoders do not have {setting}")
        asked, is_folder = f"{FOLDER}{asked}", False
    if is_open_clip_name(asked):
        if activation not in (None, OWN):
            raise InputError(f"open_clip knows the activation of {asked}. Remove `clip_activation`.")
        model = load_open_clip(asked, offline=offline)
        model.pixels = pixels or model.pixels
    elif is_folder:
        model = _from_folder(Path(asked), activation, pixels, progress)
    else:
        model = _from_file(asked, activation, pixels, offline, progress)
    if limit := restriction(model.licence):
        what = f"warning: the weights of {asked} are {limit} (licence {model.licence})"
        progress.log(f"{what}; find out whether this also holds for what you make with them")
    return model.to(device)


def _from_file(asked: str, activation: str | None, pixels: Pixels | None, offline: bool, progress: Progress) -> CLIP:
    name = find_name(asked)
    if name in MODELS:
        path, sha256 = download(MODELS[name], progress=progress, offline=offline), MODELS[name].sha256
    else:
        path = TINY_FILE if name == TINY else Path(asked)
        if not path.is_file():
            hint, names = did_you_mean(asked, available_models()), ", ".join(available_models())
            what = f"{path} is neither a file nor a folder nor a known CLIP.{hint} Known names"
            raise InputError(f"{what}: {names}, and open_clip:NAME/TAG; see `mlclip models`.")
        sha256 = hash_file(path)
    name = name or str(path)
    progress.detail(f"reading the weights of CLIP {name} from {path}")
    state = read_state_dict(path)
    openai = sha256 in {entry.sha256 for entry in MODELS.values()} or sha256 == hash_file(TINY_FILE)
    if not openai and not (activation and pixels):
        what = [*([] if activation else ["activation quick_gelu"]), *([] if pixels else ["OpenAI's pixels"])]
        progress.log(
            f"warning: {path} does not say how it was trained: {' and '.join(what)} are assumed. If that is wrong, the labels "
            "are bad. The model's open_clip_config.json tells (quick_gelu, preprocess_cfg): pass the folder with it, or use "
            "`clip_activation=gelu` and `clip_pixels=openai`"
        )
    model = _built(state, ClipFacts("quick_gelu", HeadWidths(), None, {}), activation, pixels, path)
    model.name, model.sha256, model.licence = name, sha256, "mit" if openai else ""
    return model


def _from_folder(folder: Path, activation: str | None, pixels: Pixels | None, progress: Progress) -> CLIP:
    state, facts, sha256 = read_folder(folder)
    for name, said, asked in (("activation", facts.activation, activation), ("pixels", facts.pixels, pixels)):
        if said and asked and str(said) != str(asked):
            progress.log(f"warning: the json in {folder} says {name} {said}; `clip_{name}` is used: {asked}")
    if not (pixels or facts.pixels):
        what = f"warning: {folder} holds no preprocessor_config.json: OpenAI's pixels are assumed"
        progress.log(f"{what}. Download it from the same place, or use `clip_pixels=openai`")
    model = _built(state, facts, activation, pixels, folder)
    model.name, model.sha256, model.licence = str(folder), sha256, licence_of_folder(folder)
    is_resnet = isinstance(model.visual, ModifiedResNet)
    usual = HEAD_WIDTH if is_resnet else WIDE_HEADS.get(model.visual.class_embedding.numel(), HEAD_WIDTH)
    if facts.heads != (usual, HEAD_WIDTH):  # then the same file without the folder gives other embeddings
        model.sha256 = hashlib.sha256(f"{sha256} {tuple(facts.heads)}".encode()).hexdigest()
    return model


def _built(
    state: Mapping[str, Tensor], facts: ClipFacts, activation: str | None, pixels: Pixels | None, path: Path
) -> CLIP:
    """The CLIP of these tensors. InputError if they are of a known other kind, do not fit together, or do not fit the facts."""
    for pattern, what in _FOREIGN.items():
        if any(re.search(pattern, name) for name in state):
            raise InputError(f"{path} holds {what}.")
    with refused(str(path), "", InputError):
        model = build_clip(state, activation or facts.activation, facts.heads)
    found = {"image size": model.input_resolution, "embedding size": model.embed_dim}
    found["text width"] = model.ln_final.weight.numel()
    for name, size in facts.sizes.items():
        if found[name] != size:
            what = f"{path}: the json says {name} {size}, but the tensors have {found[name]}"
            raise InputError(f"{what}: they are of two models. Download both from the same place.")
    if model.vocab_size != VOCAB_SIZE:
        what = f"{path} was trained with a vocabulary of {model.vocab_size} tokens, but CLIP's has {VOCAB_SIZE}"
        raise InputError(f"{what}. Use weights trained with CLIP's tokenizer, or open_clip's version of this model.")
    model.pixels = pixels or facts.pixels or OPENAI
    return model
