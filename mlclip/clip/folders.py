"""Read the CLIP in a folder: Hugging Face's `CLIPModel`, or open_clip's layout of a model with OpenAI's encoders.

The json files beside the weights say what no tensor shows: the activation, the widths of the attention heads, and the pixels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..files import parse_json
from ..spelling import one_line
from .model import ACTIVATIONS, HeadWidths
from .pixels import IMAGE_MEAN, IMAGE_STD, Pixels
from .registry import hash_file
from .tokenizer import END, VOCAB_SIZE, same_merges
from .weights import read_state_dict

OPEN_CLIP_CONFIG, CONFIG = "open_clip_config.json", "config.json"
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
                     "open_clip_pytorch_model.pth")  # fmt: skip
HUGGING_FACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
DOWNLOAD_AGAIN = "Download the folder again, or pass another one."
_PART = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")


@dataclass(frozen=True)
class ClipFacts:
    """What json files say about a CLIP. `pixels` is None if they do not tell; `sizes` must agree with the tensors."""

    activation: str
    heads: HeadWidths
    pixels: Pixels | None
    sizes: Mapping[str, int]  # "image size", "embedding size", "text width"


def read_folder(folder: Path) -> tuple[dict[str, Tensor], ClipFacts, str]:
    """The tensors of the CLIP in a folder under our names, the facts about it, and the sha256 of its weights.

    InputError if the folder does not hold a whole CLIP: one line that says what is missing.
    """
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds a LoRA adapter, not a whole CLIP. Merge it into its model first.")
    own = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    if own and (folder / OPEN_CLIP_CONFIG).is_file():
        facts = _facts(open_clip_facts, folder)
        state = read_state_dict(own)
        return {name.removeprefix("text."): tensor for name, tensor in state.items()}, facts, hash_file(own)
    files = _hugging_face_weights(folder)
    if files and (folder / CONFIG).is_file():
        facts = _facts(hugging_face_facts, folder)
        state, hashes = {}, []
        for file in files:
            state |= read_state_dict(file)
            hashes.append(hash_file(file))
        sha256 = hashes[0] if len(files) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        return to_our_names(state), facts, sha256
    raise _incomplete(folder, own or next(iter(files), None))


def _facts(read: Callable[[Path], ClipFacts], folder: Path) -> ClipFacts:
    """The facts that `read` finds. InputError that names the folder for any damage of its json files."""
    try:
        return read(folder)
    except InputError as error:
        raise error if str(folder) in str(error) else InputError(f"{folder}: {error}. {DOWNLOAD_AGAIN}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 80)
        raise InputError(f"the json files in {folder} do not describe a CLIP ({reason}). {DOWNLOAD_AGAIN}") from error


def _incomplete(folder: Path, weights: Path | None) -> InputError:
    """Why the folder is not a whole CLIP."""
    if weights:
        wanted = OPEN_CLIP_CONFIG if weights.name in OPEN_CLIP_WEIGHTS else CONFIG
        return InputError(
            f"{folder} holds weights but no {wanted}, which says how they are used. Download it from the same place, or pass the "
            f"file {weights} with `clip_activation=gelu` and `clip_pixels=openai`, as they are right for it."
        )
    for config, wanted in ((OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS[0]), (CONFIG, HUGGING_FACE_WEIGHTS[0])):
        if (folder / config).is_file():
            return InputError(f"{folder} holds {config} but no weights ({wanted}). Download them from the same place.")
    return InputError(
        f"{folder} is a folder without weights of a CLIP. Pass a weight file, a folder that holds one, or a name."
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a json file. InputError if the file cannot be read or is no such file."""
    try:
        content = parse_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}. Check its permissions.") from error
    except ValueError as error:
        raise InputError(f"{file} is not json ({str(error)[:80]}). {DOWNLOAD_AGAIN}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} does not hold an object. {DOWNLOAD_AGAIN}")
    return content


def _must_be(file: Path, name: str, value: Any, *allowed: Any) -> None:
    if value not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise InputError(f"{file}: {name} is {one_line(value, 60)!r}: it must be {wanted}. {DOWNLOAD_AGAIN}")


