"""Weight files in every supported format become a CLIP; damaged and malicious ones are refused in one line."""

import hashlib
import pickle
import sys
import zipfile
from collections import OrderedDict

import pytest
import torch
from torch import nn
from toy_clip import Downsample, ToyCLIP, trace
from weight_files import Malicious, refusal, repack

from mlclip.clip.load import load_clip
from mlclip.clip.registry import MODELS, CachedWeights, Entry, available_models, cached_weights, find_name
from mlclip.clip.weights import DTYPES, read_state_dict
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


@pytest.mark.parametrize("dtype", list(DTYPES.values()), ids=str)
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


def test_safetensors_are_read_and_the_error_without_the_package_names_it(tmp_path, state, monkeypatch):
    save = pytest.importorskip("safetensors.torch").save_file
    save(state, tmp_path / "toy.safetensors")
    assert_same(read_state_dict(tmp_path / "toy.safetensors"), state)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "toy.safetensors").read_bytes()[:2000])
    assert "truncated" in refusal(tmp_path / "cut.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "pip install safetensors" in refusal(tmp_path / "toy.safetensors")


# Bad files


def malicious_zip(path, evil):
    torch.save({"visual.proj": torch.zeros(2), "evil": evil}, path)


def malicious_archive(path, evil):
    """A TorchScript archive whose pickle and whose code would run something."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("toy/data.pkl", pickle.dumps(evil, protocol=2))
        file.writestr("toy/constants.pkl", pickle.dumps(evil, protocol=2))
        file.writestr("toy/code/__torch__.py", "raise SystemExit")


@pytest.mark.parametrize("make", [malicious_zip, malicious_archive])
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(tmp_path, make):
    make(tmp_path / "evil.pt", Malicious(tmp_path / "ran"))
    assert "Nothing was executed" in refusal(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


EVIL = (b"os\nsystem", b"torch\nload", b"torch.jit\nload", b"builtins\neval", b"torch._utils\n_import_dotted_name")


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_may_name_only_tensors_and_modules(tmp_path, name):
    evil = b"\x80\x02c" + name + b"\nX\x01\x00\x00\x00x\x85R."
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("toy/data.pkl", evil)
        file.writestr("toy/constants.pkl", b"")
    assert f"would execute {name.decode().split()[0]}." in refusal(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a weight file"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b'{"error": "not found"}', "web page or other text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0 a photo", "not a weight file"),
        (b"PK\x03\x04 a zip that ends too soon", "truncated or damaged"),
        (b"\x80\x02 not really a pickle", "damaged"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_another_kind_of_file_is_refused_and_its_kind_is_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    line = refusal(tmp_path / name)
    assert message in line or (name == "w.safetensors" and "truncated or damaged" in line)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["archive", "state dict"])
def test_a_truncated_file_and_a_changed_byte_are_refused(archive_file, state, tmp_path, share, kind):
    torch.save(state, tmp_path / "state.pt")
    data = bytearray((archive_file if kind == "archive" else tmp_path / "state.pt").read_bytes())
    (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * share)])
    assert "truncated" in refusal(tmp_path / "cut.pt")
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "flipped.pt")


def test_a_zip_or_a_dict_without_weights_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as file:
        file.writestr("a.jpg", b"photo")
    assert "damaged" in refusal(tmp_path / "photos.pt")
    torch.save({"a": 1, "b": [2.0]}, tmp_path / "numbers.pt")
    assert "holds no tensors" in refusal(tmp_path / "numbers.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    assert "holds no tensors" in refusal(tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert "not a CLIP checkpoint" in refusal(tmp_path / "other.pt")


def test_control_characters_from_a_file_never_reach_the_terminal(tmp_path):
    torch.save({"\x1b[31m\nweight": torch.zeros(2)}, tmp_path / "names.pt")
    assert "control characters" in refusal(tmp_path / "names.pt")
    (tmp_path / "evil.pt").write_bytes(b"\x80\x02c\x1b[31mos\nsystem\n.")
    assert refusal(tmp_path / "evil.pt").isprintable()


def test_weights_for_another_vocabulary_are_refused(tmp_path, clip_file):
    state = torch.load(clip_file)
    torch.save({**state, "token_embedding.weight": torch.zeros(32000, 64)}, tmp_path / "other.pt")
    assert "vocabulary of 32000 tokens" in refusal(tmp_path / "other.pt")


def edited(archive_file, target, old, new):
    """A copy of an archive with `new` in place of `old` in its pickle."""
    changed = lambda name, data: data.replace(old, new) if name.endswith("/data.pkl") else data  # noqa: E731
    return repack(archive_file, target, changed)


def test_an_archive_that_declares_more_than_it_holds_is_refused(archive_file, tmp_path):
    """The position embeddings are 77×64 = 4928 numbers: 'M@\x13' in the pickle."""
    assert "damaged" in refusal(edited(archive_file, tmp_path / "more.pt", b"M@\x13", b"J@\x13\x00\x70"))
    assert "damaged" in refusal(edited(archive_file, tmp_path / "shape.pt", b"(KMK@t", b"(M\xff\xffK@t"))
    less = repack(archive_file, tmp_path / "less.pt", lambda name, data: None if name == "toy/data/3" else data)
    assert "toy/data/3" in refusal(less)
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."  # a module that contains itself
    endless = repack(archive_file, tmp_path / "loop.pt", lambda name, data: loop if name == "toy/data.pkl" else data)
    assert "damaged" in refusal(endless)


# The model


def test_a_file_becomes_a_clip_that_knows_its_name_and_hash(archive_file, state):
    model = load_clip(str(archive_file))
    assert model.name == str(archive_file)
    assert model.sha256 == hashlib.sha256(archive_file.read_bytes()).hexdigest()
    assert not model.training and model.activation == "quick_gelu" and model.input_resolution == 32
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in model.state_dict().values())
    assert torch.equal(model.visual.proj, state["visual.proj"])
    assert load_clip(archive_file, activation="gelu").activation == "gelu"


# Names


def test_the_names_are_tiny_and_the_nine_openai_models():
    names = ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"]
    assert list(MODELS) == names and available_models() == ["tiny", *names]
    assert MODELS["RN50x64"].resolution == 448 and MODELS["ViT-L/14@336px"].resolution == 336


def test_urls_and_hashes_equal_those_of_the_reference(open_clip):
    for entry in MODELS.values():
        name = entry.name.replace("/", "-").replace("@336px", "-336")
        assert open_clip.pretrained.get_pretrained_url(name, "openai") == entry.url
        assert entry.sha256 in entry.url and len(entry.sha256) == 64


@pytest.mark.parametrize("spelling", ["ViT-B/32", "vit-b/32", "VIT-B-32", "vit-b-32"])
def test_a_name_may_be_in_any_case_and_with_a_dash(spelling, tmp_path, monkeypatch):
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path))
    assert find_name(spelling) == "ViT-B/32" and MODELS["ViT-B/32"].path == tmp_path / "ViT-B-32.pt"


def test_an_unknown_name_raises_an_error_with_the_known_names(tmp_path):
    for name in ("ViT-Z/99", str(tmp_path / "missing.pt")):
        with pytest.raises(InputError, match=r"neither a file nor .* known CLIP.*tiny, RN50,.*ViT-L/14@336px"):
            load_clip(name)


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
