"""`mlclip --version`: the versions, and the device that would be used. torch is not imported: that takes seconds."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

from .. import __version__


def print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """The callback of --version."""
    if value and not ctx.resilient_parsing:
        click.echo("\n".join(version_lines()))
        ctx.exit()


def version_lines() -> list[str]:
    """mlclip, torch and Python, and what --device auto would take, as far as one can know without asking torch."""
    import platform
    from importlib import metadata  # here, because every command would wait for it

    try:
        torch = f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        return [f"mlclip {__version__}", f"torch is missing, Python {platform.python_version()}"]
    return [f"mlclip {__version__}", f"{torch}, Python {platform.python_version()}", f"device {_device(_build())}"]


def _build() -> dict[str, bool]:
    """Whether the installed torch was built for "cuda" and "hip". torch/version.py says so; it is read, not run."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    text = ""
    if spec and spec.origin:
        file = Path(spec.origin).with_name("version.py")
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return {kind: bool(re.search(rf"^{kind}\b[^=\n]*=\s*['\"]\d", text, re.MULTILINE)) for kind in ("cuda", "hip")}


def _device(build: dict[str, bool]) -> str:
    import platform

    if sys.platform == "darwin":
        return "mps, probably (an Apple GPU)" if platform.machine() == "arm64" else "cpu"
    if not any(build.values()):
        return "cpu (this torch is built for the CPU only)"
    if build["cuda"] and os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "cpu (CUDA_VISIBLE_DEVICES hides the GPUs)"
    if _has_driver("kfd" if build["hip"] else "nvidia[0-9]*"):
        return "cuda, probably (a driver is present; torch was not asked)"
    return "cpu (no driver of a GPU was found)"


def _has_driver(device_file: str) -> bool:
    windows = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll"
    return any(Path("/dev").glob(device_file)) or Path("/dev/dxg").exists() or windows.exists()  # dxg: Linux on Windows
