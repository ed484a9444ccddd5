"""Teachers that the package open_clip builds: SigLIP, EVA-02, MobileCLIP, MetaCLIP 2 and others, with their own tokenizers.

open_clip gives the network, the tokenizer and the pixels. The weights are read by our own reader, so no code in them runs.

Letters: N images or texts, S side of an image in pixels, L tokens, D the joint embedding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..config import InputError
from ..files import reason_of, refused
from .folders import open_clip_pixels, weights_in
from .registry import BUILT_IN, FOLDER, HUB, licence_of_folder, licence_of_tag
from .weights import read_state_dict

OWN = "own"  # the activation: what the model's configuration says
INSTALL = "Run: pip install open_clip_torch transformers"


class OpenClipModel(nn.Module):
    """A model of open_clip with the attributes and methods of `CLIP` that a teacher uses.

    It takes images of one size, S×S, only: that is also its `visual.stride`. A model that was trained with a sigmoid loss has a
    `logit_bias`, which is recorded; its own exp(logit_scale) is the scale of every softmax, as for other CLIPs.
    """

    activation = OWN

    def __init__(self, model: nn.Module, tokenizer: Any, embed_dim: int):
        super().__init__()
        self.model, self._tokenizer, self.embed_dim = model, tokenizer, embed_dim
        self.pixels = open_clip_pixels(model.visual.preprocess_cfg)
        size = model.visual.image_size
        sides = set(size) if isinstance(size, list | tuple) else {size}
        if len(sides) != 1:
            raise InputError(f"this model takes images of {size[0]}×{size[1]} pixels; mlclip's views are squares.")
        self.input_resolution = int(sides.pop())
        self.context_length = tokenizer.context_length
        self.english = type(tokenizer).__name__ == "SimpleTokenizer"  # others may know other languages
        self.visual.stride = self.input_resolution
        self.name = self.sha256 = self.licence = ""
        bias = getattr(model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias.detach())

    @property
    def visual(self) -> nn.Module:
        return self.model.visual

    @property
    def logit_scale(self) -> Tensor:
        """The LOGARITHM of the scale, as in `CLIP`."""
        return self.model.logit_scale.reshape(())

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), normalised as `pixels` says -> embeddings (N, D), not normalised."""
        side = self.input_resolution
        if tuple(pixels.shape[2:]) != (side, side):
            raise InputError(f"{self.name} takes images of {side}×{side} pixels only. Do not set `view_size`.")
        return self.model.encode_image(pixels.to(next(self.visual.parameters()).dtype))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids (N, L) from `tokenize` -> embeddings (N, D), not normalised."""
        return self.model.encode_text(tokens)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Texts -> token ids (N, L) by the model's own tokenizer. InputError for a text that is too long: none is cut."""
        tokens, longer = (self._tokenizer(["", *texts], context_length=self.context_length + extra) for extra in (0, 1))
        padding = longer[0, -1]
        cut = (longer[:, :-1] != tokens).any(dim=1) | (longer[:, -1] != padding)  # one place more changes something
        if cut.any():
            text = ["", *texts][int(cut.nonzero()[0])]
            text, most = " ".join(text[:60].split()), self.context_length
            raise InputError(f"the text {text!r} has too many tokens: {self.name} reads at most {most}. Shorten it.")
        return tokens[1:]


def load_open_clip(name: str, *, offline: bool = False) -> OpenClipModel:
    """Build a model with open_clip on the CPU, in eval mode. Weights and tokenizer are downloaded, unless `offline=True`.

    Its `sha256` is that of its configuration and tensors. InputError if open_clip is missing or cannot build it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open_clip
    except ImportError as error:
        raise InputError(f"this teacher needs the package open_clip, which is not installed. {INSTALL}") from error
    source, tag = name, ""
    if name.startswith(BUILT_IN):
        source, _, tag = name.removeprefix(BUILT_IN).rpartition("/")
        tags = open_clip.list_pretrained_tags_by_model(source)
        if tag.lower().replace("-", "_") not in tags:
            known = f"one of {', '.join(tags)}" if tags else "names of `open_clip.list_pretrained()`"
            raise InputError(f"open_clip has no weights {tag!r} of {source!r}. Write {BUILT_IN}NAME/TAG with {known}.")
    try:
        with _quietly(offline):
            model, tokenizer, path = _build(open_clip, source, tag)
            config = open_clip.get_model_config(source)
    except InputError:
        raise
    except ImportError as error:  # a tokenizer of transformers
        raise InputError(f"{name} needs a package that is not installed ({error}). {INSTALL}") from error
    except Exception as error:  # open_clip, timm and Hugging Face raise whatever they like
        hint = "Nothing may be downloaded (`offline=True`)" if offline else "Is the name right, and is there a network?"
        raise InputError(f"open_clip cannot build {name}: {reason_of(error)}. {hint}") from error
    loaded = OpenClipModel(_with_weights(model, path, name).eval(), tokenizer, config["embed_dim"])
    loaded.name, loaded.sha256 = name, _fingerprint(model, config)
    loaded.licence = licence_of_tag(tag) if tag else licence_of_folder(path.parent)
    return loaded


def _build(open_clip: ModuleType, source: str, tag: str) -> tuple[nn.Module, Any, Path]:
    """The network without its weights, the tokenizer, and the weight file."""
    from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

    more: dict[str, Any] = {}
    if tag:
        cfg = get_pretrained_cfg(source, tag)
        path = download_pretrained(cfg)
        facts = ("mean", "std", "interpolation", "resize_mode")
        more["force_preprocess_cfg"] = {name: cfg[name] for name in facts if cfg.get(name) is not None}
        if cfg.get("quick_gelu"):  # open_clip itself only warns
            more["force_quick_gelu"] = True
    elif source.startswith(HUB):
        path = download_pretrained_from_hf(source.removeprefix(HUB))
    else:
        (path, *_), _ = weights_in(Path(source.removeprefix(FOLDER)))
    model = open_clip.create_model(source, load_weights=False, pretrained_text=False, **more)
    return model, open_clip.get_tokenizer(source), Path(path)


def _with_weights(model: nn.Module, path: Path, name: str) -> nn.Module:
    """Load the weights as open_clip does, but through our own reader."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = convert_state_dict(model, read_state_dict(path))
    if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for scalar in ("logit_scale", "logit_bias"):
        if scalar in state and getattr(model, scalar, None) is not None:
            state[scalar] = state[scalar].reshape(getattr(model, scalar).shape)
    known = model.state_dict()
    with refused(f"{path} does not hold the weights of {name}", "Download them again.", RuntimeError):
        model.load_state_dict({key: t for key, t in state.items() if key in known or not key.endswith("position_ids")})
    return model


def _fingerprint(model: nn.Module, config: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _quietly(offline: bool) -> Iterator[None]:
    """Without open_clip's log lines, which report the missing weights that we load ourselves; without a network, if `offline`."""
    from huggingface_hub import constants

    with warnings.catch_warnings(), ExitStack() as at_end:
        warnings.simplefilter("ignore")
        at_end.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.ERROR)
        at_end.callback(setattr, constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
        constants.HF_HUB_OFFLINE = offline or constants.HF_HUB_OFFLINE
        yield
