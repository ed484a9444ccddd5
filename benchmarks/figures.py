"""The size of the project: lines, files, functions and options.

python benchmarks/figures.py
"""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import click

from mlclip.cli import cli

ROOT = Path(__file__).parents[1]


def lines(files) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def function_lengths(files) -> list[int]:
    """The lines of each function, from its `def` to its end."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    return [node.end_lineno - node.lineno + 1 for node in nodes if isinstance(node, functions)]


def main() -> None:
    package, tests = sorted((ROOT / "mlclip").rglob("*.py")), sorted((ROOT / "tests").glob("*.py"))
    lengths = function_lengths(package)
    options = {name: sum(isinstance(p, click.Option) for p in c.params) for name, c in cli.commands.items()}
    print(f"package: {lines(package):,} lines in {len(package)} files")
    print(f"functions: {len(lengths):,}, median {statistics.median(lengths):g} lines, longest {max(lengths)}")
    print(f"options: {sum(options.values())} in all, {', '.join(f'{name} {n}' for name, n in options.items())}")
    print(f"tests: {lines(tests):,} lines in {len(tests)} files")
    for page in ("README.md", "docs/results.md", "mlclip/training/loop.py", "mlclip/teacher/label.py"):
        print(f"{page}: {lines([ROOT / page])} lines")


if __name__ == "__main__":
    main()
