"""CLIP: a weight file becomes an image encoder and a text encoder. The names are looked up on first use."""

from typing import TYPE_CHECKING

from .. import lazy_names

if TYPE_CHECKING:  # what users import
    from .load import load_clip as load_clip
    from .registry import available_models as available_models
    from .tokenizer import tokenize as tokenize

_NAMES = {"load": "load_clip", "weights": "read_state_dict", "tokenizer": "tokenize", "registry": "available_models"}
__all__, __getattr__, __dir__ = lazy_names(__name__, _NAMES)
