"""Hugging Face's folders of `CLIPModel`: the facts in `config.json` and `preprocessor_config.json`, and the names of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import InputError
from ..spelling import one_line
from .facts import ClipFacts
from .json_fields import Section, read_json
from .model import HeadWidths
from .pixels import IMAGE_MEAN, IMAGE_STD, Pixels
from .tokenizer import END, VOCAB_SIZE, same_merges

CONFIG, TOKENIZER, MERGES = "config.json", "tokenizer_config.json", "merges.txt"
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("", "CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend", "PreTrainedTokenizerFast")
LARGEST_MERGES = 4 << 20  # bytes
RESAMPLE = {3: "bicubic", 2: "bilinear"}  # Pillow's numbers
OLD_END = 2  # an `eos_token_id` of old files, which means the largest id
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}

# transformers writes only values that differ from these
_TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77}
_VISION = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224, "patch_size": 32}
_OTHER_TYPES = {
    "clip_text_model": "only the text encoder of a CLIP",
    "clip_vision_model": "only the image encoder of a CLIP",
    "siglip": "a SigLIP",
    "siglip2": "a SigLIP 2",
    "metaclip_2": "a MetaCLIP 2",
}
_BLOCK = {
    "self_attn.out_proj.": "attn.out_proj.",
    "layer_norm1.": "ln_1.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}
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
}
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def hugging_face_facts(folder: Path) -> ClipFacts:
    """The facts in the json files of a `CLIPModel` folder. InputError if they are damaged or describe another model."""
    top = read_json(folder / CONFIG)
    _refuse_other_models(folder, top)
    text, vision = _tower(top, "text_config"), _tower(top, "vision_config")
    activation = text.choice("hidden_act", "quick_gelu", ACTIVATIONS)
    if vision.choice("hidden_act", "quick_gelu", ACTIVATIONS) != activation:
        raise vision.wrong("hidden_act", vision.get("hidden_act"), f"{activation}, as in text_config")
    for tower in (text, vision):
        if tower.get("layer_norm_eps", 1e-5) != 1e-5:
            raise tower.wrong("layer_norm_eps", tower.get("layer_norm_eps"), "1e-05")
    if text.get("eos_token_id", END) not in (END, OLD_END):
        raise text.wrong("eos_token_id", text.get("eos_token_id"), f"{END}, the end token of CLIP's tokenizer")
    sizes = {"image size": "image_size", "patch size": "patch_size", "image width": "hidden_size"}
    found = {name: vision.whole(key, _VISION[key]) for name, key in sizes.items()}
    found |= {"image layers": vision.whole("num_hidden_layers", 12), "text layers": text.whole("num_hidden_layers", 12)}
    found |= {"text width": text.whole("hidden_size", 512), "context length": text.whole("max_position_embeddings", 77)}
    found |= {"embedding size": top.whole("projection_dim", 512)}
    heads = HeadWidths(_head_width(vision, _VISION), _head_width(text, _TEXT))
    return ClipFacts(activation, heads, _pixels(folder), found)


def _tower(top: Section, name: str) -> Section:
    """A tower's configuration. Old files hold it twice, and `..._dict` counts."""
    merged = {**top.section(name, {}).content, **top.section(f"{name}_dict", {}).content}
    return Section(top.file, merged, name)


def _head_width(tower: Section, defaults: Mapping[str, int]) -> int:
    width = tower.whole("hidden_size", defaults["hidden_size"])
    heads = tower.whole("num_attention_heads", defaults["num_attention_heads"])
    if width % heads:
        raise tower.wrong("num_attention_heads", heads, f"a divisor of the width {width}")
    return width // heads


