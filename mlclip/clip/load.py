"""Load a CLIP by its name, from a weight file, from a folder, or through open_clip. No code in a file is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import InputError
from ..progress import SILENT, Progress
from ..spelling import did_you_mean
from .encoders import HEAD_WIDTH, WIDE_HEADS, ModifiedResNet
from .families import licence_of_folder, restriction
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
    download,
    find_name,
    hash_file,
    is_open_clip_name,
)
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
    - a weight file in OpenAI's layout: OpenAI's TorchScript archive, a state dict from `torch.save`, or `.safetensors`. Of
      other files than OpenAI's nobody can see how they were trained: pass `activation` ("quick_gelu" for OpenAI's,
      "gelu" for most of LAION's) and `pixels` (see `parse_pixels`), else OpenAI's are assumed, and `progress` says so;
    - a folder in open_clip's own layout or of Hugging Face's `CLIPModel`. Its json files say all of this. If only open_clip can
      build its model, it is loaded as "local-dir:DIR";
    - "open_clip:NAME/TAG", "hf-hub:OWNER/NAME" or "local-dir:DIR" for any model that the package open_clip can build.

    The model's `.name`, `.sha256`, `.pixels` and `.licence` describe it. Raises InputError for an unknown name, and for a file or
    folder that is damaged, is not a CLIP, or holds NaN or infinite numbers.
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
        progress.log(
            f"warning: the weights of {asked} are {limit} (licence {model.licence}); find out whether this also holds for what you "
            "make with them"
        )
    return model.to(device)


def _from_file(asked: str, activation: str | None, pixels: Pixels | None, offline: bool, progress: Progress) -> CLIP:
    path, name, sha256 = _locate(asked, offline, progress)
    progress.detail(f"reading the weights of CLIP {name} from {path}")
    state = read_state_dict(path)
    _refuse_foreign_tensors(state, path)
    openai = sha256 in OPENAI_HASHES or (TINY_FILE.is_file() and sha256 == hash_file(TINY_FILE))
    if not openai and not (activation and pixels):
        what = [*([] if activation else ["activation quick_gelu"]), *([] if pixels else ["OpenAI's pixels"])]
        progress.log(
            f"warning: {path} does not say how it was trained: {' and '.join(what)} are assumed. If that is wrong, the labels "
            "are bad. The model's open_clip_config.json tells (quick_gelu, preprocess_cfg): pass the folder with it, or set "
            "`clip_activation=gelu` and `clip_pixels=openai`"
        )
    model = _built(state, ClipFacts(activation or "quick_gelu", HeadWidths(), pixels or OPENAI, {}), path)
    model.name, model.sha256, model.licence = name, sha256, "mit" if openai else ""
    return model


def _from_folder(folder: Path, activation: str | None, pixels: Pixels | None, progress: Progress) -> CLIP:
    try:
        state, facts, sha256 = read_folder(folder)
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}. Check its permissions.") from error
    _refuse_foreign_tensors(state, folder)
    if activation and activation != facts.activation:
        progress.log(
            f"warning: the json in {folder} says {facts.activation}; {activation} is used, as `clip_activation` says"
        )
    if pixels and facts.pixels and not pixels.same_as(facts.pixels):
        progress.log(f"warning: the json in {folder} says pixels of {facts.pixels}; those of `clip_pixels` are used")
    if not (pixels or facts.pixels):
        progress.log(
            f"warning: {folder} holds no preprocessor_config.json: OpenAI's pixels are assumed. Download it from the same place, "
            "or set `clip_pixels=openai`"
        )
    chosen = ClipFacts(activation or facts.activation, facts.heads, pixels or facts.pixels or OPENAI, facts.sizes)
    model = _built(state, chosen, folder)
    model.name, model.sha256, model.licence = str(folder), sha256, licence_of_folder(folder)
    is_resnet = isinstance(model.visual, ModifiedResNet)
    usual = HEAD_WIDTH if is_resnet else WIDE_HEADS.get(model.visual.class_embedding.numel(), HEAD_WIDTH)
    if facts.heads != (
        usual,
        HEAD_WIDTH,
    ):  # then these tensors give other embeddings than the same file without the folder
        model.sha256 = hashlib.sha256(f"{sha256} {tuple(facts.heads)}".encode()).hexdigest()
    return model


def _built(state: dict, facts: ClipFacts, path: Path) -> CLIP:
    """The CLIP of these tensors. InputError if they do not fit together or do not fit the facts."""
    try:
        model = build_clip(state, facts.activation, facts.heads)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    found = {"image size": model.input_resolution, "embedding size": model.embed_dim}
    found["text width"] = model.ln_final.weight.numel()
    for name, size in facts.sizes.items():
        if found[name] != size:
            raise InputError(
                f"{path}: the json says {name} {size}, but the tensors have {found[name]}: json and weights are of two models. "
                "Download both from the same place."
            )
    if model.vocab_size != VOCAB_SIZE:
        raise InputError(
            f"{path} was trained with a vocabulary of {model.vocab_size} tokens, but CLIP's has {VOCAB_SIZE}. "
            "Use weights trained with CLIP's tokenizer, or open_clip's version of this model."
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{path} holds NaN or infinite numbers in {name}. {GET_AGAIN}")
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


def _refuse_foreign_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """InputError that says what the tensors are if they are of a known kind that is not a CLIP in OpenAI's layout."""

    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in state)

    install = 'Run `pip install "mlclip[open_clip]"` and pass'
    kinds = {
        "a LoRA adapter, not a whole CLIP. Merge it into its model first": any("lora_" in name for name in state),
        f"a PE-Core. {install} open_clip:PE-Core-B-16/meta, or the other size": has("visual.attn_pool.probe"),
        f"a model with an image encoder of timm. {install} local-dir:DIR of the folder with its open_clip_config.json, or "
        "open_clip:NAME/TAG": has("visual.trunk."),
        "a Hugging Face file. Pass the folder that it is in, with its config.json and preprocessor_config.json": has(
            "text_model.", "vision_model."
        ),
        "only the image encoder of a CLIP. Use the file of the whole model": "visual.conv1.weight" in state
        and not has("token_embedding.weight", "text."),
        f"a CLIP with a text encoder of Hugging Face. {install} open_clip:NAME/TAG": has("text.transformer.embeddings"),
    }
    for what, found in kinds.items():
        if found:
            raise InputError(f"{path} holds {what}.")
