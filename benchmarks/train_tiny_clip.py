"""Train the tiny CLIP that the package ships as `mlclip/clip/tiny.pt`: `python benchmarks/train_tiny_clip.py`.

What it knows: the eighteen kinds of objects that `mlclip.demo` draws, one object per picture, on cluttered backgrounds, with
captions such as "a photo of a wheel". It has never seen a photo, and a word that is in no caption has a row of zeros in its
vocabulary. It exists so that `mlclip demo` and the tests run without downloads.

How it learns: each batch of drawings is matched with one caption per kind, from a random template (cross-entropy over
the kinds; the temperature is learned, and the scale is at most CLIP's 100). Some kinds are more frequent than others, as on the web,
so it over-predicts the frequent kinds. The weights are saved in half precision, and the accuracy is measured with the saved weights.
Two cores need about ten minutes. The same seed on the same machine and PyTorch gives the same weights. Log: benchmarks/train_tiny_clip.log.

`--vision vit` trains a small vision transformer instead, to judge the cells of transformers; the package does not ship it. With
`--minutes` the learning rate follows the clock instead of the number of steps, so that a busy machine ends in time, too.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import zlib
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.clip.encoders import Transformer, VisionTransformer
from mlclip.clip.model import CLIP, IMAGE_MEAN, IMAGE_STD, AttentionPool, ModifiedResNet, build_clip
from mlclip.clip.tokenizer import tokenize
from mlclip.demo import KINDS, SINGLE_FREQUENCY, draw_single

RESOLUTION, WIDTH, LAYERS, EMBED_DIM = 64, 16, (1, 1, 1, 1), 128
PATCH, VIT_WIDTH, VIT_LAYERS = 16, 128, 4  # of the vision transformer, small enough for two busy cores
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


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    started = time.time()

    def log(line: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {line}", flush=True)

    log(f"{' '.join(sys.argv)}   torch {torch.__version__}, {options.threads} threads")
    log(f"settings {vars(options) | {'output': Path(options.output).name}}")
    tower = f"patches of {PATCH} px, width {VIT_WIDTH}, layers {VIT_LAYERS}"
    tower = tower if options.vision == "vit" else f"width {WIDTH}, layers {LAYERS}"
    log(f"image tower {options.vision} at {RESOLUTION} px, {tower}, embedding {EMBED_DIM}; text tower {TEXT}")
    log(f"frequency of kinds {dict(zip(KINDS, SINGLE_FREQUENCY.round(3).tolist(), strict=True))}")
    kinds = choose_kinds(options.drawings, options.seed)
    pixels = draw(kinds, options.seed, options.threads)
    log(f"drew {len(pixels)} single objects for training")
    model = new_clip(options.vision).to(memory_format=torch.channels_last)  # twice as fast on a CPU
    fit(model, pixels, torch.from_numpy(kinds), options, log)
    state = to_state(model)
    torch.save(state, options.output)
    size = len(zlib.compress(Path(options.output).read_bytes(), 6))
    log(
        f"wrote {Path(options.output).name}: {sum(t.numel() for t in state.values())} numbers, {size / 1e6:.2f} MB deflated"
    )
    report(build_clip(state), options, log)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default=str(Path(__file__).parents[1] / "mlclip" / "clip" / "tiny.pt"))
    parser.add_argument("--vision", choices=["resnet", "vit"], default="resnet")
    parser.add_argument("--minutes", type=float, help="train for this long instead of --epochs")
    parser.add_argument("--drawings", type=int, default=40000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


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


def new_clip(vision: str = "resnet") -> CLIP:
    """An untrained CLIP, initialised as CLIP was: normally distributed weights, scaled by width and depth."""
    visual = new_vit() if vision == "vit" else new_resnet()
    model = CLIP(visual, RESOLUTION, TEXT, EMBED_DIM, "quick_gelu")
    _start_text(model)
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


def new_vit() -> VisionTransformer:
    size = (VIT_WIDTH, VIT_LAYERS, 4 * VIT_WIDTH)
    visual = VisionTransformer(RESOLUTION // PATCH, PATCH, size, EMBED_DIM, "quick_gelu")
    for parameter in (visual.class_embedding, visual.positional_embedding, visual.proj):
        nn.init.normal_(parameter, std=VIT_WIDTH**-0.5)
    nn.init.kaiming_normal_(visual.conv1.weight, nonlinearity="linear")
    _start_blocks(visual.transformer, VIT_WIDTH, VIT_LAYERS)
    return visual


def _start_text(model: CLIP) -> None:
    width, layers = TEXT["width"], TEXT["layers"]
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.text_projection, std=width**-0.5)
    nn.init.constant_(model.logit_scale, math.log(1 / 0.07))
    _start_blocks(model.transformer, width, layers)


def _start_blocks(transformer: Transformer, width: int, layers: int) -> None:
    for block in transformer.resblocks:
        nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
        nn.init.normal_(block.attn.out_proj.weight, std=(width * 2 * layers) ** -0.5)
        nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.c_proj.weight, std=(width * 2 * layers) ** -0.5)


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


def fit(model: CLIP, pixels: Tensor, kinds: Tensor, options: argparse.Namespace, log) -> None:
    """The training loop: AdamW; the learning rate rises for a short time and then falls as a cosine."""
    captions = all_captions()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), fused=True)
    steps = len(pixels) // options.batch  # per epoch
    clock = Clock(options.epochs * steps, options.minutes)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: one_cycle(clock.share()))
    model.train()
    epoch = 0
    while clock.share() < 1:
        losses = []
        for rows in torch.randperm(len(pixels))[: steps * options.batch].split(options.batch):
            tokens = captions[int(torch.randint(len(captions), ()))]
            loss = F.cross_entropy(similarities(model, pixels[rows], tokens), kinds[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.steps += 1
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))
            losses.append(loss.item())
            if clock.share() >= 1:
                break
        epoch, scale = epoch + 1, model.logit_scale.exp().item()
        log(f"epoch {epoch:2d}  {clock.share():4.0%}  loss {np.mean(losses):.4f}  exp(logit_scale) {scale:.1f}")


class Clock:
    """How far the training is: by its steps, or with `minutes` by the time."""

    def __init__(self, total: int, minutes: float | None):
        self.steps, self.total, self.minutes, self.started = 0, total, minutes, time.monotonic()

    def share(self) -> float:
        """From 0 to 1 and above."""
        return (time.monotonic() - self.started) / 60 / self.minutes if self.minutes else self.steps / self.total


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
def report(model: CLIP, options: argparse.Namespace, log) -> None:
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
