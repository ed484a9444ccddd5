"""Train the tiny CLIP that the package ships as `mlclip/clip/tiny.pt`: `python benchmarks/train_tiny_clip.py`.

What it knows: the eighteen kinds of objects that `mlclip.demo` draws, one object per picture, on cluttered backgrounds, with
captions such as "a photo of a wheel". It has never seen a photo, and a word that is in no caption has a row of zeros in its
vocabulary. It exists so that `mlclip demo` and the tests run without downloads.

How it learns: each batch of drawings is matched with one caption per kind, from a random template (cross-entropy over
the kinds; the temperature is learned, and the scale is at most CLIP's 100). Some kinds are more frequent than others, as on the web,
so it over-predicts the frequent kinds. The weights are saved in half precision, and the accuracy is measured with the saved weights.
Two cores need about ten minutes. The same seed on the same machine and PyTorch gives the same weights. Log: benchmarks/train_tiny_clip.log.

With `--vision vit --distil`, a small vision transformer learns the image embeddings of that CLIP instead, by their cosine, for `--minutes`:
of single objects and of crops of scenes, also mirrored. The text side stays. It shows what dense labels make of a transformer
(`labels.py vit`), and is not shipped. With `--pool mean`, its embedding is the mean of the patches after the last block instead of
the class token.
"""

from __future__ import annotations

import math
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import mlclip
from mlclip.clip.encoders import AttentionPool, ModifiedResNet, ResidualAttentionBlock, VisionTransformer
from mlclip.clip.model import CLIP, build_clip
from mlclip.clip.pixels import IMAGE_MEAN, IMAGE_STD
from mlclip.clip.tokenizer import tokenize
from mlclip.demo import KINDS, SINGLE_FREQUENCY, draw_scene, draw_single

RESOLUTION, WIDTH, LAYERS, EMBED_DIM = 64, 16, (1, 1, 1, 1), 128
VIT_WIDTH = 128
CROPS, SMALLEST_CROP = 10, 0.3  # of each scene; the side of a crop is from this share of the scene's up to all of it
TEXT = {"context": 77, "vocab": 49408, "width": 64, "layers": 2}
TEMPLATES = (
    "a photo of a {}",
    "a photo of the {}",
    "a picture of a {}",
    "a drawing of a {}",
    "a small {}",
    "a large {}",
    "a {} among other things",
    "the {}",
    "a {}",
    "{}",
)
SHIPPED = Path(__file__).parents[1] / "mlclip" / "clip" / "tiny.pt"
HELD_OUT = 10**6  # drawings with this number or a higher one are never used for training
HELD_OUT_EACH = 60  # drawings of each kind


@dataclass(frozen=True)
class Options:
    """How much is drawn, and how the CLIP learns."""

    output: str
    drawings: int
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    seed: int
    threads: int
    vision: str
    distil: bool
    pool: str
    patch: int
    layers: int
    start: str | None
    minutes: float


