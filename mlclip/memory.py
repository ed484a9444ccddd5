"""Freed memory stays with the process.

By default, glibc gives the memory of every large tensor back to the system when it is freed, and gets new pages for the next one.
The system clears each new page first. A network frees and allocates its activations in every pass, so this takes much of the
time of a pass on a CPU: `python benchmarks/speed.py freed` measures it.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 2**31 - 1  # bytes that may stay free at the end of the heap
LARGEST_KEPT = 2**30  # bytes of one piece of memory; larger ones still go back to the system
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next tensors. The peak memory grows a little, and is held until the process ends.

    False, and nothing changes, on other systems than Linux with glibc, or where the environment already says what malloc does. The
    commands of mlclip call it; a script that computes on a CPU may call it once, before the first tensor.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _SET_BY_USER):
        return False
    library = ctypes.CDLL(None)  # the C library of this process
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and library.mallopt(M_TRIM_THRESHOLD, KEPT))
