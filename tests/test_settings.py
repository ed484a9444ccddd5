"""Settings: what they become, in a file and with --set, and what is refused; details, suggestions, versions."""

from __future__ import annotations

import math
import os
import sys

import click
import pytest

from mlclip.cli import _status, cli
from mlclip.config import OptionError, PseudolabelConfig, TrainConfig

WRONG = [
    *(("centred", {"grids": grids}) for grids in ((), (0,), (2, 2))),
    *(("centred", {name: value}) for name in ("rank_scale", "prior_photos") for value in (0.0, math.inf)),
    ("ccd", {"max_entropy": math.inf}),
    *(("dense", {"views": views}) for views in ((), ("2", "2.0"), ("cell",), ("0.2",), ("nan",), ("99",))),
]
WRONG_IN_TRAINING = [
    ("fixed", {"average": -0.1}),
    ("fixed", {"average": 1.5}),
    *(
        ("cdul", {name: value})
        for name, value in (("sigma", 0.0), ("label_every", 0), ("warmup", -1), ("label_rate", -0.1))
    ),
    *(
        ("ccd", {name: value})
        for name, value in (("cam_boost", 0.5), ("local_views", "everywhere"), ("update_keep", 2.0), ("warmup", 0))
    ),
]
UNUSED = [
    (PseudolabelConfig, "centred", {"floor": 0.1}, "ccd"),
    (PseudolabelConfig, "ccd", {"zeta": 0.1}, "cdul"),
    (PseudolabelConfig, "cdul", {"grids": (1, 2)}, "centred"),
    (PseudolabelConfig, "centred", {"views": ("views",)}, "dense"),
    (TrainConfig, "fixed", {"sigma": 0.5}, "cdul"),
    *((TrainConfig, "probe", {name: value}, "fixed") for name, value in (
        ("epochs", 3), ("lr", 1e-3), ("batch_size", 8), ("average", 0.1), ("head_lr_factor", 2.0), ("augment", "crop"),
        ("head_init", "probe"), ("cache", False))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "method", "wrong"),
    [*((PseudolabelConfig, *case) for case in WRONG), *((TrainConfig, *case) for case in WRONG_IN_TRAINING)],
)
def test_values_that_cannot_work_are_refused_with_the_name_of_the_setting(config, method, wrong):
    with pytest.raises(OptionError, match=f"`{next(iter(wrong))}`"):
        config(method, **wrong)


@pytest.mark.parametrize(("config", "method", "setting", "other"), UNUSED)
def test_a_setting_that_the_method_does_not_use_is_refused_and_another_method_named(config, method, setting, other):
    line = rf'`{next(iter(setting))}` has no effect with `method="{method}"`.*`method="{other}"`'
    with pytest.raises(OptionError, match=line):
        config(method, **setting)


def test_what_is_not_given_follows_from_the_method_and_the_preset():
    assert PseudolabelConfig(grids=(3, 1)).grids == (1, 3)
    assert PseudolabelConfig("dense", views=("views", 1.5)).views == ("views", "1.5")
    assert (
        PseudolabelConfig(views="fast").views == ("1.5", "2")
        and PseudolabelConfig(views=["default"]).method == "centred"
    )
    assert PseudolabelConfig(views=("views",)).method == "dense" and PseudolabelConfig().method == "centred"
    assert [TrainConfig(method=method).average for method in TrainConfig.METHODS] == [0.1, None, 0.1, 0, 0]
    assert TrainConfig(method="cdul", average=0.5).average == 0.5
    probe = TrainConfig(method="probe", preset="laptop")
    assert (probe.arch, probe.size, probe.epochs, probe.lr) == ("mobilenet_v2", 224, None, None)


needs_toml = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is part of Python 3.11")


def parsed(command: str, *args: str, default_map: dict | None = None) -> dict:
    """The values of a command's parameters for these arguments, without running the command."""
    parent = click.Context(cli, info_name="mlclip")
    made = cli.commands[command].make_context(command, list(args), parent=parent)
    return made.params


