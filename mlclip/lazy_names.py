"""The names of a package that are imported on first use, so that importing the package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(
    package: str, names: Mapping[str, str]
) -> tuple[list[str], Callable[[str], object], Callable[[], list[str]]]:
    """`__all__`, `__getattr__` and `__dir__` of a package. `names`: a module in it -> its public names, with spaces between them."""
    module_of = {name: module for module, all_of_it in names.items() for name in all_of_it.split()}

    def look_up(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{module_of[name]}"), name)
        vars(sys.modules[package])[name] = value  # the next use does not come here
        return value

    return sorted(module_of), look_up, lambda: sorted({*vars(sys.modules[package]), *module_of})
