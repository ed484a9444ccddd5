"""Weight files in every supported format become a CLIP. Bad files: test_archive.py; downloads: test_download.py."""

import hashlib
import sys
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn
from toy_clip import Downsample, ToyCLIP, trace
from weight_files import refusal, repack

from mlclip.clip import pickles
from mlclip.clip.load import load_clip
from mlclip.clip.registry import (
    MODELS,
    TINY_FILE,
    CachedWeights,
    Entry,
    available_models,
    cached_weights,
    find_name,
    is_cached,
    model_path,
)
from mlclip.clip.weights import read_state_dict
from mlclip.config import InputError


@pytest.fixture(scope="module")
def toy():
    torch.manual_seed(0)
    return ToyCLIP().eval()


@pytest.fixture(scope="module")
def state(toy):
    return {name: tensor.clone() for name, tensor in toy.state_dict().items()}


@pytest.fixture(scope="module")
def archive_file(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp("jit") / "toy.pt"
    trace(toy, torch.rand(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.int64), path=path)
    return path


def assert_same(tensors, state):
    assert set(tensors) == set(state)
    for name, tensor in state.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


# Reading


def test_a_torchscript_archive_gives_the_tensors_of_the_module_without_torch_jit(archive_file, toy, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    assert_same(read_state_dict(archive_file), toy.state_dict())


def test_children_named_minus_one_batch_norms_and_half_precision_are_kept(tmp_path):
    module = Downsample()
    module.bn1.running_mean.uniform_()
    module.conv1.half()
    module.conv1.weight.data = module.conv1.weight.data.transpose(0, 1).contiguous().transpose(0, 1)  # odd strides
    module.forward = lambda x: module.downsample(module.bn1(module.conv1(x.half()).float()))
    trace(module, torch.rand(1, 3, 4, 4), path=tmp_path / "down.pt")
    tensors = read_state_dict(tmp_path / "down.pt")
    assert_same(tensors, module.state_dict())
    assert "downsample.0.weight" in tensors and tensors["conv1.weight"].dtype == torch.float16
    assert tensors["bn1.num_batches_tracked"].dtype == torch.int64


def test_a_scripted_archive_is_read_like_a_traced_one(tmp_path):
    module = Downsample()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(tmp_path / "scripted.pt"))
    assert_same(read_state_dict(tmp_path / "scripted.pt"), module.state_dict())


def test_tensors_that_share_a_storage_still_share_it_after_reading(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"whole": whole, "row": whole[2], "column": whole[:, 3], "turned": whole.T, "none": whole[:0]}
    torch.save(state, tmp_path / "views.pt")
    tensors = read_state_dict(tmp_path / "views.pt")
    assert_same(tensors, state)
    assert tensors["turned"].stride() == (1, 6)
    tensors["whole"][2, 3] = -1
    assert tensors["row"][3] == tensors["column"][2] == -1


@pytest.mark.parametrize("dtype", list(pickles.DTYPES.values()), ids=str)
def test_every_data_type_is_read(tmp_path, dtype):
    torch.save({"x": torch.tensor([0, 1, 1, 0]).to(dtype)}, tmp_path / "x.pt")
    assert_same(read_state_dict(tmp_path / "x.pt"), {"x": torch.tensor([0, 1, 1, 0]).to(dtype)})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}, "lr": [0.1]}},
        lambda state: {"model": OrderedDict(state), "name": "toy"},
        lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()},
    ],
    ids=["plain", "state_dict", "model", "module", "parameters"],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_state_dicts_are_found_in_every_common_checkpoint_layout(tmp_path, state, wrap, legacy):
    torch.save(wrap(state), tmp_path / "toy.pt", _use_new_zipfile_serialization=not legacy)
    assert_same(read_state_dict(tmp_path / "toy.pt"), state)


def test_a_state_dict_with_its_metadata_is_read(tmp_path, toy):
    torch.save(toy.state_dict(), tmp_path / "toy.pt")
    assert_same(read_state_dict(tmp_path / "toy.pt"), toy.state_dict())


