"""Train the tiny CLIP that the package ships as `mlclip/clip/tiny.pt`: `python benchmarks/train_tiny_clip.py`.

What it knows: the eighteen kinds of objects that `mlclip.demo` draws, one object per picture, on cluttered backgrounds, with
captions such as "a photo of a wheel". It has never seen a photo, and a word that is in no caption has a row of zeros in its
vocabulary. It exists so that `mlclip demo` and the tests run without downloads.

How it learns: each batch of drawings is matched with one caption per kind, from a random template (cross-entropy over
the kinds; the temperature is learned, and the scale is at most CLIP's 100). Some kinds are more frequent than others, as on the web,
so it over-predicts the frequent kinds. The weights are saved in half precision, and the accuracy is measured with the saved weights.
Two cores need about ten minutes. The same seed on the same machine and PyTorch gives the same weights. Log: benchmarks/train_tiny_clip.log.
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
from torch import Tensor, nn

from mlclip.clip.encoders import AttentionPool, ModifiedResNet
from mlclip.clip.model import CLIP, build_clip
from mlclip.clip.pixels import IMAGE_MEAN, IMAGE_STD
from mlclip.clip.tokenizer import tokenize
from mlclip.demo import KINDS, SINGLE_FREQUENCY, draw_single

RESOLUTION, WIDTH, LAYERS, EMBED_DIM = 64, 16, (1, 1, 1, 1), 128
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


@click.command(help=__doc__)
@click.option("-o", "--output", default=str(Path(__file__).parents[1] / "mlclip" / "clip" / "tiny.pt"))
@click.option("--drawings", default=40000)
@click.option("--epochs", default=10)
@click.option("--batch", default=128)
@click.option("--lr", default=2e-3)
@click.option("--weight-decay", default=0.05)
@click.option("--seed", default=0)
@click.option("--threads", default=2)
def main(**chosen) -> None:
    options = Options(**chosen)
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
    model = new_clip().to(memory_format=torch.channels_last)  # twice as fast on a CPU
    fit(model, pixels, torch.from_numpy(kinds), options, log)
    state = to_state(model)
    torch.save(state, options.output)
    size, numbers = len(zlib.compress(Path(options.output).read_bytes(), 6)), sum(t.numel() for t in state.values())
    log(f"wrote {Path(options.output).name}: {numbers} numbers, {size / 1e6:.2f} MB deflated")
    report(build_clip(state), options, log)


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


def new_clip() -> CLIP:
    """An untrained CLIP, initialised as CLIP was: normally distributed weights, scaled by width and depth."""
    model = CLIP(new_resnet(), RESOLUTION, TEXT, EMBED_DIM, "quick_gelu")
    width, layers = TEXT["width"], TEXT["layers"]
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=width**-0.5)
    nn.init.constant_(model.logit_scale, math.log(1 / 0.07))
    for block in model.transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(width * 2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(width * 2 * layers) ** -0.5)
    return model


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
    images = F.normalize(model.encode_image(normalise(pixels)), dim=-1)
    texts = F.normalize(model.encode_text(tokens), dim=-1)
    return model.logit_scale.exp() * images @ texts.T


def fit(model: CLIP, pixels: Tensor, kinds: Tensor, options: Options, log: Callable[[str], None]) -> None:
    """The training loop: AdamW; the learning rate rises for a short time and then falls as a cosine."""
    captions = all_captions()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
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