def settings_of(text: str, command: str, tmp_path, *args: str) -> dict:
    """The values of a command's parameters with a file of settings; those of --set stand in `changed`."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return parsed(command, "--config", str(file), *args)


@needs_toml
def test_lists_are_read_from_a_file_of_settings(tmp_path):
    text = '[pseudolabel]\ngrids = [1, 4]\nclasses = "kät, dog"\ntemplate = [\'a "{}"\', "b\\n{}"]\n'
    read = settings_of(text, "pseudolabel", tmp_path, "photos")
    assert read["changed"]["grids"] == (1, 4) and read["classes"] == "kät, dog"
    assert read["templates"] == ('a "{}"', "b\n{}")
    assert settings_of("grids = [1]\n", "pseudolabel", tmp_path, "photos")["changed"] == {"grids": (1,)}


@needs_toml
def test_the_command_line_beats_the_section_and_the_section_beats_the_rest(tmp_path):
    file = tmp_path / "s.toml"
    own = "[train]\nseed = 2\nhead-lr-factor = 3\nresume = true\n"
    file.write_text("batch_size = 5\nseed = 1\n[predict]\ntopk = 2\n" + own)
    found = parsed("train", "--config", str(file), "--set", "head_lr_factor=4")
    assert (found["batch_size"], found["seed"], found["resume"], found["lr"]) == (5, 2, True, None)
    assert found["changed"] == {"head_lr_factor": 4.0}


@needs_toml
@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("[trian]\n", 1, "no section [trian]. Did you mean 'train'?"),
        ("epoch = 3\n", 1, "'epoch' is not an option of `mlclip train`. Did you mean 'epochs'?"),
        ("[train]\nheadlr_factor = 3\n", 1, "Did you mean 'head_lr_factor'?"),
        ('epochs = "many"\n', 2, "Invalid value for '--epochs': 'many' is not a valid int"),
        ("epochs = [3, 4]\n", 2, "Invalid value for '--epochs': '3,4' is not a valid int"),
        ("epochs = inf\n", 2, "Invalid value for '--epochs': 'inf' is not a valid int"),
        ("epochs = true\n", 2, "Invalid value for '--epochs': 'True' is not a valid int"),
        ('resume = "perhaps"\n', 2, "Invalid value for '--resume': 'perhaps' is not a valid bool"),
        ('method = "cdull"\n', 2, "Invalid value for '--method': 'cdull' is not one of"),
        ('sigma = "wide"\n', 2, "Invalid value for '--set': sigma: 'wide' is not a valid float"),
        ("[train.size]\na = 3\n", 1, "'size' must have one value"),
        ("train = 3\n", 1, "'train' is not an option"),
        ("a = \n", 1, "cannot be read as settings in TOML"),
        ("a = " + "[" * 3000, 1, "cannot be read as settings in TOML"),
        ('"a\\nb" = 1\n', 1, "is not an option"),
        ('["a\\nb"]\n', 1, r"no section [a\x0ab]"),
        (f"{'a' * 5000} = 1\n", 1, "is not an option"),
    ],
)
def test_a_wrong_settings_file_is_refused_in_one_line_that_names_it(text, status, words, tmp_path, capsys):
    (tmp_path / "settings.toml").write_text(text)
    assert _status(["train", "--config", str(tmp_path / "settings.toml")]) == status
    line = capsys.readouterr().err.rstrip("\n").split("\n")[-1]
    assert words in line and len(line) < 1000 and (status == 2 or "settings.toml" in line)


def test_a_missing_file_and_a_named_pipe_are_refused_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    for name in ("no.toml", "pipe"):
        assert _status(["train", "--config", str(tmp_path / name)]) == 1
        assert name in capsys.readouterr().err or sys.version_info < (3, 11)


def test_set_changes_rare_settings_and_lists_them(capsys):
    changed = parsed("train", "--set", "sigma=0.5", "--set", "cache=false", "--set", "local-views=none")["changed"]
    assert changed == {"sigma": 0.5, "cache": False, "local_views": "none"}
    wrong = {"sigma": "is not NAME=VALUE", "sigmo=1": "Did you mean 'sigma'?", "warmup=x": "warmup: 'x'"}
    for text, words in wrong.items():
        assert _status(["train", "--set", text]) == 2
        assert words in capsys.readouterr().err
    assert _status(["pseudolabel", "no-folder", "--set", "batch_size=0"]) == 2
    assert "batch_size is 0: it must be at least 1" in capsys.readouterr().err
    assert _status(["train", "--set", "help"]) == 0
    assert "sigma = 1.0\n    [cdul] Width" in capsys.readouterr().out


def test_python_3_10_is_told_what_config_needs(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert _status(["train", "--config", str(tmp_path / "s.toml")]) == 1
    assert "--config needs Python 3.11 or newer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--epoch", "3"], "--epochs"),
        (["pseudolabel", "{photos}", "--classes", "vco"], "Did you mean the preset 'voc'?"),
        (["pseudolabel", "{photos}", "--clip", "ViT-B/23"], "Did you mean 'ViT-B/32'?"),
        (["evaluate", "--labels", "{table}", "--truth", "{table}", "--only", "Catt"], "Did you mean 'cat'?"),
        (["report", "--labels", "{table}", "--threshold", "{limits}"], "Did you mean 'dog'?"),
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


def test_verbose_says_what_is_used_and_when(photos, clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = ["pseudolabel", str(photos), "--classes", "red,green", "--clip", str(clip_file)]
    assert _status([*base, "-o", "a.csv", "-v"]) == 0
    told = capsys.readouterr().err
    found = "0 of 12 photos are already"
    for words in ("store of embeddings: ", "device ", "reading the weights", found, "; cache ", " s] "):
        assert words in told, told
    assert _status([*base, "-o", "b.csv"]) == 0
    assert " s] " not in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


def test_version_names_torch(capsys):
    from importlib import metadata

    assert _status(["--version"]) == 0
    assert f"torch {metadata.version('torch')}" in capsys.readouterr().out
