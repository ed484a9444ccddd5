"""CLIP: a weight file becomes an image and a text encoder. The names are looked up on first use."""

from importlib import import_module

_HOME_OF = {
    "CLIP": "model",
    "build_clip": "model",
    "load_clip": "weights",
    "read_state_dict": "weights",
    "tokenize": "tokenizer",
    "count_tokens": "tokenizer",
    "MODELS": "registry",
    "Entry": "registry",
    "available_models": "registry",
    "model_path": "registry",
    "is_cached": "registry",
    "download": "fetch",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mlclip.clip' has no attribute {name!r}")
    return getattr(import_module(f"mlclip.clip.{_HOME_OF[name]}"), name)
