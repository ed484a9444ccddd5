"""What a file is by its first bytes, and why it is not a photo that can be read."""

from __future__ import annotations

from collections.abc import Collection

HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")

_IMAGES = (  # first bytes of the formats that can be read
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"RIFF", "WebP"),
)
_OTHERS = (  # first bytes of other files that often have the name of an image
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)
_TEXTS = (
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)


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
    if not data[:1024].strip(b"\0"):
        return "not an image (only zero bytes)"
    name = next((name for start, name in _IMAGES if data.startswith(start)), None)
    if brand(data) in HEIF_BRANDS + AVIF_BRANDS:
        name = "HEIC or AVIF"
    if name:
        return f"damaged or cut short (it begins like {name})"
    kind = _other_kind(data)
    return f"not an image (looks like {kind})" if kind else "not an image"


def _other_kind(data: bytes) -> str | None:
    if brand(data):
        return "a video"
    for start, name in _OTHERS:
        if data.startswith(start):
            return name
    head = data[:1024]
    words = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, name in _TEXTS:
        if words.startswith(start):
            return name
    control = set(head) & (set(range(32)) - set(b"\t\n\r\f\x1b"))
    return None if control else "text"
