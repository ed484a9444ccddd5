"""CLIP: a weight file becomes an image encoder and a text encoder. The names are looked up on first use."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .load import load_clip as load_clip
    from .model import CLIP as CLIP
    from .model import build_clip as build_clip
    from .registry import MODELS as MODELS
    from .registry import Entry as Entry
    from .registry import available_models as available_models
    from .registry import cached_weights as cached_weights
    from .registry import download as download
    from .registry import is_cached as is_cached
    from .registry import model_path as model_path
    from .tokenizer import count_tokens as count_tokens
    from .tokenizer import tokenize as tokenize
    from .weights import read_state_dict as read_state_dict

_MODULE_OF = {
    "CLIP": "model",
    "build_clip": "model",
    "load_clip": "load",
    "read_state_dict": "weights",
    "tokenize": "tokenizer",
    "count_tokens": "tokenizer",
    "MODELS": "registry",
    "Entry": "registry",
    "available_models": "registry",
    "model_path": "registry",
    "is_cached": "registry",
    "cached_weights": "registry",
    "download": "registry",
}
__all__, __getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
