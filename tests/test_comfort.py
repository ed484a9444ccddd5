"""Settings in a file, shell completion, details, suggestions, versions."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete, ShellComplete

from mlclip import api
from mlclip.cli import _status, cli
from mlclip.cli.settings_file import read_settings, settings_text
from mlclip.config import InputError

needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is part of Python 3.11")


def parsed(command: str, *args: str, default_map: dict | None = None) -> dict:
    """The values of a command's parameters for these arguments, without running the command."""
    parent = click.Context(cli, info_name="mlclip")
    made = cli.commands[command].make_context(command, list(args), parent=parent)
    return made.params


def settings_of(text: str, command: str, tmp_path) -> dict:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    context = click.Context(cli.commands[command], parent=click.Context(cli))
    return read_settings(str(file), cli.commands[command], context)


@needs_toml
@pytest.mark.parametrize("args", [[], ["--method", "ccd", "--no-stopping"], ["--arch", "clip-head"], ["--lr", "3e-7"]])
def test_printed_settings_are_read_back_as_the_same_settings(args, tmp_path, capsys):
    assert _status(["train", *args, "--device", "cpu", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "train.toml").write_text(text)
    assert _status(["train", "--config", str(tmp_path / "train.toml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text
    assert "print-config" not in text and "[train]\n" in text


@needs_toml
def test_pseudolabel_prints_its_settings_without_photos_and_lists_come_back(tmp_path, capsys):
    args = [
        "--grids",
        "1,4",
        "--template",
        'a "{}"',
        "--template",
        "b\n{}\x7f",
        "--classes",
        "kät, dog",
        "--device",
        "cpu",
    ]
    assert _status(["pseudolabel", *args, "--print-config"]) == 0
    text = capsys.readouterr().out
    assert 'clip = "ViT-B/32"' in text
    read = settings_of(text, "pseudolabel", tmp_path)
    assert read["grids"] == (1, 4) and read["templates"] == ('a "{}"', "b\n{}\x7f") and read["classes"] == "kät, dog"
    assert _status(["pseudolabel"]) == 2


@needs_toml
def test_the_command_line_beats_the_section_and_the_section_beats_the_rest(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        "batch_size = 5\nseed = 1\n[predict]\ntopk = 2\n[train]\nseed = 2\nhead-lr-factor = 3\nresume = true\n"
    )
    found = parsed("train", "--config", str(file), "--head-lr-factor", "4")
    assert (found["batch_size"], found["seed"], found["head_lr_factor"], found["resume"]) == (5, 2, 4.0, True)
    assert found["lr"] is None


@needs_toml
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[trian]\n", "no section [trian]. Did you mean 'train'?"),
        ("epoch = 3\n", "`epoch` is not an option of `mlclip train`. Did you mean 'epochs'?"),
        ("[train]\nheadlr_factor = 3\n", "Did you mean 'head_lr_factor'?"),
        ('classes = "voc"\n', "`classes` is not an option of `mlclip train`. Write it below [pseudolabel]."),
        ('epochs = "many"\n', "`epochs`: 'many' is not a valid int"),
        ("epochs = [3]\n", "`epochs` must be one value, not a list"),
        ("resume = 1\n", "`resume` must be true or false, not 1"),
        ("epochs = true\n", "`epochs` must be a value, not true"),
        ('method = "cdull"\n', "`method`: 'cdull' is not one of"),
        ("train = 3\n", "[train]"),
        ("a = \n", "cannot be read as settings in TOML"),
        ("a = " + "[" * 3000, "cannot be read as settings in TOML"),
        ("epochs = inf\n", "`epochs` is Infinity, which it cannot be"),
        (f"lr = {'9' * 400}\n", "`lr` is an integer with too many digits"),
        (f"resume = 0x{'f' * 5000}\n", "`resume` is an integer with too many digits"),
        ('"a\\nb" = 1\n', r"`a\x0ab` is not an option"),
        ('["a\\nb"]\n', r"no section [a\x0ab]"),
        (f"{'a' * 5000} = 1\n", "is not an option"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_line_that_names_it(text, words, tmp_path):
    with pytest.raises(InputError) as error:
        settings_of(text, "train", tmp_path)
    assert words in str(error.value) and "settings.toml" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@needs_toml
def test_one_number_is_a_list_of_one(tmp_path):
    assert settings_of("grids = 1\n", "pseudolabel", tmp_path)["grids"] == (1,)


def test_photos_are_not_a_setting_and_a_missing_file_is_named(tmp_path, capsys):
    if sys.version_info >= (3, 11):
        with pytest.raises(InputError, match="Name the photos on the command line"):
            settings_of("images = ['a']\n", "predict", tmp_path)
    assert _status(["train", "--config", str(tmp_path / "no.toml")]) == 1
    assert "no.toml" in capsys.readouterr().err or sys.version_info < (3, 11)


def test_python_3_10_is_told_what_config_needs(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert _status(["train", "--config", str(tmp_path / "s.toml")]) == 1
    assert "--config needs Python 3.11 or newer" in capsys.readouterr().err


def test_a_name_that_is_not_text_cannot_be_printed_as_toml():
    with pytest.raises(InputError, match="`root` is not valid text"):
        settings_text(cli.commands["train"], {"root": os.fsdecode(b"\xff")})


def proposals(*args: str) -> list[tuple[str, str]]:
    """(type, value) of what the shell is offered after these words; the last one is incomplete."""
    found = ShellComplete(cli, {}, "mlclip", "_MLCLIP_COMPLETE").get_completions(list(args[:-1]), args[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["tr"], ["train"]),
        (["train", "--meth"], ["--method"]),
        (["train", "--method", "c"], ["consistent", "cdul", "ccd"]),
        (["train", "--arch", "mobilenet_v3"], ["mobilenet_v3_small", "mobilenet_v3_large"]),
        (["train", "--arch", "clip"], ["clip-resnet", "clip-head"]),
        (["train", "--init", "im"], ["imagenet"]),
        (["pseudolabel", "--classes", "n"], ["nuswide"]),
        (["pseudolabel", "--clip", "vit-l"], ["ViT-L/14", "ViT-L/14@336px"]),
        (["pseudolabel", "--template", "paper"], ["paper-cdul", "paper-ccd"]),
        (["evaluate", "--only", "v"], ["voc"]),
        (["predict", "--device", "c"], ["cpu", "cuda"]),
    ],
)
def test_the_shell_completes_names(words, values):
    assert [value for kind, value in proposals(*words) if kind == "plain"] == values


@pytest.mark.parametrize("words", [["predict", "x"], ["train", "--labels", "x"], ["pseudolabel", "--classes", "x"]])
def test_the_shell_completes_files(words):
    assert proposals(*words) == [("file", "x")]


def test_completion_does_not_import_torch_and_the_shell_gets_a_script(monkeypatch, capsys):
    code = (
        "import sys\ntry:\n  from mlclip.cli import main; main()\nfinally:\n"
        "  heavy = {'torch', 'numpy', 'PIL'} & set(sys.modules)\n  assert not heavy, heavy"
    )
    for words in ("mlclip pseudolabel --clip RN", "mlclip pseudolabel --classes v", "mlclip train --arch res"):
        given = {"_MLCLIP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | given, capture_output=True, text=True)
        assert done.returncode == 0 and "plain," in done.stdout, done.stderr
    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))
    assert (
        "complete -o nosort -F _mlclip_completion mlclip"
        in BashComplete(cli, {}, "mlclip", "_MLCLIP_COMPLETE").source()
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--epoch", "3"], "--epochs"),
        (["pseudolabel", "{photos}", "--classes", "vco"], "Did you mean the preset 'voc'?"),
        (["pseudolabel", "{photos}", "--clip", "ViT-B/23"], "Did you mean 'ViT-B/32'?"),
        (["evaluate", "--labels", "{table}", "--truth", "{table}", "--only", "Catt"], "Did you mean 'cat'?"),
        (["report", "--labels", "{table}", "--threshold-file", "{limits}"], "Did you mean 'dog'?"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion_and_no_colours(args, words, photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "t.csv").write_text("path,cat,dog\na.jpg,1,0\nb.jpg,0,1\n")
    (tmp_path / "l.csv").write_text("class,threshold\ndgo,0.5\n")
    names = {"photos": photos, "table": tmp_path / "t.csv", "limits": tmp_path / "l.csv"}
    monkeypatch.setenv("NO_COLOR", "1") if "trian" in args else monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    assert _status([arg.format(**names) for arg in args]) in (1, 2)
    out, err = capsys.readouterr()
    assert words in err and "\x1b" not in out + err


def test_an_unknown_arch_gets_a_suggestion():
    from mlclip.student.model import Classifier

    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        Classifier("resnt18", ["a"], 64)


def test_verbose_says_what_is_used_and_when_and_the_result_is_the_same(
    photos, clip_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    base = ["pseudolabel", str(photos), "--classes", "red,green", "--clip", str(clip_file), "--workers", "0"]
    assert _status([*base, "-o", "a.csv", "-v"]) == 0
    told = capsys.readouterr().err
    for words in (
        "store of embeddings: ",
        "device ",
        "reading the weights",
        "0 of 12 photos are already",
        "cache: ",
        " s] ",
    ):
        assert words in told, told
    assert _status([*base, "-o", "b.csv"]) == 0
    assert " s] " not in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_version_names_torch_and_a_device(capsys, monkeypatch):
    import torch

    from mlclip.cli import version

    assert _status(["--version"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__}".split("+")[0] in text and "\ndevice " in text
    assert version._build()["cuda"] == (torch.version.cuda is not None)
    monkeypatch.setattr(sys, "platform", "linux")
    assert version._device({"cuda": False, "hip": False}).startswith("cpu (this torch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert version._device({"cuda": True, "hip": False}).startswith("cpu (CUDA_VISIBLE_DEVICES")


def test_train_config_takes_the_preset_of_the_device():
    assert api.train_config({}, "cpu").arch == "mobilenet_v2"
    assert api.train_config({"preset": None}, "cuda").arch == "resnet101"
    assert api.train_config({"preset": "paper"}, "cpu").arch == "resnet101"
