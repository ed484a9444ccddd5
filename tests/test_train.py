"""The student: its trunks, its weights, its training, its checkpoint, and the errors of wrong inputs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms.v2 import functional as torchvision_transforms

from mlclip.clip import read_state_dict
from mlclip.config import ARCHS, CLIP_ARCH, InputError, TrainConfig
from mlclip.distributed import Distributed, Runtime
from mlclip.images import find_images
from mlclip.images.shards import content_hash
from mlclip.labels.table import read_labels
from mlclip.methods.cdul import latent_of
from mlclip.student.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mlclip.student.init import load_trunk
from mlclip.student.model import Classifier, build_trunk, clip_trunk
from mlclip.student.predict import predict
from mlclip.training.augment import ADJUSTMENTS, jitter_colours, jitter_table
from mlclip.training.label_step import label_step
from mlclip.training.loop import resume_file, train_student
from mlclip.training.schedule import duration
from mlclip.training.start import start_training, sync_batch_norm
from mlclip.training.state import save_state
from mlclip.training.weight_step import WeightAverage, choose_training_precision, fast_convolutions, weight_step

CONFIG = TrainConfig(method="fixed", arch="mobilenet_v3_small", init="none", size=64, epochs=2, batch_size=4, lr=1e-3)
CLASSES = ["red", "green", "blue"]
STEP = "mlclip.training.weight_step.weight_step"


def torchvision_trunk(arch: str) -> torch.nn.Module:
    network = torchvision.models.get_model(arch, weights=None)
    if arch.startswith("resnet"):
        return torch.nn.Sequential(*(part for name, part in network.named_children() if name not in ("avgpool", "fc")))
    parts = [network.features] + ([network.classifier[0]] if arch.startswith("convnext") else [])
    return torch.nn.Sequential(*parts)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_network_has_the_weights_outputs_and_gradients_of_torchvision(arch):
    torch.manual_seed(0)
    expected = torchvision_trunk(arch)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    trunk = build_trunk(arch)
    assert torch.equal(torch.get_rng_state(), after)
    names = [name.partition(".")[2] for name in trunk.state_dict()]
    assert names == [name.partition(".")[2] for name in expected.state_dict()]
    assert all(map(torch.equal, trunk.state_dict().values(), expected.state_dict().values()))
    pixels = torch.randn(2, 3, 64, 64)
    for network in (trunk, expected):  # in training: batch norm and stochastic depth draw and change what they keep
        torch.manual_seed(1)
        network.train()(pixels).square().mean().backward()
        network.eval()
    assert all(map(torch.equal, trunk.state_dict().values(), expected.state_dict().values()))
    ours, theirs = ([p.grad for p in network.parameters()] for network in (trunk, expected))
    assert all(map(torch.equal, ours, theirs))
    assert torch.equal(trunk(pixels), expected(pixels))


@pytest.mark.parametrize("arch", ARCHS)
def test_the_logits_of_every_trunk_are_the_means_of_its_maps(arch):
    model = Classifier(arch, CLASSES, 64).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        maps, logits = model.maps(pixels), model(pixels)
    assert maps.shape == (2, 3, 2, 3)
    assert torch.allclose(maps.mean((2, 3)), logits, atol=1e-5)


def test_a_calibration_changes_logits_but_not_maps_and_a_second_one_is_added_to_it():
    model = Classifier("resnet18", CLASSES, 64).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    slope, offset = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([-1.0, 0.0, 1.0])
    with torch.inference_mode():
        maps, logits = model.maps(pixels), model(pixels)
        model.calibrate(slope, offset)
        model.calibrate(slope, offset)
        assert torch.equal(model.maps(pixels), maps)
        assert torch.allclose(model(pixels), slope * (slope * logits + offset) + offset, atol=1e-5)
    assert not {"scale", "offset"} & {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "convnext_tiny"])
def test_torchvision_weights_are_loaded_from_a_file(arch, tmp_path):
    torch.manual_seed(1)
    reference = torchvision.models.get_model(arch, weights=None).eval()
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in reference.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    model = Classifier(arch, CLASSES, 64).eval()
    load_trunk(model, str(tmp_path / "weights.pth"))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    loaded = {k: v for k, v in model.trunk.state_dict().items() if not k.startswith("norm.")}
    assert all(torch.allclose(v.float(), reference.state_dict()[k].half().float()) for k, v in loaded.items())
    assert model.trunk(model.normalise(pixels)).isfinite().all()


def test_the_resnet_of_a_clip_can_be_the_student_and_survives_saving_and_loading(clip_file, tmp_path):
    model = Classifier(CLIP_ARCH, CLASSES, 64, trunk=clip_trunk(read_state_dict(clip_file), "small.pt")).eval()
    save_checkpoint(Checkpoint(model, torch.full((3,), 0.5)), tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt").model
    pixels = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    assert torch.equal(loaded(pixels), model(pixels))


def test_a_student_learns_the_colours_and_its_thresholds_give_as_many_photos_as_its_labels_expect(labels, tmp_path):
    labels.scores[0, 0] = float("nan")
    config = replace(CONFIG, arch="resnet18", epochs=8)
    trained = train_student(labels, tmp_path / "model.pt", config=config)
    again = load_checkpoint(tmp_path / "model.pt")
    scores = predict(find_images([labels.root]), again).scores
    assert scores.argmax(1).tolist() == [n % 3 for n in range(12)]
    assert (scores >= again.thresholds).sum(0).tolist()[1:] == labels.scores[:, 1:].sum(0).round().int().tolist()
    assert trained.meta["settings"]["epochs"] == 8 and "calibration" not in again.meta
    assert torch.equal(again.model.scale, torch.ones(3)) and not resume_file(tmp_path / "model.pt").exists()


def test_the_same_seed_gives_the_same_weights_and_another_seed_does_not(labels, tmp_path):
    configs = [replace(CONFIG, epochs=1, seed=seed) for seed in (0, 0, 1)]
    models = [train_student(labels, tmp_path / f"{n}.pt", config=config).model for n, config in enumerate(configs)]
    first, same, other = (model.head.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(labels, tmp_path, interrupt_at):
    config = replace(CONFIG, epochs=3)
    whole = train_student(labels, tmp_path / "whole.pt", config=config)
    with interrupt_at(STEP, 5):  # in the middle of the second epoch of three steps
        train_student(labels, tmp_path / "cut.pt", config=config)
    assert not (tmp_path / "cut.pt").exists()
    resumed = train_student(labels, tmp_path / "cut.pt", config=config, resume=True)
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def weights_step_by_step(labels, output, config, monkeypatch) -> tuple[list[dict], dict]:
    """The weights of the trained network after every step, and the weights of the final student."""
    steps = []

    def recorded(model, *rest):
        result = weight_step(model, *rest)
        steps.append({name: value.clone() for name, value in model.state_dict().items()})
        return result

    with monkeypatch.context() as patch:
        patch.setattr(STEP, recorded)
        return steps, train_student(labels, output, config=config).model.state_dict()


@pytest.mark.parametrize("share", [0.3, 1.0, 0.0])  # 1: the mean of all steps, 0: the last step
def test_the_weights_of_the_student_are_the_average_over_the_last_part_of_the_training(
    labels, tmp_path, monkeypatch, share
):
    config = replace(CONFIG, average=share)
    steps, student = weights_step_by_step(labels, tmp_path / "m.pt", config, monkeypatch)
    expected = steps[0]["head.weight"]
    for n, weights in enumerate(steps[1:], start=1):
        newest = 1 / (1 + share * n)
        expected = (1 - newest) * expected + newest * weights["head.weight"]
    assert len(steps) == 6 and torch.allclose(student["head.weight"], expected, atol=1e-6)
    last = [torch.equal(value, steps[-1][name]) for name, value in student.items()]
    assert all(last) if share == 0 else not torch.allclose(student["head.weight"], steps[-1]["head.weight"], atol=1e-6)
    (name, *_) = [name for name in student if name.endswith("running_mean")]
    means = torch.stack([weights[name] for weights in steps])
    assert (student[name] - means.amin(0) > -1e-6).all() and (means.amax(0) - student[name] > -1e-6).all()


def test_the_fused_average_equals_averaging_each_tensor_on_its_own():
    share, model = 0.3, Classifier("resnet18", CLASSES, 64)

    def updated(mean, weights, averaged):
        return mean + (weights - mean) / (1 + share * averaged)

    fused, slow = WeightAverage(model, share), AveragedModel(model, avg_fn=updated, use_buffers=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) if value.is_floating_point() else step)
        fused.update_parameters(model)
        slow.update_parameters(model)
    expected = slow.module.state_dict()
    for name, value in fused.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-6), name
        else:
            assert value == 3, name  # a counter
    assert fused.state_dict().keys() == slow.state_dict().keys()


def test_label_steps_use_the_predictions_of_the_averaged_student(labels, tmp_path):
    config = replace(CONFIG, method="cdul", warmup=0, epochs=1)
    moved = []
    for share in (0.0, 1.0):
        files = {"output": tmp_path / f"{share}.pt", "save_labels": tmp_path / f"{share}.csv"}
        model = train_student(labels, **files, config=replace(config, average=share))
        scores = predict(find_images([labels.root]), model).scores
        latent = label_step(latent_of(labels.scores), scores, config)
        moved.append(read_labels(files["save_labels"]).scores)
        assert torch.allclose(moved[-1], latent.sigmoid(), atol=1e-5)
    assert not torch.allclose(*moved, atol=1e-4)


def test_an_unfinished_training_is_continued_with_what_it_began_with(labels, photos, tmp_path, told, interrupt_at):
    output = tmp_path / "m.pt"
    with interrupt_at(STEP, 5):
        train_student(labels, output, config=CONFIG)
    with pytest.raises(InputError, match=r"m\.resume\.pt holds an unfinished training.*`resume=True` to continue"):
        train_student(labels, output, config=CONFIG)
    with pytest.raises(InputError, match=r"`lr` was 0.001, is 0.1\. `resume=True` needs the same settings"):
        train_student(labels, output, config=replace(CONFIG, lr=0.1), resume=True)
    other = replace(CONFIG, lr=1e-5, size=96, epochs=9)
    with pytest.raises(InputError, match=r"continued: `size` was 64, is 96, `lr` was 0.001, is 1e-05\. "):
        train_student(labels, output, config=other, resume=True)
    with pytest.raises(InputError, match="the labels have changed"):
        train_student(replace(labels, scores=1 - labels.scores), output, config=CONFIG, resume=True)
    (photos / "03.jpg").rename(tmp_path / "03.jpg")
    with pytest.raises(InputError, match=r"photos missing now: 1, such as 03.jpg"):
        train_student(labels, output, config=CONFIG, resume=True)
    (tmp_path / "03.jpg").rename(photos / "03.jpg")
    train_student(labels, output, config=CONFIG, resume=True, runtime=Runtime(progress=told))
    assert "continuing after epoch 1" in told.lines


@pytest.mark.parametrize("where", range(4))
def test_an_adjustment_of_a_batch_is_torchvision_s_for_each_photo(where):
    adjust, name = ADJUSTMENTS[where], ("brightness", "contrast", "saturation", "hue")[where]
    pixels, factors = colourful_photos(), jitter_table(6, torch.Generator().manual_seed(2))[:, where]
    one = getattr(torchvision_transforms, f"adjust_{name}")
    expected = torch.stack([one(photo, float(factor)) for photo, factor in zip(pixels, factors, strict=True)])
    found = adjust(pixels, factors.view(-1, 1, 1, 1))
    assert found.dtype == torch.uint8
    assert (found.int() - expected.int()).abs().max() <= 1  # rounding
    assert (found != expected).float().mean() < 1e-3


def test_the_strong_views_of_a_batch_are_torchvision_s_for_each_photo():
    pixels, table = colourful_photos(), jitter_table(6, torch.Generator().manual_seed(3))
    assert len({tuple(row.argsort().tolist()) for row in table[:, 4:]}) == 5  # different orders
    names, expected = ("brightness", "contrast", "saturation", "hue"), []
    for photo, row in zip(pixels, table, strict=True):
        for where in row[4:].argsort().tolist():
            photo = getattr(torchvision_transforms, f"adjust_{names[where]}")(photo, float(row[where]))
        expected.append(photo)
    difference = (jitter_colours(pixels, table).int() - torch.stack(expected).int()).abs()
    assert difference.max() <= 4 and difference.float().mean() < 0.01


def colourful_photos() -> torch.Tensor:
    """Six smooth photos with all colours, grey, black and white."""
    coarse = torch.randint(0, 256, (6, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    coarse[0, :, :2] = coarse[0, :1, :2]  # grey
    coarse[1, :, 0], coarse[1, :, 4] = 0, 255
    smooth = torch.nn.functional.interpolate(coarse, (40, 40), mode="bicubic").clamp(0, 255)
    return smooth.to(torch.uint8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_bf16_steps_have_nearly_the_same_loss_and_keep_float32_weights(arch):
    losses, pixels = {}, torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = Classifier(arch, CLASSES, 64)
        optimizer = torch.optim.Adam(model.parameters())
        loss, _ = weight_step(model, optimizer, pixels, torch.full((4, 3), 0.3), Distributed(), precision)
        losses[precision] = float(loss)
        assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in model.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05) and losses["bf16"] != losses["fp32"]


def test_depthwise_convolutions_with_a_stride_compute_in_float32_inside_bf16_steps_and_are_restored():
    model, cpu, seen = Classifier("mobilenet_v2", CLASSES, 64), torch.device("cpu"), []
    strided = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1 and m.stride[0] > 1]
    pixels, targets = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.full((2, 3), 0.3)
    with fast_convolutions(model, cpu, "fp32"):
        assert not any("forward" in vars(conv) for conv in strided)
    with pytest.raises(KeyboardInterrupt), fast_convolutions(model, cpu, "bf16"):
        assert [m for m in model.modules() if "forward" in vars(m)] == strided and len(strided) == 4
        original = torch.nn.Conv2d._conv_forward
        recorded = lambda conv, x, *rest: seen.append((conv, x.dtype)) or original(conv, x, *rest)  # noqa: E731
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Conv2d, "_conv_forward", recorded)
            weight_step(model, torch.optim.Adam(model.parameters()), pixels, targets, Distributed(), "bf16")
        raise KeyboardInterrupt
    assert {conv for conv, dtype in seen if dtype == torch.float32} >= set(strided)
    assert not any("forward" in vars(conv) for conv in strided)


def test_auto_takes_bf16_only_for_networks_and_cpus_that_are_faster_with_it(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("mlclip.training.weight_step.cpu_bf16_is_faster", lambda: True)
    chosen = {arch: choose_training_precision("auto", arch, cpu) for arch in ARCHS}
    assert {arch for arch, precision in chosen.items() if precision == "fp32"} == {
        "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"
    }  # fmt: skip
    assert choose_training_precision("bf16", "efficientnet_b0", cpu) == "bf16"
    assert choose_training_precision("fp32", "resnet50", cpu) == "fp32"
    assert choose_training_precision("auto", "resnet50", torch.device("mps")) == "fp32"
    monkeypatch.setattr("mlclip.training.weight_step.cpu_bf16_is_faster", lambda: False)
    assert choose_training_precision("auto", "resnet50", cpu) == "fp32"


def test_a_resumed_training_keeps_the_precision_that_it_started_with(labels, tmp_path, monkeypatch):
    config = replace(CONFIG, arch="mobilenet_v2")
    for started in (True, False):
        file = resume_file(tmp_path / f"{started}.pt")
        monkeypatch.setattr("mlclip.training.weight_step.cpu_bf16_is_faster", lambda started=started: started)
        save_state(start_training(labels, config, Runtime(), offline=True), file)
        monkeypatch.setattr("mlclip.training.weight_step.cpu_bf16_is_faster", lambda started=started: not started)
        state = start_training(labels, config, Runtime(), offline=True, resume_from=file)
        assert state.precision == ("bf16" if started else "fp32")


def test_a_training_says_what_it_will_do_and_how_long_it_will_take(labels, tmp_path, told):
    train_student(labels, tmp_path / "m.pt", config=replace(CONFIG, precision="fp32"), runtime=Runtime(progress=told))
    plan = "training mobilenet_v3_small (64 px, 3 classes) on 12 photos: 2 epochs of 3 steps of 4 photos, fp32 on cpu, "
    (start,) = [number for number, line in enumerate(told.lines) if line.startswith(plan)]
    (forecast,) = [number for number, line in enumerate(told.lines) if "from the first" in line]
    (first_epoch,) = [number for number, line in enumerate(told.lines) if line.startswith("epoch 1:")]
    assert start < forecast < first_epoch
    assert re.fullmatch(r"about \d+ s for 2 epochs, from the first 3 batches", told.lines[forecast])
    shown = ["1 s", "89 s", "12 min", "2.5 h", "56 h"]
    assert [duration(seconds) for seconds in (0.2, 89, 740, 9000, 200_000)] == shown


def test_torch_s_data_parallel_has_the_gradient_of_one_process_also_with_an_empty_part(tmp_path):
    torch.manual_seed(0)
    model = Classifier("resnet18", CLASSES, 64)
    pixels, targets = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8), torch.rand(3, 3)
    content = {"weights": model.state_dict(), "pixels": pixels, "targets": targets}
    torch.save(content, tmp_path / "step.pt")
    loss, count = weight_step(model, torch.optim.SGD(model.parameters(), lr=0.1), pixels, targets, Distributed())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path), str(rank)], env={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    results = [torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    assert results[0]["loss"] + results[1]["loss"] == pytest.approx(float(loss), rel=1e-5) and count == 3
    for result in results:
        assert result["count"] == 3 and not result["moved_without_photos"]
        for name, value in model.named_parameters():
            assert torch.allclose(result["gradients"][name], value.grad, atol=1e-5), name
            assert torch.allclose(result["weights"][name], value, atol=1e-5), name


def one_rank_of_two(folder: Path, rank: int) -> None:
    """A weight step with 3 photos on rank 0 and none on rank 1, then one without photos; results in `rank-R.pt`."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    distributed, content = Distributed(rank, 2), torch.load(folder / "step.pt", weights_only=True)
    model = Classifier("resnet18", CLASSES, 64)
    model.load_state_dict(content["weights"])
    sync_batch_norm(model, distributed)
    network = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    part = slice(0, 3) if rank == 0 else slice(3, 3)
    loss, count = weight_step(network, optimizer, content["pixels"][part], content["targets"][part], distributed)
    result = {"loss": float(loss), "count": int(count)}
    result["gradients"] = {name: value.grad.clone() for name, value in model.named_parameters()}
    result["weights"] = {name: value.detach().clone() for name, value in model.named_parameters()}
    empty = weight_step(network, optimizer, content["pixels"][:0], content["targets"][:0], distributed)
    moved = any(not torch.equal(value, result["weights"][name]) for name, value in model.named_parameters())
    torch.save(result | {"moved_without_photos": moved or empty != (0.0, 0)}, folder / f"rank-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_unknown_labels_have_no_gradient():
    model = Classifier("resnet18", CLASSES, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    targets = torch.tensor([[1.0, float("nan"), 0.0], [0.0, float("nan"), 1.0]])
    loss, count = weight_step(model, optimizer, pixels, targets, Distributed())
    assert count == 2 and loss > 0
    assert model.head.bias.grad[1] == 0 and model.head.bias.grad[0] != 0


@pytest.mark.parametrize(("method", "num_workers"), [("fixed", 2), ("probe", 0)])
def test_photos_that_changed_after_labelling_are_counted(labels, photos, tmp_path, method, num_workers, told):
    hashes = [list(content_hash(str(photos / path))) for path in labels.paths]
    labels = replace(labels, meta={"content": torch.tensor(hashes, dtype=torch.uint8)})
    small = {"epochs": 1} if method == "fixed" else {}
    config = TrainConfig(method=method, arch="mobilenet_v3_small", init="none", size=64, **small)
    os.utime(photos / "01.jpg", ns=(1, 1))  # the same content
    runtime = Runtime(num_workers=num_workers, progress=told)
    train_student(labels, tmp_path / "a.pt", config=config, runtime=runtime)
    assert not any("changed" in line for line in told.lines)
    for name in ("02.jpg", "07.jpg"):
        status = os.stat(photos / name)
        data = bytearray((photos / name).read_bytes())
        data[-10] ^= 1
        (photos / name).write_bytes(data)
        os.utime(photos / name, ns=(status.st_atime_ns, status.st_mtime_ns))  # another content with the same date
    (photos / "03.jpg").unlink()
    checkpoint = train_student(labels, tmp_path / "b.pt", config=config, runtime=runtime)
    line = "2 of 11 photos changed since they were labelled, such as 02.jpg. They keep their old labels"
    assert line in str(told.lines)
    assert "content" not in checkpoint.meta["labels_meta"]


def test_what_cannot_be_trained_is_an_error_before_the_training_starts(labels, tmp_path):
    unknown = replace(labels, scores=torch.full_like(labels.scores, torch.nan))
    for wrong, words in ((replace(labels, root=str(tmp_path / "gone")), "`root`"), (unknown, "no label is known")):
        with pytest.raises(InputError, match=words):
            train_student(wrong, tmp_path / "m.pt", config=CONFIG)
        assert not list(tmp_path.glob("m.*"))
    (tmp_path / "m.pt").write_text("precious")
    with pytest.raises(InputError, match="`overwrite=True`"):
        train_student(labels, tmp_path / "m.pt", config=CONFIG)
    assert (tmp_path / "m.pt").read_text() == "precious"


@pytest.mark.parametrize("wrong", [7.0, -0.1, float("nan")])
def test_invalid_thresholds_are_an_error_in_models_and_labels(labels, wrong, tmp_path):
    model = Classifier("resnet18", CLASSES, 64).eval()
    save_checkpoint(Checkpoint(model, torch.tensor([0.5, wrong, 0.5])), tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"thresholds.* (missing or wrong|numbers from 0 to 1)"):
        load_checkpoint(tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"thresholds.* (missing or wrong|numbers from 0 to 1)"):
        _ = replace(labels, meta={"thresholds": [0.5, wrong, 0.5]}).thresholds


def test_a_training_that_starts_again_forgets_the_unfinished_one(labels, tmp_path, interrupt_at):
    for step in (5, 1):  # in the second epoch, then before the first one is finished
        with interrupt_at(STEP, step):
            train_student(labels, tmp_path / "m.pt", config=CONFIG, overwrite=True)
        assert resume_file(tmp_path / "m.pt").exists() == (step == 5)


if __name__ == "__main__":
    one_rank_of_two(Path(sys.argv[1]), int(sys.argv[2]))
