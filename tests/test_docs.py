"""The documentation says what the program does."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tarfile
from dataclasses import fields
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mlclip.cli import cli
from mlclip.config import EncodingConfig, PseudolabelConfig, ReportConfig, TableOptions, TeacherConfig, TrainConfig
from mlclip.demo import write_scenes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_and_stands_in_the_readme(name):
    command = cli.commands[name]
    assert command.help and len(command.help) > 30
    assert all(option.help for option in command.params if option.param_type_name == "option")
    assert f"`mlclip {name}" in README


def readme_commands() -> list[str]:
    """The lines of the README's code blocks that run mlclip, in order, without what a console prints. Python is left out."""
    commands, language = [], None
    for line in README.splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language == "console" and line.startswith("$ "):
            commands.append(line[2:])
        elif language in ("", "sh", "bash") or (language is None and line.startswith("    ")):
            commands.append(line.strip())
    return [line for line in commands if re.search(r"\bmlclip\b", line)]


NOT_RUN = {  # what a line contains -> why it is not run
    "cd mlclip": "it is for the shell",
    "pip install": "it needs the network",
    "zsh_source": "it needs another shell",
    "fish_source": "it needs another shell",
    "docker ": "it needs another program",
}
NO_DOWNLOAD = {  # what is added to a command whose default would be a download
    "pseudolabel": ("--clip", "tiny"),
    "train": ("--init", "none"),
}
WRITES = {"pseudolabel": "labels.pt", "train": "model.pt", "report": "report.html", "calibrate": "calibrated.pt"}


def prepare_folder(folder: Path) -> None:
    """The files that the README's commands name: drawn photos and true labels, shards and tables of the photos, a correction."""
    write_scenes(folder / "mlclip-demo", train=12, test=2, seed=0)
    scenes = sorted((folder / "mlclip-demo" / "train").iterdir())
    for name in ("imgs", "new", "few", "shards"):
        (folder / name).mkdir()
    for scene in scenes[:4]:
        for name in ("imgs", "new", "few"):
            shutil.copy(scene, folder / name)
    shutil.copy(scenes[0], folder / "img.jpg")
    shutil.copy(folder / "mlclip-demo" / "classes.txt", folder)
    for name in ("truth.csv", "few.csv"):
        shutil.copy(folder / "mlclip-demo" / "truth_train.csv", folder / name)
    with tarfile.open(folder / "shards" / "shard-000.tar", "w") as shard:
        for scene in scenes[:4]:
            shard.add(scene, scene.name)
    paths = [f"imgs/{scene.name}" for scene in scenes[:4]]
    (folder / "photos.csv").write_text("\n".join(["file", *paths]) + "\n")
    parquet.write_table(pyarrow.table({"path": paths}), folder / "photos.parquet")
    (folder / "corrections.csv").write_text("path,class,value\n00000.jpg,star,1\n")


def test_the_readme_s_commands_run_as_they_stand(command, tmp_path):
    """In one folder, one after the other. Where an earlier line has written the same file, it is deleted first."""
    prepare_folder(tmp_path)
    ran = []
    for line in readme_commands():
        if any(part in line for part in NOT_RUN) or ("--config" in line and sys.version_info < (3, 11)):
            continue
        name = line.split()[1]
        assert line.startswith("mlclip ") and name in cli.commands, line
        option, value = NO_DOWNLOAD.get(name, ("", ""))
        if option not in line:
            line = f"{line} {option} {value}"
        if "--overwrite" not in line:
            (tmp_path / WRITES.get(name, "none")).unlink(missing_ok=True)
        status, _, err = command(*shlex.split(line, comments=True)[1:])
        assert status == 0, f"{line}\n{err}"
        ran.append(name)
    assert {"pseudolabel", "train", "predict", "evaluate", "report", "review"} <= set(ran)
    assert (tmp_path / "report.html").is_file()


def test_the_readme_names_every_option_that_it_uses():
    known = {name for command in cli.commands.values() for option in command.params for name in option.opts}
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - {
        "--nproc-per-node",
        "--version",
    }  # torchrun's, and mlclip's own
    assert used <= known, used - known


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def headings(page: Path) -> list[str]:
    return re.findall(r"^##+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_are_unique_and_links_lead_to_a_file_and_a_heading(page):
    if page.name != "CHANGELOG.md":  # where every version may have an "Added"
        assert len(headings(page)) == len(set(headings(page)))
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)]+))?\)", page.read_text()):
        target = page.parent / file if file else page
        assert target.exists(), file
        anchors = (
            {re.sub(r"[^\w\s-]", "", name.lower()).strip().replace(" ", "-") for name in headings(target)}
            if anchor
            else ()
        )
        assert not anchor or anchor in anchors, f"{file}#{anchor}"


def test_every_script_that_a_page_calls_exists():
    for page in PAGES:
        for script in re.findall(r"python (benchmarks/\w+\.py)", page.read_text()):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


@pytest.mark.parametrize(("page", "lines"), [("README.md", 150), ("docs/results.md", 200)])
def test_the_pages_that_people_read_first_are_short(page, lines):
    assert len((ROOT / page).read_text().splitlines()) <= lines


def settings_page() -> str:
    """docs/settings.md, made from the fields: `python tests/test_docs.py > docs/settings.md` writes it."""
    lines = ["# Settings", ""]
    lines += [
        "Made from the fields in `mlclip/config/`. A setting with a dash is an option; the others are for `--set name=value`. In Python",
        'all are arguments. An empty column "methods": all of them.',
        "",
    ]
    for title, config in (
        ("mlclip pseudolabel", PseudolabelConfig),
        ("The teacher", TeacherConfig),
        ("Encoding", EncodingConfig),
        ("mlclip train", TrainConfig),
        ("Tables of other programs, with train, evaluate, calibrate and report", TableOptions),
        ("mlclip report", ReportConfig),
    ):
        lines += [f"## {title}", "", "| setting | default | methods | what it does |", "|---|---|---|---|"]
        for field in fields(config):
            facts, value = field.metadata, field.default
            name = f"`{field.name}`" if facts["rare"] else f"`--{field.name.replace('_', '-')}`"
            value = facts.get("if_none") or (",".join(map(str, value)) if isinstance(value, tuple) else value)
            words = facts["help"] + (f" One of {', '.join(map(str, facts['choices']))}." if "choices" in facts else "")
            lines.append(f"| {name} | {value} | {', '.join(facts['methods'])} | {words.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_of_settings_is_that_of_the_fields():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


if __name__ == "__main__":
    print(settings_page(), end="")
