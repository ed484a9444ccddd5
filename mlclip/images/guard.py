"""Whether dataloader workers can start: each worker imports the user's script again, which must not start the work again."""

from __future__ import annotations

import ast
import sys
import warnings
from functools import lru_cache
from multiprocessing.process import current_process

from ..config import InputError

GUARD = 'if __name__ == "__main__":'
IN_MAIN_PROCESS = "so photos are decoded in the main process (num_workers=0)"


class MissingGuardWarning(UserWarning):
    """Dataloader workers are not used, because they would run the user's script again."""


def safe_num_workers(num_workers: int) -> tuple[int, str | None]:
    """The number of dataloader workers that can be used, and a line for the user where it is not the requested number.

    A worker imports the main script. Without a guard it would run the whole script, so the number is then 0.
    Interactive sessions, notebooks, `python -c` and `python -m package` are not imported by workers.
    Raises InputError inside a worker that is importing the script: workers cannot start there.
    """
    if num_workers and getattr(current_process(), "_inheriting", False):
        raise InputError(
            f"A dataloader worker ran this code while it imported the script. Put the code under `{GUARD}`."
        )
    line = _obstacle() if num_workers else None
    return (0, line) if line else (num_workers, None)


def warn_once(line: str) -> None:
    """Show the line as a MissingGuardWarning, once per process."""
    if line not in _shown:
        _shown.add(line)
        warnings.warn(line, MissingGuardWarning, stacklevel=3)


_shown: set[str] = set()


def _obstacle() -> str | None:
    """Why a worker cannot import the main module, or None."""
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if not isinstance(file, str) or getattr(spec, "name", "").endswith(
        ".__main__"
    ):  # workers import neither of the two
        return None
    if file == "<stdin>":
        return f"this program is read from standard input, {IN_MAIN_PROCESS}"
    return None if _has_guard(file) else f"this script has no `{GUARD}` guard, {IN_MAIN_PROCESS}"


@lru_cache
def _has_guard(file: str) -> bool:
    """Whether module-level code compares `__name__`. True for a file that is not Python source, such as a program."""
    try:
        with open(file, "rb") as stream:
            module = ast.parse(stream.read())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return True
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    statements = [node for node in module.body if not isinstance(node, definitions)]
    comparisons = (node for each in statements for node in ast.walk(each) if isinstance(node, ast.Compare))
    names = (node.id for each in comparisons for node in ast.walk(each) if isinstance(node, ast.Name))
    return "__name__" in names
