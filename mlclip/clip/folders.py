"""Read the CLIP in a folder: Hugging Face's `CLIPModel`, or open_clip's layout of a model with OpenAI's encoders.

The json files beside the weights say what no tensor shows: the activation, the widths of the attention heads, and the pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..files import parse_json, refused
from ..spelling import one_line
from .model import ACTIVATIONS, HeadWidths
from .pixels import IMAGE_MEAN, IMAGE_STD, Pixels
from .registry import hash_file
from .tokenizer import END, VOCAB_SIZE
from .weights import read_state_dict

OPEN_CLIP_CONFIG, CONFIG = "open_clip_config.json", "config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
                     "open_clip_pytorch_model.pth")  # fmt: skip
HUGGING_FACE_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin",
                        "pytorch_model-*-of-*.bin")  # fmt: skip
DOWNLOAD_AGAIN = "Download the folder again, or pass another one."


@dataclass(frozen=True)
class ClipFacts:
    """What json files say about a CLIP. `pixels` is None if they do not tell; `sizes` must agree with the tensors."""

    activation: str
    heads: HeadWidths
    pixels: Pixels | None
    sizes: Mapping[str, int]  # "image size", "embedding size", "text width"


def read_folder(folder: Path) -> tuple[dict[str, Tensor], ClipFacts, str]:
    """The tensors of the CLIP in a folder under our names, the facts about it, and the sha256 of its weights."""
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds a LoRA adapter, not a whole CLIP. Merge it into its model first.")
    files, config = weights_in(folder)
    if not (folder / config).is_file():
        what = f"{folder} holds weights but no {config}, which says how they are used. Download it from the same place"
        raise InputError(
            f"{what}, or pass {files[0]}, `clip_activation=gelu` and `clip_pixels=openai` if that is right."
        )
    damaged = (InputError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
    with refused(f"the json files in {folder} do not describe a CLIP that mlclip can use", DOWNLOAD_AGAIN, *damaged):
        facts = open_clip_facts(folder) if config == OPEN_CLIP_CONFIG else hugging_face_facts(folder)
    state, hashes = {}, []
    for file in files:
        state |= read_state_dict(file)
        hashes.append(hash_file(file))
    sha256 = hashes[0] if len(files) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    if config == CONFIG:
        return to_our_names(state), facts, sha256
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}, facts, sha256


def weights_in(folder: Path) -> tuple[list[Path], str]:
    """The weight file in a folder, or its parts, and the name of the json file that belongs to it. InputError if there is none."""
    for name in (*OPEN_CLIP_WEIGHTS, *HUGGING_FACE_WEIGHTS):
        files = sorted(folder.glob(name))
        if not files:
            continue
        if "*" in name and str(len(files)) != files[0].stem.rpartition("-")[2].lstrip("0"):
            raise InputError(f"{folder} does not hold all parts of {name}. Download all of them again.")
        return files, OPEN_CLIP_CONFIG if name in OPEN_CLIP_WEIGHTS else CONFIG
    wanted = f"{OPEN_CLIP_WEIGHTS[0]} or {HUGGING_FACE_WEIGHTS[0]}"
    raise InputError(f"{folder} is a folder without weights of a CLIP ({wanted}). Download them, or pass a file.")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a json file. InputError if the file cannot be read or is no such file."""
    with refused(f"{file} cannot be read as json", DOWNLOAD_AGAIN, OSError, ValueError):
        content = parse_json(file.read_bytes())
    if not isinstance(content, dict):
        raise InputError(f"{file} does not hold an object. {DOWNLOAD_AGAIN}")
    return content


def _must_be(name: str, value: Any, *allowed: Any) -> None:
    if value not in allowed:
        raise InputError(f"{name} is {one_line(value, 60)!r}, and must be {' or '.join(map(str, allowed))}")


