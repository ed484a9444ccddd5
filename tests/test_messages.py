"""Messages on the command line: options instead of Python parameters, safe text, progress, and what Ctrl-C says."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
import time

import click
import pytest

from mlclip.cli import _status, cli
from mlclip.cli.console import Console, in_options, printable, table
from mlclip.config import OptionError, PseudolabelConfig, TrainConfig

COMMAND_OF = {PseudolabelConfig: "pseudolabel", TrainConfig: "train"}


def message(config: type, **settings) -> str:
    """The message for wrong settings, as the command line prints it."""
    with pytest.raises(OptionError) as error:
        config(**settings)
    return in_options(str(error.value), cli.commands[COMMAND_OF[config]])


@pytest.mark.parametrize(
    ("text", "translated"),
    [
        ("Pass `overwrite=True` to replace it.", "Pass --overwrite to replace it."),
        ("lower `batch_size`", "lower --batch-size"),
        ("use `stopping=False`", "use --set stopping=False"),
        ('use `init="none"` or `size=224`', "use --init none or --size 224"),
        ("`num_workers` is 300", "--workers is 300"),
        ("pass it as `teacher`", "pass it as --clip"),
        ("`mlclip train` and `unknown=3`", "`mlclip train` and `unknown=3`"),
        ("`resume=False` has no option", "`resume=False` has no option"),
    ],
)
def test_a_parameter_in_backticks_becomes_its_option(text, translated):
    assert in_options(text, cli.commands["train"]) == translated
    assert in_options(text, None) == text


@pytest.mark.parametrize(
    ("config", "settings", "text"),
    [
        (TrainConfig, {"epochs": 0}, "--epochs is 0: it must be at least 1"),
        (TrainConfig, {"method": "magic"}, "--method is magic: it must be one of fixed, probe, consistent, cdul, ccd"),
        (TrainConfig, {"lr": float("inf")}, "--lr is inf: it must be a finite number"),
        (PseudolabelConfig, {"method": "cdul", "disagreement": 2}, "disagreement is 2: it must be from 0 to 1"),
        (PseudolabelConfig, {"grids": (1, 1)}, "grids is 1,1: it must be different numbers from 1 to 16, such as 1,2,3"),
        (PseudolabelConfig, {"disagreement": 0.5},
         "disagreement has no effect with --method centred. Use --method cdul, or do not set disagreement."),
        (TrainConfig, {"consistency": 0.5}, "consistency has no effect with --method fixed. Use --method consistent or --method ccd, "
         "or do not set consistency."),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_reported_with_its_option(config, settings, text):
    assert message(config, **settings) == text


@pytest.mark.parametrize("config", COMMAND_OF)
def test_every_setting_is_an_option_with_the_same_default_or_can_be_set(config):
    options = {param.name: param for param in cli.commands[COMMAND_OF[config]].params}
    common = [f for f in dataclasses.fields(config) if f.name not in options["changed"].fields]
    with click.Context(cli.commands[COMMAND_OF[config]]) as context:
        chosen = {
            f.name: options[f.name].type_cast_value(context, options[f.name].get_default(context)) for f in common
        }
    assert config(**chosen) == config()
    for field in dataclasses.fields(config):
        assert set(field.metadata["methods"]) <= set(config.METHODS)


def test_the_commands_have_few_options():
    count = {
        name: len([p for p in command.params if isinstance(p, click.Option)]) for name, command in cli.commands.items()
    }
    assert count["train"] <= 26 and count["pseudolabel"] <= 18 and sum(count.values()) <= 114, count


@pytest.mark.parametrize("value", ["1,x", "", "1.5"])
def test_grids_must_be_whole_numbers(value, capsys):
    assert _status(["pseudolabel", "photos", "--set", f"grids={value}"]) == 2
    assert "is not a list of whole numbers such as 1,2,3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("straße/日本 語/عكس.jpg", "straße/日本 語/عكس.jpg"),
        ("a\x1b[2J\n.jpg", "a\\x1b[2J\\x0a.jpg"),
        ("\x7f\x9b\u2028\u202e", "\\x7f\\x9b\\u2028\\u202e"),
        (os.fsdecode(b"\xff.jpg"), "\\xff.jpg"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable_escapes_control_characters_and_undecodable_bytes_only(text, shown):
    assert printable(text) == shown
    shown.encode("utf-8")


def test_messages_and_tables_are_printable(capsys):
    console = Console()
    console.log("a\x1b[2J: `x`")
    console.table(["photo"], [["b\r.jpg"]])
    assert capsys.readouterr().err == "a\\x1b[2J: `x`\nphoto\n---------\nb\\x0d.jpg\n"
    assert table(["n"], [["1"], ["22"]], right=[0]) == " n\n--\n 1\n22"


def test_quiet_prints_only_warnings(capsys):
    console = Console(quiet=True)
    console.log("a message")
    console.log("warning: look")
    console.table(["a"], [["b"]])
    with console.bar("work", 2) as bar:
        bar.update(2)
    assert capsys.readouterr() == ("", "warning: look\n")


def test_progress_without_a_terminal_ends_with_a_line_of_count_and_rate(capsys):
    with Console().bar("encoding", 40, "photos") as bar:
        bar.update(10, "loss 0.5")
        bar.update(30)
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"encoding: 40 of 40 photos, \d+/s.*\n", err)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_line_with_count_rate_and_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Console().bar("downloading", 300_000_000, unit="B", done=100_000_000) as bar:
        clock[0] = 10.0
        bar.update(50_000_000)
        Console().log("a message")
        clock[0] = 20.0
        bar.update(150_000_000)
    text = sys.stderr.getvalue()
    assert "150 of 300 MB, 5 MB/s, 0:30 left" in text and "300 of 300 MB, 10 MB/s" in text
    assert "100%" in text and text.count("\n") == 2


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train", "interrupted; finished work is kept: add --resume to continue"),
        ("pseudolabel photos", "interrupted; finished embeddings are kept: run the same command again to continue"),
        ("predict photos", "interrupted"),
    ],
)
def test_ctrl_c_says_what_is_kept(command, text, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.commands[command.split()[0]], "invoke", stop)
    assert _status(command.split()) == 130
    assert capsys.readouterr().err == f"\nmlclip: {text}\n"
