"""The teacher: CLIP turns views into embeddings, and embeddings into class scores.

Its image encoder runs in float32, or in a 16-bit format where that is faster. The text encoder always runs in float32, and so
do cosines and everything after them.

Letters: N views, V views of one photo, C classes, D the joint embedding.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..clip.encoders import ModifiedResNet, fold_quick_gelu
from ..clip.model import CLIP
from ..clip.pixels import OPENAI, pixels_of
from ..config import InputError, OptionError
from ..labels.class_names import fill_template

TEXTS_AT_ONCE = 256
CPU_PIXELS = 16 * 224**2  # of the views that a CPU encodes together
LARGER = 640 / 448  # size of CCD's view of the whole photo, relative to CLIP's input size
FLAT_MARGIN = 0.02  # a mean top-1 probability this close to 1/C means that the scores say nothing
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("auto", *DTYPES)
SMALLEST = 10_000_000  # parameters; below this size decoding photos takes longer than encoding them


class Teacher:
    """A CLIP on a device. Its image encoder runs in `precision` (see `choose_precision`); cosines are always float32.

    `logit_scale` is 1/τ, already exponentiated: 100 for OpenAI's models. `pixels` says how its input is normalised and resized.
    `logit_bias` is None, or the bias of a teacher that was trained with a sigmoid loss. It is the same for all classes, so
    it changes no softmax over the classes and is only recorded. `clip.visual` is changed: its weights are converted for bf16 and
    fp16, and QuickGELU is folded into them. `clip` may be any module with the attributes and methods of `CLIP`.
    """

    def __init__(self, clip: CLIP, device: torch.device | str = "cpu", precision: str = "fp32"):
        self.device = torch.device(device)
        self.precision = choose_precision(precision, self.device, clip.visual)
        self.clip = clip.to(self.device)
        fold_quick_gelu(clip.visual)
        clip.visual.to(DTYPES[self.precision], memory_format=torch.channels_last)
        self.logit_scale = float(clip.logit_scale.detach().float().exp())
        self.input_size = clip.input_resolution
        self.name, self.sha256 = getattr(clip, "name", "unnamed"), getattr(clip, "sha256", "")
        self.pixels = getattr(clip, "pixels", OPENAI)
        self.licence, self.logit_bias = getattr(clip, "licence", ""), getattr(clip, "logit_bias", None)
        self._mean = torch.tensor(self.pixels.mean, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(self.pixels.std, device=self.device).view(3, 1, 1)

    @property
    def is_resnet(self) -> bool:
        """Whether the image encoder is one of CLIP's ResNets; then its patch features are known to help."""
        return isinstance(self.clip.visual, ModifiedResNet)

    @property
    def stride(self) -> int:
        """The side of a view in pixels must be a multiple of this: a transformer's patch size, a ResNet's total stride."""
        return getattr(self.clip.visual, "stride", 32)

    def larger_size(self) -> int:
        """CCD's view size in pixels: 10/7 of CLIP's input size (RN50x64: 640 instead of 448), a multiple of the stride."""
        return round(self.input_size * LARGER / self.stride) * self.stride

    @torch.inference_mode()
    def embed_views(self, pixels: Tensor) -> Tensor:
        """uint8 views (N, 3, H, W) -> L2-normalised embeddings (N, D), float32, on the teacher's device."""
        parts = [self.clip.encode_image(self.normalised(part)).float() for part in self.portions(pixels)]
        return F.normalize(torch.cat(parts), dim=-1)

    def embed_photos(self, pixels: Tensor, batch_size: int) -> Tensor:
        """uint8 views (n, V, 3, H, W) of photos -> embeddings (n, V, D) as of `embed_views`, `batch_size` views at a time."""
        parts = [self.embed_views(part) for part in pixels.flatten(0, 1).split(batch_size)]
        return torch.cat(parts).unflatten(0, pixels.shape[:2])

    def portions(self, pixels: Tensor) -> Sequence[Tensor]:
        """The views (N, 3, H, W) in parts that are encoded together: few on a CPU, whose cache holds the tensors of only a few."""
        if self.device.type != "cpu" or not len(pixels):
            return (pixels,)
        return pixels.split(max(1, CPU_PIXELS // pixels[0, 0].numel()))

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 views (N, 3, H, W) -> the image encoder's input, float32, on the teacher's device."""
        x = (pixels.to(self.device, non_blocking=True).float() / 255 - self._mean) / self._std
        return x.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> L2-normalised embeddings (len(texts), D), float32, on the teacher's device."""
        tokens = self.clip.tokenize(list(texts)).to(self.device)
        parts = [self.clip.encode_text(part).float() for part in tokens.split(TEXTS_AT_ONCE)]
        return F.normalize(torch.cat(parts), dim=-1)


def class_embeddings(teacher: Teacher, prompt_names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """The text side of both papers: prompt names (C) and templates (T) -> w (C, D), L2-normalised, float32, on the CPU.

    Each name is put into each template, encoded and normalised. The mean over the templates is normalised again.
    Raises InputError without templates, and for a template without exactly one `{}`.
    """
    if not templates:
        raise InputError("there is no prompt template. Pass at least one in `templates`, such as 'a photo of a {}'.")
    texts = [fill_template(template, name) for name in prompt_names for template in templates]
    per_text = teacher.embed_texts(texts).unflatten(0, (len(prompt_names), len(templates)))  # (C, T, D)
    return F.normalize(per_text.mean(dim=1), dim=-1).cpu()  # (C, D)


def embeddings_of(meta: Mapping, teacher: Teacher) -> Tensor:
    """The class embeddings (C + contrast, D) that made the labels with this `meta`."""
    return class_embeddings(teacher, [*meta["prompts"], *meta.get("contrast", [])], meta["templates"])


def class_scores(embeddings: Tensor, classes: Tensor, logit_scale: float) -> Tensor:
    """s(v) = softmax_i(f(v)·w_i · logit_scale): (..., D), (C, D) -> (..., C) in [0, 1], in float32.

    `logit_scale` is 1/τ itself (such as 100), not its logarithm.

    >>> class_scores(torch.tensor([[1.0, 0.0]]), torch.eye(2), 2.0)
    tensor([[0.8808, 0.1192]])
    """
    return (embeddings.float() @ classes.float().T * logit_scale).softmax(dim=-1)


def default_clip(device: torch.device) -> str:
    """The default teacher: the papers' RN50x64 on CUDA, the much cheaper ViT-B/32 on other devices."""
    return "RN50x64" if device.type == "cuda" else "ViT-B/32"


def choose_precision(name: str, device: torch.device, encoder: nn.Module) -> str:
    """The precision that `name` means on `device`: "fp32", "bf16" or "fp16".

    "auto": fp16 on CUDA; bf16 on a CPU with instructions for it, for encoders of SMALLEST parameters or more; else
    fp32. Raises OptionError for another name, and for fp16 on a CPU, where it is slow.
    """
    if name not in PRECISIONS:
        raise OptionError(f"`precision` is {name!r}: it must be one of {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise OptionError('`precision="fp16"` needs a GPU; use "bf16", "fp32" or "auto" on a CPU')
    if name != "auto":
        return name
    if device.type == "cuda":
        return "fp16"
    large = sum(parameter.numel() for parameter in encoder.parameters()) >= SMALLEST
    return "bf16" if device.type == "cpu" and large and cpu_bf16_is_faster() else "fp32"


@lru_cache
def cpu_bf16_is_faster() -> bool:
    """Whether this CPU has instructions for bf16 products (AVX-512 BF16 or AMX), which are about twice as fast as float32 ones.

    The instructions decide and not a measurement: a busy moment must not change which numbers a run computes. False where torch's
    oneDNN, which has these products, is off or may not use the instructions (ONEDNN_MAX_CPU_ISA).
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()
    allowed = limit in ("", "ALL", "DEFAULT") or any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10"))
    if not (allowed and torch.backends.mkldnn.is_available()):
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check)


def teacher_facts(teacher: Teacher, logit_scale: float, view_size: int) -> dict[str, Any]:
    """The facts about a teacher as plain containers, for the labels' `meta["clip"]`."""
    facts = {"name": teacher.name, "sha256": teacher.sha256, "activation": teacher.clip.activation}
    facts |= {"precision": teacher.precision, "pixels": teacher.pixels.as_plain(), "licence": teacher.licence}
    if teacher.logit_bias is not None:
        facts["logit_bias"] = teacher.logit_bias
    return facts | {"logit_scale": logit_scale, "view_size": view_size}


def check_same_teacher(
    made: Mapping[str, Any], teacher: Teacher, otherwise: str = ", or pass `other_teacher=True`"
) -> None:
    """InputError if `teacher` is not the CLIP that `made` describes: other weights, another activation or other pixels."""
    here = {"sha256": teacher.sha256, "activation": teacher.clip.activation, "pixels": teacher.pixels}
    theirs = {"sha256": made["sha256"], "activation": made.get("activation"), "pixels": pixels_of(made.get("pixels"))}
    differ = [name for name in ("sha256", "activation") if here[name] != theirs[name]]
    differ += [] if here["pixels"].same_as(theirs["pixels"]) else ["pixels"]
    if differ:
        name = differ[0]
        raise InputError(
            f"CLIP {teacher.name} did not make these labels: its {name} is {str(here[name])[:80]}; theirs is "
            f"{str(theirs[name])[:80]}. Load CLIP {made['name']} as it was then{otherwise}."
        )


def check_teacher(teacher: Teacher, pictures: Tensor, truth: Sequence[int], names: Sequence[str]) -> tuple[int, float]:
    """How many of the uint8 `pictures` (N, 3, S, S) a teacher names right, and its mean top-1 probability.

    `truth` (N,) are indices into `names`. InputError if an embedding is not finite: the weights are damaged.
    """
    text = class_embeddings(teacher, names, ["a photo of a {}"])  # (C, D)
    views = teacher.embed_views(pictures).cpu()  # (N, D)
    if not (text.isfinite().all() and views.isfinite().all()):
        raise InputError(f"{teacher.name} gives embeddings that are not finite. Its weights may be damaged.")
    top1, best = class_scores(views, text, teacher.logit_scale).max(dim=-1)  # (N,)
    return int((best == torch.tensor(list(truth))).sum()), float(top1.double().mean())
