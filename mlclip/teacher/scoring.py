"""The teacher: CLIP turns views into embeddings, and embeddings into class scores.

Letters: N views, V views of one photo, C classes, D the joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.encoders import ModifiedResNet
from ..clip.model import CLIP
from ..clip.pixels import OPENAI
from ..config import InputError
from ..methods.compound import pairs_of, with_pairs
from .precision import DTYPES, choose_precision

TEXTS_AT_ONCE = 256
MOST_COMPOUND = 400  # names whose pairs become prompts: 79,800 of them
CPU_PIXELS = 16 * 224**2  # of the views that a CPU encodes together
LARGER = 640 / 448  # size of CCD's view of the whole photo, relative to CLIP's input size


class Teacher:
    """A CLIP on a device. Its image encoder runs in `precision` (see `choose_precision`); cosines are always float32.

    `logit_scale` is 1/τ, already exponentiated: 100 for OpenAI's models. `pixels` says how its input is normalised and resized.
    `logit_bias` is None, or the bias of a teacher that was trained with a sigmoid loss. It is the same for all classes, so
    it changes no softmax over the classes and is only recorded. For bf16 and fp16 the weights of `clip.visual` are converted
    in place. `clip` may be any module with the attributes and methods of `CLIP`.
    """

    def __init__(self, clip: CLIP, device: torch.device | str = "cpu", precision: str = "fp32"):
        self.device = torch.device(device)
        self.precision = choose_precision(precision, self.device, clip.visual)
        self.clip = clip.to(self.device)
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
        """Whether the image encoder is one of CLIP's ResNets; then the cells of its feature map are known to help."""
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
        return F.normalize(
            torch.cat([self.clip.encode_text(part).float() for part in tokens.split(TEXTS_AT_ONCE)]), dim=-1
        )


def class_embeddings(
    teacher: Teacher, prompt_names: Sequence[str], templates: Sequence[str], *, compound: bool = False
) -> Tensor:
    """The text side of both papers: prompt names (C) and templates (T) -> w (C, D), L2-normalised, float32, on the CPU.

    Each name is put into each template, encoded and normalised. The mean over the templates is normalised again. With `compound`,
    the prompts of all pairs of names, in the first template, count half (see `methods/compound.py`).
    Raises InputError without templates, for a template without exactly one `{}`, and for the pairs of too many names.
    """
    from ..labels.class_names import fill_template

    if not templates:
        raise InputError("there is no prompt template. Pass at least one in `templates`, such as 'a photo of a {}'.")
    texts = [fill_template(template, name) for name in prompt_names for template in templates]
    per_text = teacher.embed_texts(texts).unflatten(0, (len(prompt_names), len(templates)))  # (C, T, D)
    single = F.normalize(per_text.mean(dim=1), dim=-1).cpu()  # (C, D)
    if not compound:
        return single
    if len(prompt_names) > MOST_COMPOUND:
        raise InputError(
            f"`compound` makes a prompt for every pair of {len(prompt_names)} names; it is for at most {MOST_COMPOUND}. Remove it."
        )
    pairs = [f"{prompt_names[a]} and {prompt_names[b]}" for a, b in pairs_of(len(prompt_names))]
    return with_pairs(single, teacher.embed_texts([fill_template(templates[0], pair) for pair in pairs]).cpu())


def embeddings_of(meta: Mapping, teacher: Teacher) -> Tensor:
    """The class embeddings (C + contrast, D) that made the labels with this `meta`."""
    compound = bool(meta.get("settings", {}).get("compound"))
    return class_embeddings(
        teacher, [*meta["prompts"], *meta.get("contrast", [])], meta["templates"], compound=compound
    )


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
