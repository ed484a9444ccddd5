"""CLIP: a weight file becomes an image encoder and a text encoder. The names are looked up on first use."""

from importlib import import_module

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
    "download": "fetch",
}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'mlclip.clip' has no attribute {name!r}")
    return getattr(import_module(f"mlclip.clip.{_MODULE_OF[name]}"), name)
