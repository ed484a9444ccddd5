"""`mlclip models`: which teachers there are, and a quick test of one."""

from __future__ import annotations

import click

from ..config import TeacherConfig
from . import options
from .console import Console, printable, table
from .settings import settings


@click.command()
@click.option(
    "--check", "clip", metavar="NAME|FILE|DIR", help="Load a teacher that is on this machine, and let it name drawings."
)
@settings(TeacherConfig)
@options.device
def models(clip, device, **facts):
    """List the teachers that --clip can load, or test one with --check.

    First the CLIP models that are known by name: the size of the download, the input size, and the place of the weights. Then
    the families that are loaded from a folder, from a file, or through the package open_clip.

    --check prints what is known about a teacher, and how sure it is about pictures that mlclip draws itself. Scores that are
    almost equal for all names give a warning: the weights, the activation or the pixels are wrong. A real CLIP need not name
    all drawings right.
    """
    if clip:
        return _check(clip, device, **facts)
    if facts:
        raise click.UsageError("--set belongs to --check")
    click.echo(_listed())
    return 0


def _listed() -> str:
    from ..clip.registry import FAMILIES, MODELS, VOC07_SOURCE, cache_folder, in_hub_cache, restriction

    rows = []
    for name, entry in MODELS.items():
        weights = "downloaded" if entry.path.is_file() else "downloaded at first use"
        rows.append([name, f"{entry.approx_mb} MB", f"{entry.resolution} px", entry.voc07 or "–", "mit", weights])
    rows.append(["tiny", "included", "64 px", "–", "mit", "a toy for the drawn scenes of `mlclip demo`"])
    by_name = table(["name", "size", "input", "VOC07", "licence", "weights"], rows, right=[1, 2, 3])
    rows = [[f.name, f.clip, f.licence + (" *" if restriction(f.licence) else "")] for f in FAMILIES]
    limits = sorted({f"{f.licence}: {restriction(f.licence)}" for f in FAMILIES if restriction(f.licence)})
    here = [f"\nin Hugging Face's cache: {name}" for family in FAMILIES for name in in_hub_cache(family)]
    return f"""{by_name}

Without --clip: RN50x64 on a GPU, as in the papers; the much cheaper ViT-B/32 on a CPU. Larger ones
of each kind are slower, and better in published figures. RN (ResNets) make dense labels, which find
small things. VOC07: mAP in % of the plain similarities on VOC 2007, as published in
{VOC07_SOURCE}.
Downloads go to {printable(str(cache_folder()))}

{table(["family", "--clip", "licence"], rows)}

* {"; ".join(limits)}{"".join(here)}"""


def _check(clip, device, precision="auto", clip_activation=None, clip_pixels=None) -> int:
    """Load a teacher without the network and let it name one drawn picture of each kind."""
    import numpy as np
    import torch

    from ..clip import load_clip
    from ..demo import KINDS, draw_single
    from ..distributed import choose_device
    from ..images import view_pixels
    from ..teacher.scoring import FLAT_MARGIN, Teacher, check_teacher

    progress = Console()
    model = load_clip(clip, activation=clip_activation, pixels=clip_pixels, offline=True, progress=progress)
    teacher = Teacher(model, choose_device(device), precision)
    rng = np.random.default_rng(0)
    drawn = [view_pixels(draw_single(kind, rng, teacher.input_size), teacher.input_size)[0] for kind in KINDS]
    right, mean_top1 = check_teacher(teacher, torch.stack(drawn), range(len(KINDS)), KINDS)
    scale = f"{teacher.logit_scale:.4g}"
    if teacher.logit_bias is not None:
        scale += f", and a bias of {teacher.logit_bias:.4g} (sigmoid loss), which changes no label"
    facts = {
        "teacher": teacher.name,
        "sha256": teacher.sha256,
        "licence": teacher.licence or "not known",
        "activation": teacher.clip.activation,
        "pixels": teacher.pixels,
        "input": f"{teacher.input_size} px, in steps of {teacher.stride}",
        "text": f"up to {teacher.clip.context_length} tokens",
        "embedding": f"{teacher.clip.embed_dim} dimensions",
        "logit scale": scale,
        "mean top-1": f"{mean_top1:.3f} for {len(KINDS)} names (equal scores: {1 / len(KINDS):.3f})",
        "drawn pictures": f"{right} of {len(KINDS)} named right",
    }
    click.echo("\n".join(f"{name:<15} {printable(str(value))}" for name, value in facts.items()))
    if mean_top1 <= 1 / len(KINDS) + FLAT_MARGIN:
        advice = "Check the weights, and --set clip_activation and clip_pixels"
        progress.log(f"warning: the scores are almost equal for all names. {advice}")
    return 0
