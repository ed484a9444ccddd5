"""Bad weight files: damaged, malicious, or with false sizes. Each is refused with a one-line error."""

import pickle
import re
import struct
import warnings
import zipfile

import pytest
import torch
from torch import nn
from weight_files import refusal, repack

from mlclip.clip import archive
from mlclip.clip.weights import read_state_dict


@pytest.fixture(scope="module")
def archive_file(tmp_path_factory):
    """A TorchScript archive of two layers, about 40 kB of weights."""
    path = tmp_path_factory.mktemp("jit") / "down.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but OpenAI's files are its archives
        module = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128)).eval()
        torch.jit.trace(module, torch.rand(2, 64)).save(str(path))
    return path


class Malicious:
    """Its pickle calls code that creates a file."""

    def __init__(self, trace_file):
        self.trace_file = trace_file

    def __reduce__(self):
        return (exec, (f"open({str(self.trace_file)!r}, 'w')",))


def malicious_zip(path, evil):
    torch.save({"visual.proj": torch.zeros(2), "evil": evil}, path)


def malicious_legacy(path, evil):
    torch.save({"visual.proj": torch.zeros(2), "evil": evil}, path, _use_new_zipfile_serialization=False)


def malicious_bare(path, evil):
    path.write_bytes(pickle.dumps(evil))


def malicious_archive(path, evil):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("toy/data.pkl", pickle.dumps(evil, protocol=2))
        file.writestr("toy/code/__torch__.py", "raise SystemExit")


@pytest.mark.parametrize("make", [malicious_zip, malicious_legacy, malicious_bare, malicious_archive])
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(tmp_path, make):
    make(tmp_path / "evil.pt", Malicious(tmp_path / "ran"))
    assert "Nothing was executed" in refusal(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
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
def test_a_truncated_file_is_refused(archive_file, tmp_path, share):
    data = archive_file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * share)])
    assert "truncated" in refusal(tmp_path / "cut.pt")