def _triple(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


# open_clip

_PLAIN = {  # settings that OpenAI's encoders have
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"),
    *("image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"),
    *("context_length", "vocab_size", "heads"),
}


def foreign_setting(folder: Path) -> str:
    """A setting in `open_clip_config.json` that OpenAI's encoders do not have, so that only open_clip builds the model; "" if none."""
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        return ""
    model = read_json(folder / OPEN_CLIP_CONFIG).get("model_cfg")
    sections = [model, model.get("vision_cfg"), model.get("text_cfg")] if isinstance(model, dict) else []
    for name, value in (item for section in sections if isinstance(section, dict) for item in section.items()):
        if (name not in _PLAIN and value not in (None, False)) or (name == "vocab_size" and value != VOCAB_SIZE):
            return one_line(f"{name} {value}", 60)
    return ""


def open_clip_facts(folder: Path) -> ClipFacts:
    """The facts in the `open_clip_config.json` of a folder."""
    top = read_json(folder / OPEN_CLIP_CONFIG)
    model = top["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    width, side = text.get("width", 512), vision.get("image_size", 224)
    side = side[0] if isinstance(side, list) else side
    return ClipFacts(
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        heads=HeadWidths(int(vision.get("head_width", 64)), width // text.get("heads", 8)),
        pixels=open_clip_pixels(top.get("preprocess_cfg") or {}),
        sizes={"image size": side, "embedding size": model["embed_dim"], "text width": width},
    )


def open_clip_pixels(cfg: Mapping[str, Any]) -> Pixels:
    """The pixels in a `preprocess_cfg`; OpenAI's where it says nothing. InputError for values that no CLIP can have."""
    interpolation = cfg.get("interpolation") or "bicubic"
    return Pixels(
        _triple(cfg.get("mean") or IMAGE_MEAN),
        _triple(cfg.get("std") or IMAGE_STD),
        "bicubic" if interpolation == "random" else interpolation,
        cfg.get("resize_mode") or "shortest",
    )


# Hugging Face's CLIPModel. transformers writes only values that differ from these:

_TEXT = {"hidden_size": 512, "num_attention_heads": 8, "vocab_size": VOCAB_SIZE, "eos_token_id": END}
_VISION = {"hidden_size": 768, "num_attention_heads": 12, "image_size": 224}
_BOTH = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_RESAMPLE = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers


def hugging_face_facts(folder: Path) -> ClipFacts:
    """The facts in the json files of a `CLIPModel` folder. InputError if they describe another model."""
    top = read_json(folder / CONFIG)
    if top.get("model_type") != "clip" or "CLIPModel" not in (top.get("architectures") or ["CLIPModel"]):
        kind = one_line(f"{top.get('model_type')} {top.get('architectures')}", 60)
        remedy = "SigLIP, MetaCLIP 2 and others: pass hf-hub:OWNER/NAME of open_clip's format, see `mlclip models`"
        raise InputError(f"another model ({kind}), not a CLIPModel. {remedy}")
    text, vision = _tower(top, "text_config", _TEXT), _tower(top, "vision_config", _VISION)
    _must_be("hidden_act", text["hidden_act"], *ACTIVATIONS)
    _must_be("hidden_act of the vision_config", vision["hidden_act"], text["hidden_act"])
    for tower in (text, vision):
        _must_be("layer_norm_eps", tower["layer_norm_eps"], 1e-5)
    _must_be("vocab_size", text["vocab_size"], VOCAB_SIZE)
    _must_be("eos_token_id", text["eos_token_id"], END, 2)  # 2 in old files means the largest id
    widths = [tower["hidden_size"] // tower["num_attention_heads"] for tower in (vision, text)]
    sizes = {"image size": vision["image_size"], "embedding size": top.get("projection_dim", 512)}
    sizes["text width"] = text["hidden_size"]
    return ClipFacts(text["hidden_act"], HeadWidths(*widths), _pixels(folder), sizes)


def _tower(top: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's configuration. Old files hold it twice, and `..._dict` counts."""
    tower = {**_BOTH, **defaults}
    for section in (name, f"{name}_dict"):
        tower |= {key: value for key, value in (top.get(section) or {}).items() if value is not None}
    return tower


def _pixels(folder: Path) -> Pixels | None:
    names = ("preprocessor_config.json", "processor_config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return None
    top = read_json(file)
    cfg = top.get("image_processor") or top
    for name in ("do_rescale", "do_normalize"):
        _must_be(name, cfg.get(name, True), True)
    _must_be("resample", cfg.get("resample", 3), *_RESAMPLE)
    size = cfg.get("size")
    resize = "squash" if isinstance(size, dict) and "height" in size else "shortest"
    mean, std = _triple(cfg.get("image_mean") or IMAGE_MEAN), _triple(cfg.get("image_std") or IMAGE_STD)
    return Pixels(mean, std, _RESAMPLE[cfg.get("resample", 3)], resize)


_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # so spelt in the files
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".self_attn.q_proj.": ".attn.in_proj_",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `CLIPModel`'s tensors under our names. Query, key and value become one tensor. InputError if one of them is missing."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("position_ids") or ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        if name in _TRANSPOSED:
            ours[_TRANSPOSED[name]] = tensor.T.contiguous()
            continue
        if ".self_attn.q_proj." in name:
            parts = [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            missing = next((part for part in parts if part not in state), None)
            if missing:
                raise InputError(f"the tensors are not a whole CLIPModel ({missing} is missing). Download them again.")
            tensor = torch.cat([state[part] for part in parts])
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        ours[name] = tensor
    return ours
