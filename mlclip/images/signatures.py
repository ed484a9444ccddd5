"""Why a file is not a photo that can be read, by its first bytes."""

from __future__ import annotations

from collections.abc import Collection

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")

_IMAGES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
}
_OTHERS = {b"%PDF": "PDF", b"%!PS": "PostScript", b"PK\3\4": "a zip archive"}
_TEXTS = {b"<!doctype html": "HTML", b"<html": "HTML", b"<svg": "SVG", b"<?xml": "XML", b"{": "JSON", b"[": "JSON"}


def brand(data: bytes) -> bytes:
    """The four-letter brand of an ISO media file (HEIC, AVIF, MP4), or b"" for any other file."""
    return data[8:12] if data[4:8] == b"ftyp" else b""


def explain(data: bytes, formats: Collection[str]) -> str:
    """The reason why no decoder in `formats` (Pillow's names) recognised `data`, and what to do where that is known."""
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the photo itself; run `git lfs pull`"
    if brand(data) in HEIF_BRANDS and "HEIF" not in formats:
        return "HEIC needs a plug-in; run `pip install pillow-heif`"
    if brand(data) in AVIF_BRANDS and "AVIF" not in formats:
        return "AVIF needs a newer Pillow or a plug-in; run `pip install -U pillow` or `pip install pillow-avif-plugin`"
    head = data[:1024]
    if not head.strip(b"\0"):
        return "not an image (only zero bytes)"
    name = next((name for start, name in _IMAGES.items() if data.startswith(start)), None)
    if brand(data) in HEIF_BRANDS + AVIF_BRANDS:
        name = "HEIC or AVIF"
    if name:
        return f"damaged or cut short (it begins like {name})"
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    kind = next((name for start, name in _OTHERS.items() if data.startswith(start)), None)
    kind = kind or next((name for start, name in _TEXTS.items() if words.startswith(start)), None)
    if brand(data):
        kind = "a video"
    elif kind is None and not set(head) & (set(range(32)) - set(b"\t\n\r\f\x1b")):
        kind = "text"
    return f"not an image (looks like {kind})" if kind else "not an image"
