"""The documentation says what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlclip.cli import cli
from mlclip.demo import write_scenes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_help_and_stands_in_the_readme(name):
    command = cli.commands[name]
    assert command.help and len(command.help) > 30
    assert all(option.help for option in command.params if option.param_type_name == "option")
    assert f"`mlclip {name}" in README


def test_the_readme_s_example_runs_word_for_word(tmp_path):
    write_scenes(tmp_path / "mlclip-demo", train=24, test=2, seed=0)
    (block,) = re.findall(r"```console\n(.*?)```", README, flags=re.S)
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 5
    for command in commands:
        program, *args = shlex.split(command)
        assert program == "mlclip"
        done = subprocess.run([sys.executable, "-m", "mlclip", *args], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
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