def _triple(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


# open_clip

_PLAIN = {  # settings that OpenAI's encoders have
    "model": [
        "embed_dim",
        "vision_cfg",
        "text_cfg",
        "quick_gelu",
        "custom_text",
        "init_logit_scale",
        "init_logit_bias",
    ],
    "vision_cfg": ["image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout"],
    "text_cfg": ["context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"],
}


def foreign_setting(folder: Path) -> str:
    """A setting in `open_clip_config.json` that OpenAI's encoders do not have, so that only open_clip builds the model; "" if none."""
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        return ""
    model = read_json(folder / OPEN_CLIP_CONFIG).get("model_cfg")
    model = model if isinstance(model, dict) else {}
    for part, plain in _PLAIN.items():
        section = model if part == "model" else model.get(part)
        for name, value in section.items() if isinstance(section, dict) else ():
            if (name not in plain and value not in (None, False)) or (name == "vocab_size" and value != VOCAB_SIZE):
                return one_line(f"{name} {value}", 60)
    return ""


def open_clip_facts(folder: Path) -> ClipFacts:
    """The facts in the `open_clip_config.json` of a folder."""
    top = read_json(folder / OPEN_CLIP_CONFIG)
    model = top["model_cfg"]
    vision, text = model["vision_cfg"], model["text_cfg"]
    width, side = text.get("width", 512), vision.get("image_size", 224)
    return ClipFacts(
        activation="quick_gelu" if model.get("quick_gelu") else "gelu",
        heads=HeadWidths(int(vision.get("head_width", 64)), width // text.get("heads", 8)),
        pixels=open_clip_pixels(top.get("preprocess_cfg") or {}),
        sizes={
            "image size": side[0] if isinstance(side, list) else side,
            "embedding size": model["embed_dim"],
            "text width": width,
        },
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
_TOKENIZERS = ("", "CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
_RESAMPLE = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers


def _hugging_face_weights(folder: Path) -> list[Path]:
    """The weight file, or the parts that an index names; empty if there are none."""
    for name in HUGGING_FACE_WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        places = read_json(index).get("weight_map")
        parts = sorted({str(part) for part in places.values()}) if isinstance(places, dict) else []
        wrong = [part for part in parts if not _PART.fullmatch(part)]  # a file of another folder is never read
        missing = [part for part in parts if not (folder / part).is_file()]
        if wrong or missing or not parts:
            what = f"{one_line((wrong or missing or ['any part'])[0], 60)}, which {index.name} names"
            raise InputError(f"{folder} does not hold {what}. Download all of them again.")
        return [folder / part for part in parts]
    return []


def hugging_face_facts(folder: Path) -> ClipFacts:
    """The facts in the json files of a `CLIPModel` folder. InputError if they describe another model."""
    file = folder / CONFIG
    top = read_json(file)
    if top.get("model_type") != "clip" or "CLIPModel" not in (top.get("architectures") or ["CLIPModel"]):
        kind = one_line(f"{top.get('model_type')} {top.get('architectures')}", 60)
        raise InputError(
            f"{folder} holds another model ({kind}), not a CLIPModel. SigLIP, MetaCLIP 2 and others work in open_clip's format: "
            "pass hf-hub:OWNER/NAME of such a repository, see `mlclip models`."
        )
    text, vision = _tower(top, "text_config", _TEXT), _tower(top, "vision_config", _VISION)
    _must_be(file, "hidden_act", text["hidden_act"], *ACTIVATIONS)
    _must_be(file, "hidden_act of the vision_config", vision["hidden_act"], text["hidden_act"])
    for tower in (text, vision):
        _must_be(file, "layer_norm_eps", tower["layer_norm_eps"], 1e-5)
    _must_be(file, "vocab_size", text["vocab_size"], VOCAB_SIZE)
    _must_be(file, "eos_token_id", text["eos_token_id"], END, 2)  # 2 in old files means the largest id
    _refuse_other_tokenizers(folder)
    widths = [tower["hidden_size"] // tower["num_attention_heads"] for tower in (vision, text)]
    sizes = {"image size": vision["image_size"], "embedding size": top.get("projection_dim", 512)}
    return ClipFacts(
        text["hidden_act"], HeadWidths(*widths), _pixels(folder), sizes | {"text width": text["hidden_size"]}
    )


def _tower(top: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A tower's configuration. Old files hold it twice, and `..._dict` counts."""
    tower = {**_BOTH, **defaults}
    for section in (name, f"{name}_dict"):
        tower |= {key: value for key, value in (top.get(section) or {}).items() if value is not None}
    return tower


def _refuse_other_tokenizers(folder: Path) -> None:
    config, merges = folder / "tokenizer_config.json", folder / "merges.txt"
    name = str(read_json(config).get("tokenizer_class") or "") if config.is_file() else ""
    if name not in _TOKENIZERS or (merges.is_file() and not same_merges(merges.read_bytes())):
        found = one_line(name, 60) if name not in _TOKENIZERS else merges.name
        raise InputError(
            f"{folder} has another tokenizer than OpenAI's CLIP ({found}). Use a CLIP with OpenAI's tokenizer, or open_clip's "
            "version of this model."
        )


def _pixels(folder: Path) -> Pixels | None:
    names = ("preprocessor_config.json", "processor_config.json")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return None
    top = read_json(file)
    cfg = top.get("image_processor") or top
    if abs(cfg.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3 or cfg.get("do_rescale") is False:
        raise InputError(f"{file}: rescale_factor must be 1/255. {DOWNLOAD_AGAIN}")
    _must_be(file, "resample", cfg.get("resample", 3), *_RESAMPLE)
    size = cfg.get("size")
    resize = "squash" if isinstance(size, dict) and "height" in size else "shortest"
    if cfg.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    else:
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
