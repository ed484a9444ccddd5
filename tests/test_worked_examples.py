"""The worked examples in the docstrings of all modules hold."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mlclip

PACKAGE = Path(mlclip.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if ">>>" in file.read_text()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_worked_examples_in_the_docstrings_hold(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    result = doctest.testmod(importlib.import_module(".".join(parts)))
    assert result.attempted and not result.failed