@click.command(help=__doc__)
@click.option("-o", "--output", default=str(SHIPPED))
@click.option("--drawings", default=40000)
@click.option("--epochs", default=10)
@click.option("--batch", default=128)
@click.option("--lr", default=2e-3)
@click.option("--weight-decay", default=0.05)
@click.option("--seed", default=0)
@click.option("--threads", default=2)
@click.option("--vision", type=click.Choice(["resnet", "vit"]), default="resnet")
@click.option("--distil", is_flag=True, help="Learn the image embeddings of the shipped tiny CLIP.")
@click.option(
    "--pool",
    type=click.Choice(["class", "mean"]),
    default="class",
    help="Of a vit: its class token, or the mean of its patches.",
)
@click.option("--patch", default=16, help="Of a vit: the side of its patches in pixels.")
@click.option("--layers", default=4, help="Of a vit: its blocks.")
@click.option("--start", type=click.Path(exists=True), help="With --distil: weights of an earlier run, to begin with.")
@click.option("--minutes", default=25.0, help="Time of training with --distil.")
def main(**chosen) -> None:
    options = Options(**chosen)
    if options.distil and Path(options.output) == SHIPPED:
        raise click.UsageError("--distil learns from the shipped weights: pass another file with --output")
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    started = time.time()

    def log(line: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {line}", flush=True)

    log(f"{' '.join(sys.argv)}   torch {torch.__version__}, {options}")
    log(f"image tower at {RESOLUTION} px, width {WIDTH}, layers {LAYERS}, embedding {EMBED_DIM}; text tower {TEXT}")
    log(f"frequency of kinds {dict(zip(KINDS, SINGLE_FREQUENCY.round(3).tolist(), strict=True))}")
    kinds = choose_kinds(options.drawings, options.seed)
    pixels = draw(kinds, options.seed, options.threads)
    log(f"drew {len(pixels)} single objects for training")
    if options.distil:
        model = distilled(pixels, options, log)
    else:
        model = new_clip(options).to(memory_format=torch.channels_last)  # twice as fast on a CPU
        fit(model, pixels, torch.from_numpy(kinds), options, log)
    state = to_state(model)
    torch.save(state, options.output)
    size, numbers = len(zlib.compress(Path(options.output).read_bytes(), 6)), sum(t.numel() for t in state.values())
    log(f"wrote {Path(options.output).name}: {numbers} numbers, {size / 1e6:.2f} MB deflated")
    report(with_pool(build_clip(state), options.pool), options, log)


def choose_kinds(count: int, seed: int) -> np.ndarray:
    """(count,) indices into KINDS, with uneven frequencies as on the web."""
    return np.random.default_rng([seed, 1]).choice(len(KINDS), size=count, p=SINGLE_FREQUENCY)


def _draw_one(job: tuple[int, int, int]) -> np.ndarray:
    kind, number, seed = job
    return np.asarray(draw_single(KINDS[kind], np.random.default_rng([seed, 2, number]), RESOLUTION))


def draw(kinds: np.ndarray, seed: int, processes: int, first: int = 0) -> Tensor:
    """(N,) kinds -> (N, 3, 64, 64) uint8 drawings; drawing `first + n` depends only on the seed and its number."""
    jobs = [(int(kind), first + number, seed) for number, kind in enumerate(kinds)]
    with ProcessPoolExecutor(processes) as pool:
        pictures = np.stack(list(pool.map(_draw_one, jobs, chunksize=256)))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)  # (N, 3, H, W), channels last in memory


def new_clip(options: Options) -> CLIP:
    """An untrained CLIP, initialised as CLIP was: normally distributed weights, scaled by width and depth."""
    visual = new_resnet() if options.vision == "resnet" else new_vit(options.patch, options.layers)
    model = CLIP(visual, RESOLUTION, TEXT, EMBED_DIM, "quick_gelu")
    width, layers = TEXT["width"], TEXT["layers"]
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=width**-0.5)
    nn.init.constant_(model.logit_scale, math.log(1 / 0.07))
    init_blocks(model.transformer.resblocks, width, layers)
    return model


def init_blocks(blocks: nn.ModuleList, width: int, layers: int) -> None:
    for block in blocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(width * 2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(width * 2 * layers) ** -0.5)


def new_vit(patch: int, layers: int) -> VisionTransformer:
    visual = VisionTransformer(RESOLUTION // patch, patch, (VIT_WIDTH, layers, 4 * VIT_WIDTH), EMBED_DIM, "quick_gelu")
    for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
        nn.init.normal_(parameter, std=VIT_WIDTH**-0.5)
    init_blocks(visual.transformer.resblocks, VIT_WIDTH, layers)
    return visual


class MeanBlock(ResidualAttentionBlock):
    """A last block whose result is the mean of its patches instead of the class token."""

    def first_token(self, x: Tensor) -> Tensor:
        return self(x, None)[:, 1:].mean(1)  # (N, 1 + h·w, E) -> (N, E)


def with_pool(model: CLIP, pool: str) -> CLIP:
    """The same CLIP; with "mean" its vision transformer ends in a `MeanBlock`. No weight file shows which one it is."""
    if pool == "mean":
        blocks = model.visual.transformer.resblocks
        last = MeanBlock(VIT_WIDTH, 4 * VIT_WIDTH, 64, "quick_gelu")
        last.load_state_dict(blocks[-1].state_dict())
        blocks[-1] = last
    return model.eval()


def new_resnet() -> ModifiedResNet:
    visual = ModifiedResNet(RESOLUTION, WIDTH, LAYERS, EMBED_DIM)
    for module in visual.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, AttentionPool):
            width = module.k_proj.in_features
            nn.init.normal_(module.positional_embedding, std=width**-0.5)
            for linear in (module.q_proj, module.k_proj, module.v_proj, module.c_proj):
                nn.init.normal_(linear.weight, std=width**-0.5)
    return visual


