"""The facts in `open_clip_config.json`, the file of open_clip's own folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import InputError
from ..spelling import one_line
from .facts import ClipFacts
from .json_fields import Section, read_json
from .model import HeadWidths
from .pixels import IMAGE_MEAN, IMAGE_STD, INTERPOLATIONS, OPENAI, RESIZE_MODES, Pixels
from .tokenizer import VOCAB_SIZE

CONFIG = "open_clip_config.json"
_TRAINING = {"patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "output_dict", "cast_dtype"}
_TIMM = {"timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"}
_HF = {
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
    "hf_tokenizer_name",
    "tokenizer_mode",
    "eos_id",
    "pad_id",
}
_NEW_BLOCKS = dict.fromkeys(
    ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
)
_BLOCKS = {**_NEW_BLOCKS, "ls_init_value": None, "block_type": None, "act_kwargs": None, "norm_kwargs": None,
           "final_ln_after_pool": None}  # fmt: skip

# Settings of an architecture that our encoders have with these values only; None stands for "missing, null or false".
_VISION_ONLY = {
    **_BLOCKS,
    "attentional_pool": None,
    "no_ln_pre": None,
    "pos_embed_type": "learnable",
    "pool_type": "tok",
}
_TEXT_ONLY = {**_BLOCKS, "embed_cls": None, "no_causal_mask": None, "pool_type": "argmax", "proj_bias": None,
              "proj_type": "linear"}  # fmt: skip
_SIZES = {
    "image_size",
    "layers",
    "width",
    "patch_size",
    "head_width",
    "mlp_ratio",
    "context_length",
    "vocab_size",
    "heads",
}
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"}


def open_clip_facts(folder: Path) -> ClipFacts:
    """The facts in the `open_clip_config.json` of a folder.

    InputError if the file is damaged, or if it describes a model that only open_clip can build: the message names it.
    """
    top = read_json(folder / CONFIG)
    model = top.section("model_cfg")
    vision, text = model.section("vision_cfg"), model.section("text_cfg")
    _refuse_foreign(folder, model, vision, text)
    width, heads = text.whole("width", 512), text.whole("heads", 8)
    if width % heads:
        raise text.wrong("heads", heads, f"a divisor of the width {width}")
    return ClipFacts(
        activation="quick_gelu" if model.yes_or_no("quick_gelu") else "gelu",
        heads=HeadWidths(vision.whole("head_width", 64), width // heads),
        pixels=open_clip_pixels(top.section("preprocess_cfg", {})),
        sizes=_sizes(model, vision, text),
    )


def open_clip_pixels(cfg: Section) -> Pixels:
    """The pixels in a `preprocess_cfg`; OpenAI's where it says nothing."""
    known = {name: name for name in INTERPOLATIONS} | {"random": "bicubic"}
    interpolation = cfg.choice("interpolation", "bicubic", known)
    resize = cfg.choice("resize_mode", OPENAI.resize, {name: name for name in RESIZE_MODES})
    return cfg.pixels(cfg.triple("mean", IMAGE_MEAN), cfg.triple("std", IMAGE_STD), interpolation, resize)


def _sizes(model: Section, vision: Section, text: Section) -> dict[str, int]:
    image_size = vision.get("image_size", 224)
    if isinstance(image_size, list) and len(set(map(str, image_size))) == 1:  # [224, 224]
        image_size = image_size[0]
    sizes = {"image size": Section(vision.file, {"image_size": image_size}, vision.where).whole("image_size")}
    sizes |= {"embedding size": model.whole("embed_dim"), "context length": text.whole("context_length", 77)}
    sizes |= {"text width": text.whole("width", 512), "text layers": text.whole("layers", 12)}
    if not isinstance(vision.get("layers"), list):  # a list: a ResNet, without patches
        sizes |= {"patch size": vision.whole("patch_size", 16), "image layers": vision.whole("layers", 12)}
        sizes["image width"] = vision.whole("width", 768)
    if sizes["embedding size"] is None:
        raise model.wrong("embed_dim", None, "a whole number")
    return sizes


def _refuse_foreign(folder: Path, model: Section, vision: Section, text: Section) -> None:
    """InputError for a model that our encoders do not have, or that has another tokenizer."""
    timm, hf = vision.text("timm_model_name"), text.text("hf_model_name")
    tokenizer, vocabulary = text.text("hf_tokenizer_name"), text.whole("vocab_size", VOCAB_SIZE)
    clean = text.section("tokenizer_kwargs", {}).content
    unknown = [*_others(model, _MODEL, {}), *_others(vision, _SIZES | _TRAINING | _TIMM, _VISION_ONLY)]
    unknown += _others(text, _SIZES | _TRAINING | _HF, _TEXT_ONLY, skip={"tokenizer_kwargs"})
    reasons = [
        (timm, f"an image encoder of timm ({timm})"),
        (hf, f"a text encoder of Hugging Face ({hf})"),
        (tokenizer, f"another tokenizer ({tokenizer})"),
        (vocabulary != VOCAB_SIZE, f"a vocabulary of {vocabulary} tokens instead of CLIP's {VOCAB_SIZE}"),
        (any(value not in (None, "lower") for value in clean.values()), "a tokenizer with other settings"),
        (unknown, f"the setting {unknown[0] if unknown else ''}"),
    ]
    for found, what in reasons:
        if found:
            raise InputError(
                f"{folder} holds a model with {what}, which mlclip's own encoders do not have. open_clip can build it: "
                f'run `pip install "mlclip[open_clip]"` and pass local-dir:{folder} instead.'
            )


def _others(
    section: Section, known: set[str], only: Mapping[str, Any], skip: frozenset | set = frozenset()
) -> list[str]:
    """The fields of a section that are neither `known` nor have the one value that `only` allows."""
    wrong = []
    for key, value in section.content.items():
        if value is None or key in known or key in skip or key in ("timm_model_name", "hf_model_name"):
            continue
        if key not in only or (value or None) not in (None, only[key]):
            wrong.append(f"{one_line(key, 60)} {one_line(value, 60)}")
    return wrong