def test_a_compressed_copy_of_an_archive_is_read(archive_file, toy, tmp_path):
    path = repack(archive_file, tmp_path / "deflated.pt", lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert_same(read_state_dict(path), toy.state_dict())


def test_safetensors_are_read_and_the_error_without_the_package_names_it(tmp_path, state, monkeypatch):
    save = pytest.importorskip("safetensors.torch").save_file
    save(state, tmp_path / "toy.safetensors")
    assert_same(read_state_dict(tmp_path / "toy.safetensors"), state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "toy.safetensors").read_bytes()[:2000])
    assert "truncated" in refusal(tmp_path / "cut.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert 'pip install "mlclip[safetensors]"' in refusal(tmp_path / "toy.safetensors")


# The model


def test_a_file_becomes_a_clip_that_knows_its_name_and_hash(archive_file, state):
    model = load_clip(str(archive_file))
    assert model.name == str(archive_file)
    assert model.sha256 == hashlib.sha256(archive_file.read_bytes()).hexdigest()
    assert not model.training and model.activation == "quick_gelu" and model.input_resolution == 32
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in model.state_dict().values())
    assert torch.equal(model.visual.proj, state["visual.proj"])
    assert load_clip(archive_file, activation="gelu").activation == "gelu"


def test_every_format_gives_the_same_embeddings(archive_file, state, tmp_path):
    torch.save(state, tmp_path / "toy.pt")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        embeddings = [load_clip(path).encode_image(pixels) for path in (archive_file, tmp_path / "toy.pt")]
    assert torch.equal(*embeddings) and embeddings[0].std() > 0


# Names


def test_the_names_are_tiny_and_the_nine_openai_models():
    names = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    assert list(MODELS) == names and available_models() == ["tiny", *names]
    assert MODELS["RN50x64"].resolution == 448 and MODELS["ViT-L/14@336px"].resolution == 336


def test_urls_and_hashes_equal_those_of_the_reference():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pretrained = pytest.importorskip("open_clip.pretrained")
    for entry in MODELS.values():
        name = entry.name.replace("/", "-").replace("@336px", "-336")
        assert pretrained.get_pretrained_url(name, "openai") == entry.url
        assert entry.sha256 in entry.url and len(entry.sha256) == 64


@pytest.mark.parametrize("spelling", ["ViT-B/32", "vit-b/32", "VIT-B-32", "vit-b-32"])
def test_a_name_may_be_in_any_case_and_with_a_dash(spelling, tmp_path, monkeypatch):
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path))
    assert find_name(spelling) == "ViT-B/32"
    assert model_path(spelling) == tmp_path / "ViT-B-32.pt" and not is_cached(spelling)
    (tmp_path / "ViT-B-32.pt").touch()
    assert is_cached(spelling)


def test_the_cache_is_in_the_home_folder_unless_the_environment_variable_is_set(monkeypatch, tmp_path):
    monkeypatch.delenv("MLCLIP_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_path("RN50") == tmp_path / ".cache" / "mlclip" / "RN50.pt"


def test_an_unknown_name_raises_an_error_with_the_known_names(tmp_path):
    for name in ("ViT-Z/99", str(tmp_path / "missing.pt")):
        with pytest.raises(
            InputError, match=r"neither a file nor a folder nor a known CLIP.*tiny, RN50,.*ViT-L/14@336px"
        ):
            load_clip(name)
    with pytest.raises(InputError, match=r"nope.*RN50x64"):
        model_path("nope")


def test_tiny_is_part_of_the_package_and_a_missing_file_is_reported(monkeypatch, tmp_path):
    assert model_path("tiny") == TINY_FILE
    monkeypatch.setattr("mlclip.clip.load.TINY_FILE", tmp_path / "tiny.pt")
    with pytest.raises(InputError, match=r"tiny\.pt is missing.*Install"):
        load_clip("tiny")


def test_downloaded_weights_are_listed_with_their_sizes_and_partial_downloads_are_marked(own_cache):
    assert cached_weights() == []
    (own_cache / "ViT-B-32.pt").write_bytes(b"12345")
    (own_cache / "RN50.pt.part").write_bytes(b"123")
    (own_cache / "notes.pt").write_bytes(b"not one of ours")
    assert cached_weights() == [
        CachedWeights("RN50", own_cache / "RN50.pt.part", 3, complete=False),
        CachedWeights("ViT-B/32", own_cache / "ViT-B-32.pt", 5, complete=True),
    ]


def test_a_known_name_loads_from_the_cache_and_keeps_its_name(tmp_path, monkeypatch, archive_file):
    content = archive_file.read_bytes()
    entry = Entry("ViT-T/1", "http://127.0.0.1:9/ViT-T-1.pt", hashlib.sha256(content).hexdigest(), 13, 32)
    monkeypatch.setitem(MODELS, "ViT-T/1", entry)
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path))
    (tmp_path / "ViT-T-1.pt").write_bytes(content)
    model = load_clip("vit-t-1", offline=True)
    assert (model.name, model.sha256) == ("ViT-T/1", entry.sha256)
