"""The structure of the code: levels, import costs, no printing in the library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mlclip

PACKAGE = Path(mlclip.__file__).parent
LEVELS = {
    0: {
        "config",
        "files",
        "plain",
        "spelling",
        "progress",
        "machine",
        "distributed",
        "clip",
        "images",
        "methods",
    },
    1: {"labels"},
    2: {"teacher", "student"},
    3: {"training", "report", "demo"},
    4: {"cli", "__main__"},
}
LEVEL_OF = {module: level for level, modules in LEVELS.items() for module in modules}
FILES = sorted(PACKAGE.rglob("*.py"))


def _module(file: Path) -> str:
    """The module or folder of the package that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: Path) -> set[str]:
    """The mlclip modules that a file imports, at the top or inside functions."""
    depth = len(file.relative_to(PACKAGE).parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("mlclip."):
            found.add(node.module.split(".")[1])
    return {name for name in found if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


@pytest.mark.parametrize("file", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda f: f.stem)
def test_no_command_imports_from_another_command(file):
    if file.stem == "__init__":
        return
    shared = {"options", "console", "settings", ""}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            assert (node.module or "") in shared, f"cli/{file.name} imports from cli/{node.module}.py"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_module_imports_nothing_from_a_higher_level(file):
    module = _module(file)
    if module == "__init__":
        return
    too_high = {name for name in _imports(file) - {module} if LEVEL_OF[name] > LEVEL_OF[module]}
    assert not too_high, f"{module} (level {LEVEL_OF[module]}) imports {too_high}"


def test_every_module_has_a_level_and_every_listed_module_exists():
    assert {_module(file) for file in FILES} - {"__init__"} == set(LEVEL_OF)


@pytest.mark.parametrize("file", [f for f in FILES if _module(f) != "cli"], ids=lambda f: str(f.relative_to(PACKAGE)))
def test_the_library_does_not_print_and_does_not_import_click(file):
    tree = ast.parse(file.read_text())
    calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "print" not in calls
    modules = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    modules += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert "click" not in modules


@pytest.mark.parametrize("arguments", [["--help"], ["pseudolabel", "--help"], ["train", "--help"], ["--version"]])
def test_help_does_not_import_torch(arguments):
    code = (
        "import sys; from mlclip.cli import _status; status = _status(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'PIL', 'ftfy'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mlclip" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_takes_less_than_three_tenths_of_a_second(arguments):
    code = (
        "import sys, time; start = time.process_time(); from mlclip.cli import _status; _status(sys.argv[1:]);"
        "print(time.process_time() - start, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(5)]
    assert min(float(run.stderr) for run in runs) < 0.3


def test_importing_the_package_does_not_import_torch_and_every_public_name_exists():
    code = "import sys, mlclip; assert 'torch' not in sys.modules; [getattr(mlclip, n) for n in mlclip.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_reading_a_model_does_not_import_clip_or_the_teacher():
    code = (
        "import sys; from mlclip.student.checkpoint import load_checkpoint;"
        "heavy = {f'mlclip.{name}' for name in ('clip.load', 'clip.model', 'clip.tokenizer', 'teacher.scoring')};"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_there_is_exactly_one_optimizer_step():
    text = "".join(file.read_text() for file in FILES)
    assert text.count("optimizer.step()") == 1
