"""How much memory of the process an action takes."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any


def growth_of(action: Callable[[], Any]) -> tuple[int, BaseException | None]:
    """By how many bytes the memory of the process grows at most during `action`, and the exception it raises.

    Linux gives the exact peak. On other systems only a growth above every earlier one is seen.
    """
    exact, error = Path("/proc/self/clear_refs").exists(), None
    if exact:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)  # else `action` can use memory that was freed before, and nothing grows
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS") if exact else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    try:
        action()
    except Exception as caught:
        error = caught
    after = _resident("VmHWM") if exact else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(0, after - before), error


def _resident(field: str) -> int:
    """A line of Linux's /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
