"""Fixtures of many tests: shared real data, a small folder of generated photos, a small random CLIP on disk."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.labels.table import Labels
from mlclip.progress import Progress

SHARED = Path(__file__).parents[1].parent / "shared"


FIRST = (
    "test_user_paths",
    "test_processes",
    "test_export",
    "test_cli",
    "test_train",
    "test_input_cache",
)  # the slowest files


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest files come first, so that two processes, which share out the files, end at about the same time."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))


@pytest.fixture(scope="session")
def voc12() -> Path:
    """The folder of real photos and scores. Skips the test if it does not exist."""
    folder = SHARED / "voc12"
    if not folder.is_dir():
        pytest.skip(f"the real photos do not exist ({folder})")
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache_of_the_module(tmp_path_factory) -> Iterator[None]:
    """The cache of fixtures that a whole file shares: not the user's, whose embeddings of the same photos would be used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCLIP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """Give every test its own cache, so that tests do not share embeddings and do not use the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLCLIP_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 12 small JPEGs from a fixed seed: red, green and blue noise in turn."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 90, (40 + number, 60, 3), dtype=np.uint8)
        pixels[..., number % 3] += 150
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=95)
    return folder


@pytest.fixture
def labels(photos) -> Labels:
    """Nearly certain labels of `photos`: red, green and blue in turn."""
    scores = torch.nn.functional.one_hot(torch.arange(12) % 3).float() * 0.9 + 0.05
    return Labels([f"{n:02d}.jpg" for n in range(12)], ["red", "green", "blue"], scores, root=str(photos))


class Told(Progress):
    """A Progress that keeps the lines it gets."""

    def __init__(self):
        self.lines = []

    def log(self, line):
        self.lines.append(line)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(scope="session")
def open_clip():
    """The package, which is a reference of our encoders and tokenizer. Skips the test if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("open_clip")


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory) -> Path:
    """A weight file of a random CLIP with a small ResNet: input 64 px, embedding 32."""
    from mlclip.clip import model

    torch.manual_seed(0)
    clip = model.CLIP(
        model.ModifiedResNet(64, 8, (1, 1, 1, 1), 32),
        64,
        {"context": 77, "vocab": 49408, "width": 64, "layers": 1},
        32,
        "quick_gelu",
    )
    for name, parameter in clip.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02 if "embedding" in name else parameter[0].numel() ** -0.5)
    torch.nn.init.constant_(clip.logit_scale, 4.6052)
    file = tmp_path_factory.mktemp("clip") / "small.pt"
    torch.save(clip.state_dict(), file)
    return file


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """A student with random weights, in a folder of its own."""
    from mlclip.student.checkpoint import Checkpoint, save_checkpoint
    from mlclip.student.model import Classifier

    torch.manual_seed(0)
    model = Classifier("mobilenet_v3_small", ["red", "green", "blue"], 64).eval()
    file = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(Checkpoint(model, torch.full((3,), 0.5)), file)
    return file


@pytest.fixture(scope="session")
def teacher(clip_file):
    from mlclip.clip import load_clip
    from mlclip.teacher.scoring import Teacher

    return Teacher(load_clip(clip_file))


@pytest.fixture
def command(clip_file, tmp_path, monkeypatch, capfd):
    """Runs a command in `tmp_path`, without a process: its status, and what it has written to stdout and to stderr.

    The first argument may be several words, such as "predict photos --topk 2".
    """
    from mlclip.cli import _status

    monkeypatch.chdir(tmp_path)

    def run(line: str, *more: object) -> tuple[int, str, str]:
        words = [*line.split(), *map(str, more)]
        status = _status([str(clip_file) if word == "CLIP" else word for word in words])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def interrupt_at(monkeypatch):
    """A context in which one call of a function raises KeyboardInterrupt, as Ctrl-C does. The interrupt ends the context."""

    @contextmanager
    def context(name: str, call: int = 1):
        function, calls = resolve_name(name), itertools.count(1)

        def counted(*args, **settings):
            if next(calls) == call:
                raise KeyboardInterrupt
            return function(*args, **settings)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(name, counted)
            yield

    return context