def all_captions() -> Tensor:
    """(templates, C, L) token ids, cut to the longest caption."""
    tokens = torch.stack([tokenize([t.format(kind) for kind in KINDS]) for t in TEMPLATES])
    return tokens[:, :, : int((tokens != 0).sum(-1).max())]


def normalise(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float, normalised with CLIP's mean and standard deviation."""
    mean, std = torch.tensor(IMAGE_MEAN)[:, None, None], torch.tensor(IMAGE_STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def similarities(model: CLIP, pixels: Tensor, tokens: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 and (C, L) -> (N, C) cosines times exp(logit_scale)."""
    images = image_embeddings(model, pixels)
    texts = F.normalize(model.encode_text(tokens), dim=-1)
    return model.logit_scale.exp() * images @ texts.T


def fit(model: CLIP, pixels: Tensor, kinds: Tensor, options: Options, log: Callable[[str], None]) -> None:
    """The training loop: AdamW; the learning rate rises for a short time and then falls as a cosine."""
    captions, optimizer = all_captions(), new_optimizer(model, options)
    steps = len(pixels) // options.batch  # per epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step / (options.epochs * steps)))
    model.train()
    for epoch in range(options.epochs):
        losses = []
        for rows in torch.randperm(len(pixels))[: steps * options.batch].split(options.batch):
            tokens = captions[int(torch.randint(len(captions), ()))]
            loss = F.cross_entropy(similarities(model, pixels[rows], tokens), kinds[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            losses.append(loss.item())
        log(f"epoch {epoch + 1:2d}  loss {np.mean(losses):.4f}  exp(logit_scale) {model.logit_scale.exp().item():.1f}")


def new_optimizer(model: nn.Module, options: Options) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)


def _draw_crops(job: tuple[int, int]) -> np.ndarray:
    """CROPS random squares of one scene, (CROPS, 64, 64, 3) uint8."""
    number, seed = job
    rng = np.random.default_rng([seed, 3, number])
    picture, crops = draw_scene(rng)[0], []
    for _ in range(CROPS):
        side = picture.width * rng.uniform(SMALLEST_CROP, 1)
        left, top = rng.uniform(0, picture.width - side, 2)
        box = (left, top, left + side, top + side)
        crops.append(np.asarray(picture.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC, box=box)))
    return np.stack(crops)


def draw_crops(scenes: int, seed: int, processes: int, first: int = 0) -> Tensor:
    """Crops of drawn scenes, (scenes · CROPS, 3, 64, 64) uint8. They are not scenes of `mlclip demo`."""
    with ProcessPoolExecutor(processes) as pool:
        jobs = [(first + number, seed) for number in range(scenes)]
        pictures = np.concatenate(list(pool.map(_draw_crops, jobs, chunksize=64)))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def image_embeddings(model: CLIP, pixels: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> L2-normalised embeddings (N, D)."""
    return F.normalize(model.encode_image(normalise(pixels)), dim=-1)


def distilled(pixels: Tensor, options: Options, log: Callable[[str], None]) -> CLIP:
    """A CLIP with a new image encoder that learns the shipped one's embeddings of `pixels` and of as many crops of scenes, and of
    their mirror images.

    The loss is 1 − cosine. The learning rate follows the share of the minutes that has passed.
    """
    teacher = mlclip.load_clip("tiny")
    pixels = torch.cat([pixels, draw_crops(len(pixels) // CROPS, options.seed, options.threads)])
    pixels = torch.cat([pixels, pixels.flip(-1)])
    held_out = draw_crops(HELD_OUT_EACH, options.seed, options.threads, first=HELD_OUT)
    with torch.inference_mode():
        targets, expected = (
            torch.cat([image_embeddings(teacher, part) for part in of.split(256)]) for of in (pixels, held_out)
        )
    targets = targets.clone()
    model = new_clip(options)
    for name, parameter in teacher.named_parameters():
        if not name.startswith("visual."):
            model.get_parameter(name).data.copy_(parameter)
    if options.start:
        model.load_state_dict(torch.load(options.start, weights_only=True))
    model = with_pool(model, options.pool)
    optimizer = new_optimizer(model.visual, options)
    log(
        f"{len(pixels)} pictures with their embeddings; {sum(p.numel() for p in model.visual.parameters())} numbers learn"
    )
    started, steps, losses, passed = time.time(), 0, [], 0.0
    while passed < 1:
        for group in optimizer.param_groups:
            group["lr"] = options.lr * one_cycle(passed)
        rows = torch.randint(len(pixels), (options.batch,))
        loss = 1 - (image_embeddings(model, pixels[rows]) * targets[rows]).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.visual.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        steps, passed = steps + 1, (time.time() - started) / (60 * options.minutes)
        if steps % 500 == 0 or passed >= 1:
            log(f"step {steps:5d}  cosine of the last steps {1 - np.mean(losses[-500:]):.3f}")
    with torch.inference_mode():
        found = torch.cat([image_embeddings(model, part) for part in held_out.split(256)])
    log(f"cosine with the embeddings of {len(held_out)} held-out crops: {(found * expected).sum(-1).mean():.3f}")
    return model


def one_cycle(share: float, rise: float = 0.1) -> float:
    """The learning rate as a part of its maximum: cosines up from 1/25, then down to 0, as `OneCycleLR`."""
    if share < rise:
        return 1 - (1 - 1 / 25) * (1 + math.cos(math.pi * share / rise)) / 2
    return (1 + math.cos(math.pi * min(1, (share - rise) / (1 - rise)))) / 2


def to_state(model: CLIP) -> OrderedDict[str, Tensor]:
    """The state dict in half precision with OpenAI's names; rows of words that are in no caption are zero."""
    state = OrderedDict((name, t.half() if t.is_floating_point() else t) for name, t in model.state_dict().items())
    unused = torch.ones(TEXT["vocab"], dtype=torch.bool)
    unused[all_captions().unique()] = False
    state["token_embedding.weight"][unused] = 0
    return state


@torch.inference_mode()
def report(model: CLIP, options: Options, log: Callable[[str], None]) -> None:
    """Log the zero-shot accuracy of the saved weights on held-out drawings, the same number of each kind."""
    kinds = np.repeat(np.arange(len(KINDS)), HELD_OUT_EACH)
    pixels = draw(kinds, options.seed, options.threads, first=HELD_OUT)
    tokens = tokenize([TEMPLATES[0].format(kind) for kind in KINDS])
    probabilities = torch.cat([similarities(model, part, tokens) for part in pixels.split(256)]).softmax(-1)
    confidence, guesses = probabilities.max(-1)
    correct = guesses == torch.from_numpy(kinds)
    log(
        f"held-out single objects, {HELD_OUT_EACH} of each kind, {TEMPLATES[0]!r}: accuracy {correct.float().mean():.3f}"
    )
    log(f"mean top-1 probability {confidence.mean():.3f}; exp(logit_scale) {model.logit_scale.exp():.1f}")
    for number, kind in enumerate(KINDS):
        frequency = (guesses == number).sum() / HELD_OUT_EACH
        log(
            f"  {kind:10s} correct {correct[kinds == number].float().mean():.2f}   predicted {frequency:.2f} times as often as shown"
        )


if __name__ == "__main__":
    main()
