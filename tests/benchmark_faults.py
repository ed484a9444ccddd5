"""`benchmarks/faults.py` as a module for the tests: a benchmark is a script and not part of the package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _load():
    file = Path(__file__).parents[1] / "benchmarks" / "faults.py"
    sys.path.append(str(file.parent))  # where it finds `fault_files`
    spec = importlib.util.spec_from_file_location("faults", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults"] = module
    spec.loader.exec_module(module)
    return module


faults = _load()