def test_a_changed_byte_in_the_weights_is_detected(archive_file, tmp_path):
    data = bytearray(archive_file.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    assert "is damaged at down/data/" in refusal(tmp_path / "flipped.pt")


def test_a_zip_or_a_dict_without_weights_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as file:
        file.writestr("a.jpg", b"photo")
    assert "not one of PyTorch" in refusal(tmp_path / "photos.pt")
    torch.save({"a": 1, "b": [2.0]}, tmp_path / "numbers.pt")
    assert "holds no tensors" in refusal(tmp_path / "numbers.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    assert "holds a list" in refusal(tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    assert "not a CLIP checkpoint" in refusal(tmp_path / "other.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_and_the_tensor_is_named(tmp_path, clip_file, value):
    state = torch.load(clip_file)
    spoiled = {**state, "ln_final.bias": state["ln_final.bias"].clone()}
    spoiled["ln_final.bias"][3] = value
    torch.save(spoiled, tmp_path / "nan.pt")
    assert "NaN or infinite numbers in ln_final.bias" in refusal(tmp_path / "nan.pt")


def test_control_characters_from_a_file_never_reach_the_terminal(tmp_path):
    torch.save({"\x1b[31m\nweight": torch.zeros(2)}, tmp_path / "names.pt")
    assert "control characters" in refusal(tmp_path / "names.pt")
    evil = b"c\x1b[31mos\nsystem\n."
    assert refusal(pickled_archive(tmp_path / "evil.pt", evil)).isprintable()


def test_weights_for_another_vocabulary_are_refused(tmp_path, clip_file):
    state = torch.load(clip_file)
    torch.save({**state, "token_embedding.weight": torch.zeros(32000, 64)}, tmp_path / "other.pt")
    assert "vocabulary of 32000 tokens" in refusal(tmp_path / "other.pt")


# Archives with false sizes: refused before memory is allocated


def with_false_sizes(path, numel=4, key="0", offset=0, size=(4,), stride=(1,), stored=b"\x00" * 16):
    """A zip in torch's layout with one float32 tensor of four elements, described by the arguments."""
    torch.save({"x": torch.zeros(4)}, path.with_suffix(".true"))

    def integer(value):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def integers(values):
        return b"(" + b"".join(map(integer, values)) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX" + struct.pack("<I", len(key)) + key.encode()
    storage += b"X\x03\x00\x00\x00cpu" + integer(numel) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + integers(size) + integers(stride)
    tensor += b"\x89ccollections\nOrderedDict\n)RtR"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"\x80\x02}X\x01\x00\x00\x00x" + tensor + b"s.")
        file.writestr("x/data/0", stored)
    return path


def test_the_archive_of_the_next_test_is_read_if_its_sizes_are_true(tmp_path):
    tensors = read_state_dict(with_false_sizes(tmp_path / "true.pt"))
    assert list(tensors) == ["x"] and torch.equal(tensors["x"], torch.zeros(4))


@pytest.mark.parametrize(
    ("false", "message"),
    [
        ({"numel": 10**12}, "declares 1000000000000 elements"),
        ({"numel": 5}, "declares 5 elements"),
        ({"numel": -1}, "of an unknown kind"),
        ({"size": (5,)}, "data is shorter"),
        ({"offset": 1}, "data is shorter"),
        ({"offset": -1}, "in an unknown way"),
        ({"size": (2, 2), "stride": (4, 1)}, "data is shorter"),
        ({"size": (1000,), "stride": (0,)}, "impossibly large|data is shorter"),
        ({"size": (10**6, 10**6), "stride": (0, 0)}, "impossibly large size"),
        ({"size": (0, 10**9, 10**9), "stride": (1, 1, 1)}, "impossibly large size"),
        ({"size": (4,), "stride": (1, 1)}, "in an unknown way"),
        ({"size": (1,) * 200, "stride": (1,) * 200}, "in an unknown way"),
        ({"key": "7"}, "lacks the data"),
        ({"key": "../data.pkl"}, "lacks the data"),
        ({"stored": b"\x00" * 10**7}, "many times its own size"),
    ],
)
def test_sizes_larger_than_the_file_are_refused(tmp_path, false, message):
    assert re.search(message, refusal(with_false_sizes(tmp_path / "false.pt", **false)))


def pickled_archive(path, data):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("toy/data.pkl", data)
    return path


def test_a_pickle_that_would_exhaust_the_memory_is_refused(tmp_path, monkeypatch):
    numbered = b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."  # stores an object as number 2,147,483,647
    assert "holds no tensors" in refusal(pickled_archive(tmp_path / "memo.pt", numbered))
    lists = b"\x80\x02](" + b"]" * 200_000 + b"e."  # 200 kB that would be 12 MB of empty lists
    assert "many times its own size" in refusal(pickled_archive(tmp_path / "lists.pt", lists))
    monkeypatch.setattr(archive, "LARGEST_PICKLE", 1000)
    assert "impossibly large" in refusal(pickled_archive(tmp_path / "large.pt", b"\x80\x02" + b"N0" * 600 + b"}."))


def test_modules_that_contain_themselves_or_grow_exponentially_are_refused(tmp_path):
    node = b"c__torch__\nM\n)\x81"
    loop = b"\x80\x02" + node + b"q\x00}X\x01\x00\x00\x00ah\x00sb."
    assert "endlessly nested" in refusal(pickled_archive(tmp_path / "loop.pt", loop))
    levels = b"".join(
        node + b"}(X\x01\x00\x00\x00ah" + bytes([n]) + b"X\x01\x00\x00\x00bh" + bytes([n]) + b"ubq" + bytes([n + 1])
        for n in range(60)
    )
    assert "endlessly nested" in refusal(
        pickled_archive(tmp_path / "tree.pt", b"\x80\x02" + node + b"q\x00" + levels + b".")
    )


def test_a_big_endian_archive_and_an_archive_with_missing_data_are_refused(archive_file, tmp_path):
    big = repack(archive_file, tmp_path / "big.pt", lambda name, data: b"big" if "byteorder" in name else data)
    assert "big-endian" in refusal(big)
    less = repack(archive_file, tmp_path / "less.pt", lambda name, data: None if name == "down/data/3" else data)
    assert "lacks the data of" in refusal(less)
