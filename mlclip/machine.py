"""What this process may use of the machine: processor cores, and memory that was freed.

By default, glibc gives the memory of every large tensor back to the system when it is freed, and gets new pages for the next one.
The system clears each new page first. A network frees and allocates its activations in every pass, so this takes much of the
time of a pass on a CPU: `python benchmarks/speed.py freed` measures it.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

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


def default_workers() -> int:
    """Dataloader workers, or threads that decode photos, where the user does not say: one per core, at most 8."""
    return min(8, available_cores())


def limit_threads() -> None:
    """Let torch and onnxruntime start no more threads than `available_cores`. For commands, before torch is imported.

    They know the cores that the process may run on, but not the quota of a container.
    """
    if available_cores() < _allowed_cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))


def available_cores() -> int:
    """The number of processor cores that this process can keep busy, 1 or more.

    It is the number of cores that it may run on, or the quota of its control group (containers have one), rounded up, if
    that is less.
    """
    return max(1, min([_allowed_cores(), *(math.ceil(quota) for quota in _cpu_quotas(Path("/")))]))


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of this process's control group and of the groups above it. `root` is "/", except in tests.

    Version 2 has one file, `cpu.max` ("50000 100000" or "max 100000"); version 1 has one for the quota and one for the period.
    """
    mounted = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError):  # not Linux, or no control groups
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = mounted / controllers  # version 2 names no controllers
            for folder in [top / path.strip("/"), *(top / path.strip("/")).parents]:
                with suppress(OSError, ValueError):
                    quota, period = (folder / "cpu.max").read_text().split()
                    yield int(quota) / int(period)
                with suppress(OSError, ValueError):
                    quota = int((folder / "cpu.cfs_quota_us").read_text())
                    if quota > 0:
                        yield quota / int((folder / "cpu.cfs_period_us").read_text())
                if folder == top:
                    break