def _refuse_other_models(folder: Path, top: Section) -> None:
    kind = top.text("model_type", "nothing")
    if kind != "clip":
        what = _OTHER_TYPES.get(kind, f'a model of type "{kind}"')
        raise InputError(
            f"{folder} holds {what}, not a whole CLIP in the layout of CLIPModel. SigLIP, MetaCLIP 2 and others work "
            "in open_clip's format: pass hf-hub:OWNER/NAME of such a repository, see `mlclip models`."
        )
    classes = top.get("architectures", ["CLIPModel"])
    if isinstance(classes, list) and "CLIPModel" not in classes:
        raise InputError(
            f"{folder} holds {one_line(', '.join(map(str, classes)), 60)}, not a CLIPModel. Pass the CLIP it came from."
        )
    vocabulary = _tower(top, "text_config").whole("vocab_size", VOCAB_SIZE)
    if vocabulary != VOCAB_SIZE:
        raise InputError(
            f"{folder} holds a CLIP with a vocabulary of {vocabulary} tokens instead of {VOCAB_SIZE}. "
            "Use a CLIP with OpenAI's tokenizer, or open_clip's version of this model."
        )
    _refuse_other_tokenizers(folder)


def _refuse_other_tokenizers(folder: Path) -> None:
    name = read_json(folder / TOKENIZER).text("tokenizer_class") if (folder / TOKENIZER).is_file() else ""
    merges = folder / MERGES
    other = name not in TOKENIZERS or (
        merges.is_file() and (merges.stat().st_size > LARGEST_MERGES or not same_merges(merges.read_bytes()))
    )
    if other:
        found = one_line(name, 60) if name not in TOKENIZERS else MERGES
        raise InputError(
            f"{folder} has another tokenizer than OpenAI's CLIP ({found}). Use a CLIP with OpenAI's tokenizer, or open_clip's "
            "version of this model."
        )


def _pixels(folder: Path) -> Pixels | None:
    file = next((folder / name for name in PREPROCESSORS if (folder / name).is_file()), None)
    if file is None:
        return None
    top = read_json(file)
    cfg = top.section("image_processor") if "image_processor" in top.content else top
    if not cfg.yes_or_no("do_rescale", True) or abs(cfg.number("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise cfg.wrong("rescale_factor", cfg.get("rescale_factor"), "1/255")
    interpolation = cfg.choice("resample", 3, RESAMPLE)
    size = cfg.get("size", 224)
    resize = "squash" if isinstance(size, dict) and "height" in size else "shortest"
    if not cfg.yes_or_no("do_normalize", True):
        return cfg.pixels((0.0,) * 3, (1.0,) * 3, interpolation, resize)
    return cfg.pixels(cfg.triple("image_mean", IMAGE_MEAN), cfg.triple("image_std", IMAGE_STD), interpolation, resize)


def to_our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `CLIPModel`'s tensors under our names. Unknown ones keep their name; query, key and value become one tensor.

    InputError if one of the three is missing.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name in _TRANSPOSED:
            ours[_TRANSPOSED[name]] = tensor.T.contiguous()
        elif ".self_attn.q_proj." in name:
            parts = [name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")]
            missing = next((part for part in parts if part not in state), None)
            if missing:
                raise InputError(f"the tensors are not a whole CLIPModel ({missing} is missing). Download them again.")
            ours[_renamed(name).replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat([state[p] for p in parts])
        elif (
            not name.endswith("position_ids") and ".self_attn.k_proj." not in name and ".self_attn.v_proj." not in name
        ):
            ours[_renamed(name)] = tensor
    return ours


def _renamed(name: str) -> str:
    start, new = next(((old, new) for old, new in _NAMES.items() if name.startswith(old)), ("", ""))
    name = new + name[len(start) :]
    if ".resblocks." in name:
        for old, block in _BLOCK.items():
            name = name.replace(f".{old}", f".{block}")
    return name


def is_hugging_face(state: Mapping[str, Any]) -> bool:
    """Whether the names of the tensors are those of a `CLIPModel`."""
    return any(name.startswith(("text_model.", "vision_model.")) for name in state)
