"""Find the weights and the facts of a CLIP in a folder: open_clip's own layout, or Hugging Face's `CLIPModel`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..config import InputError
from ..spelling import one_line
from . import hugging_face, open_clip_config
from .facts import ClipFacts
from .fetch import hash_file
from .hugging_face import hugging_face_facts, is_hugging_face, to_our_names
from .json_fields import read_json
from .open_clip_config import open_clip_facts
from .weights import read_state_dict

OPEN_CLIP_WEIGHTS = tuple(
    f"open_clip_{name}"
    for name in ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "pytorch_model.pth")
)
HUGGING_FACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
ADAPTER = "adapter_config.json"
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
_ANY_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def read_folder(folder: Path) -> tuple[dict[str, Tensor], ClipFacts, str]:
    """The tensors of the CLIP in a folder under our names, the facts about it, and the sha256 of its weights.

    InputError if the folder does not hold a whole CLIP that our encoders can run: one line that says what it holds instead,
    and where the right file is.
    """
    _refuse_adapter(folder)
    own = next((folder / name for name in OPEN_CLIP_WEIGHTS if (folder / name).is_file()), None)
    if own and (folder / open_clip_config.CONFIG).is_file():
        facts = open_clip_facts(folder)  # before the weights are read, which takes longer
        return _without_text_prefix(read_state_dict(own)), facts, _hash(own)
    files = _hugging_face_weights(folder)
    if files and (folder / hugging_face.CONFIG).is_file():
        facts = hugging_face_facts(folder)
        return to_our_names(_read_all(files)), facts, _hash_all(files)
    raise _incomplete(folder, own or (files and next(iter(files))))


def refuse_foreign_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """InputError that says what the tensors are if they are of a known kind that is not a CLIP in OpenAI's layout."""
    kinds = [
        (any("lora_" in name for name in state), "a LoRA adapter, not a whole CLIP. Merge it into its model first"),
        (
            any(name.startswith("visual.trunk.") for name in state),
            'a model with an image encoder of timm. Run `pip install "mlclip[open_clip]"` and pass local-dir:DIR of the folder '
            "with its open_clip_config.json, or open_clip:NAME/TAG",
        ),
        (
            is_hugging_face(state),
            "a Hugging Face file. Pass the folder that it is in, with its config.json and preprocessor_config.json",
        ),
        (
            "visual.conv1.weight" in state and "token_embedding.weight" not in state,
            "only the image encoder of a CLIP. Use the file of the whole model",
        ),
        (
            any(name.startswith("text.transformer.embeddings") for name in state),
            'a CLIP with a text encoder of Hugging Face. Run `pip install "mlclip[open_clip]"` and pass open_clip:NAME/TAG',
        ),
    ]
    for found, what in kinds:
        if found:
            raise InputError(f"{path} holds {what}.")


def _without_text_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip writes the text encoder of some models under "text."."""
    return {name.removeprefix("text."): tensor for name, tensor in state.items()}


def _refuse_adapter(folder: Path) -> None:
    if not (folder / ADAPTER).is_file():
        return
    base = read_json(folder / ADAPTER).text("base_model_name_or_path", "its base model")
    raise InputError(
        f"{folder} holds a LoRA adapter, not a whole CLIP. Merge it into {base} (peft's `merge_and_unload`) and pass the folder "
        "with the result."
    )


def _hugging_face_weights(folder: Path) -> dict[Path, set[str] | None]:
    """The weight files, each with the names of the tensors that the index promises in it (None: no index)."""
    for name in HUGGING_FACE_WEIGHTS:
        if (folder / name).is_file():
            return {folder / name: None}
        if (folder / f"{name}{INDEX}").is_file():
            return _shards(folder, f"{name}{INDEX}")
    shards = sorted(file.name for file in folder.iterdir() if _SHARD.fullmatch(file.name))
    if shards:
        raise InputError(
            f"{folder} holds {shards[0]}, a part of a model, but not the index that names all parts "
            f"(model.safetensors{INDEX}). Download the index too."
        )
    return {}


def _shards(folder: Path, index: str) -> dict[Path, set[str] | None]:
    """The parts that an index names. InputError if one is missing: a file of another folder is never read."""
    places = read_json(folder / index).section("weight_map")
    names: dict[str, set[str]] = {}
    for tensor, file in places.content.items():
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise places.wrong(one_line(tensor, 60), file, "a file name such as model-00001-of-00002.safetensors")
        names.setdefault(file, set()).add(tensor)
    missing = sorted(name for name in names if not (folder / name).is_file())
    if missing or not names:
        raise InputError(
            f"{folder} lacks {', '.join(missing[:3]) or 'every part'}, {len(missing)} of the {len(names)} parts that {index} "
            "names. Download the rest."
        )
    return {folder / name: names[name] for name in sorted(names)}


def _read_all(files: Mapping[Path, set[str] | None]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file, names in files.items():
        part = read_state_dict(file)
        absent = sorted((names or set()) - part.keys())
        if absent:
            raise InputError(
                f"{file} does not hold {one_line(absent[0], 60)}, which the index promises: the parts are of different downloads. "
                "Download all of them again."
            )
        state |= part
    return state


def _incomplete(folder: Path, weights: Path | None) -> InputError:
    """Why the folder is not a whole CLIP."""
    configs = [name for name in (open_clip_config.CONFIG, hugging_face.CONFIG) if (folder / name).is_file()]
    others = sorted(file.name for file in folder.iterdir() if file.suffix in _ANY_WEIGHTS)
    if weights:
        wanted = open_clip_config.CONFIG if weights.name in OPEN_CLIP_WEIGHTS else hugging_face.CONFIG
        return InputError(
            f"{folder} holds weights but no {wanted}, which says how they are used. Download it from the same place, or pass the "
            f"file {weights} with `clip_activation` and `clip_pixels`."
        )
    if others:
        return InputError(
            f"{folder} holds no weights with a json file that fits them. Pass the weight file: {folder / others[0]}."
        )
    if configs:
        wanted = OPEN_CLIP_WEIGHTS[0] if configs[0] == open_clip_config.CONFIG else HUGGING_FACE_WEIGHTS[0]
        return InputError(f"{folder} holds {configs[0]} but no weights ({wanted}). Download them from the same place.")
    return InputError(
        f"{folder} is a folder without weights of a CLIP. Pass a weight file, a folder that holds one, or a name."
    )


def _hash(file: Path) -> str:
    try:
        return hash_file(file)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}. Check its permissions.") from error


def _hash_all(files: Mapping[Path, set[str] | None]) -> str:
    """The sha256 of one file; of several, the sha256 of theirs."""
    hashes = [_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
