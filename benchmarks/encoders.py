"""Good JPEG and PNG files from many encoders, for damage.py.

Pillow and torchvision are always used; OpenCV, simplejpeg, imagecodecs, PyMuPDF, pypng, oxipng and
mozjpeg-lossless-optimization if they can be imported; cjpeg, jpegtran, jpegoptim, guetzli, ImageMagick, GraphicsMagick,
ffmpeg, netpbm, optipng, pngcrush and zopflipng if they are on the PATH.
"""

from __future__ import annotations

import importlib.util
import io
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import encode_jpeg, encode_png

QUALITIES = (5, 30, 75, 95, 100)
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, steps
PROGRAMS = [  # format of the input file; command with {i} for that file and {o} for the output file, without suffix
    *[
        ("ppm", f"cjpeg -quality {q} {more} -outfile {{o}} {{i}}")
        for q in QUALITIES
        for more in (
            "-baseline", "-optimize", "-progressive", "-grayscale", "-rgb", "-sample 4x1", "-sample 1x2", "-restart 1",
            "-restart 3B", "-arithmetic", "-arithmetic -progressive", "-progressive -restart 1", "-dct float",
        )
    ],
    *[
        ("jpg", f"jpegtran {more} -outfile {{o}} {{i}}")
        for more in ("-optimize", "-progressive", "-restart 2", "-rotate 90", "-arithmetic -progressive", "-grayscale")
    ],
    ("jpg", "jpegoptim --all-progressive --stdout {i}"),
    ("png", "guetzli --quality 84 {i} {o}"),
    ("ppm", "convert {i} -quality 90 {o}.jpg"),
    ("ppm", "convert {i} -interlace JPEG -sampling-factor 4:1:1 {o}.jpg"),
    ("ppm", "convert {i} -colorspace CMYK {o}.jpg"),
    ("ppm", "convert {i} -interlace PNG {o}.png"),
    ("ppm", "convert {i} -colors 16 {o}.png"),
    ("ppm", "gm convert {i} -interlace Line {o}.jpg"),
    ("ppm", "gm convert {i} {o}.png"),
    *[("ppm", f"ffmpeg -v error -i {{i}} -q:v {q} -pix_fmt {p} {{o}}.jpg") for q in (2, 31) for p in ("yuvj420p", "yuvj444p")],
    ("ppm", "ffmpeg -v error -i {i} -pred mixed {o}.png"),
    ("ppm", "pnmtojpeg -quality=60 -smooth=20 {i}"),
    ("ppm", "pnmtopng -interlace {i}"),
    ("png", "optipng -quiet -i 1 -out {o}.png {i}"),
    ("png", "pngcrush -q {i} {o}.png"),
    ("png", "zopflipng -y --iterations=1 {i} {o}.png"),
]  # fmt: skip


def drawn_pictures() -> list[Image.Image]:
    """Flat, smooth, noisy, striped and tiny RGB pictures."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    smooth = Image.fromarray(noise[:12, :16]).resize((160, 120), Image.Resampling.BICUBIC)
    stripes = Image.fromarray((noise * 0 + 255 * (np.arange(120) % 2)[None, :, None]).astype(np.uint8))
    flat = [Image.new("RGB", (400, 300), colour) for colour in ("white", "black", (127, 127, 127))]
    return [smooth, Image.fromarray(noise), stripes, *flat, smooth.crop((0, 0, 1, 1)), smooth.crop((0, 0, 17, 3))]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pillow_jpegs(image: Image.Image) -> Iterator[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker \xff\xd8\xff\xd9"
    variants = (
        {}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3},
        {"exif": exif, "comment": b"\xff\xd8\xff\xc0" + bytes(90), "icc_profile": bytes(70_000), "dpi": (72, 72)},
    )  # fmt: skip
    for quality, options in product(QUALITIES, variants):
        yield from (encoded(image, "JPEG", quality=quality, subsampling=s, **options) for s in (0, 1, 2))
        yield from (encoded(image.convert(mode), "JPEG", quality=quality, **options) for mode in ("L", "CMYK"))
    yield encoded(image, "MPO", save_all=True, append_images=[image.rotate(180)])


def padded_jpegs(image: Image.Image) -> Iterator[bytes]:
    """With zeros or 255 before the end marker, as some cameras write it, and with data after it."""
    data = encoded(image, "JPEG")
    for padding in (bytes(65), bytes(5000), b"\xff" * 99):
        yield data[:-2] + padding + data[-2:]
        yield data + padding + data


def pillow_pngs(image: Image.Image) -> Iterator[bytes]:
    for mode in PNG_MODES:
        deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        converted = deep if mode == "I;16" else image.convert(mode)
        for level in (0, 1, 6, 9):
            yield encoded(converted, "PNG", compress_level=level, dpi=(72, 72), icc_profile=bytes(9000))
    yield encoded(image.convert("P"), "PNG", optimize=True, bits=4, transparency=3)
    yield encoded(image, "PNG", save_all=True, append_images=[image.rotate(180)])  # animated


def interlaced_pngs(image: Image.Image) -> Iterator[bytes]:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = np.asarray(image)
    passes = [pixels[y::down, x::right] for x, y, right, down in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    body = zlib.compress(rows)
    parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]  # in many IDAT chunks
    header = struct.pack(">IIBBBBB", *image.size, 8, 2, 0, 0, 1)
    yield (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(b"IDAT", p) for p in parts) + chunk(b"IEND", b"")
    )


def torchvision_files(image: Image.Image) -> Iterator[bytes]:
    pixels = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
    yield from (encode_jpeg(pixels, q).numpy().tobytes() for q in QUALITIES)
    yield from (encode_png(pixels, level).numpy().tobytes() for level in (0, 6, 9))


def opencv_files(image: Image.Image) -> Iterator[bytes]:
    import cv2

    pixels = np.asarray(image)[..., ::-1]
    switches = (cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_OPTIMIZE, cv2.IMWRITE_JPEG_RST_INTERVAL)
    for quality, switch in product(QUALITIES, switches):
        yield cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality, switch, 1])[1].tobytes()
    for factor in (0x411111, 0x221111, 0x111111):
        yield cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
    for level, strategy in product((0, 5, 9), range(5)):
        options = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategy]
        yield cv2.imencode(".png", pixels, options)[1].tobytes()


def simplejpeg_files(image: Image.Image) -> Iterator[bytes]:
    import simplejpeg

    pixels = np.ascontiguousarray(image)
    for quality, sampling in product(QUALITIES, ("444", "422", "420", "440", "411")):
        yield simplejpeg.encode_jpeg(pixels, quality, colorsubsampling=sampling, fastdct=False)


def imagecodecs_files(image: Image.Image) -> Iterator[bytes]:
    import imagecodecs

    pixels = np.ascontiguousarray(image)
    for quality in QUALITIES:
        yield imagecodecs.jpeg8_encode(pixels, level=quality)
    yield from (imagecodecs.png_encode(pixels, level=level) for level in (0, 6, 9))
    yield from (imagecodecs.spng_encode(pixels, level=level) for level in (0, 6, 9))


def pymupdf_files(image: Image.Image) -> Iterator[bytes]:
    import pymupdf

    page = pymupdf.Pixmap(pymupdf.csRGB, *image.size, image.tobytes(), False)
    yield page.tobytes("png")
    yield from (page.tobytes("jpeg", jpg_quality=quality) for quality in QUALITIES)


def pypng_files(image: Image.Image) -> Iterator[bytes]:
    import png

    for interlace, size in product((False, True), (0, 500)):
        stream = io.BytesIO()
        writer = png.Writer(*image.size, greyscale=False, interlace=interlace, chunk_limit=size or 2**20)
        writer.write(stream, np.asarray(image).reshape(image.height, -1).tolist())
        yield stream.getvalue()


def oxipng_files(image: Image.Image) -> Iterator[bytes]:
    import oxipng

    for level, mode in product((0, 2, 4), ("L", "P", "RGB")):
        yield oxipng.optimize_from_memory(encoded(image.convert(mode), "PNG"), level=level)


def mozjpeg_files(image: Image.Image) -> Iterator[bytes]:
    import mozjpeg_lossless_optimization as mozjpeg

    yield from (mozjpeg.optimize(encoded(image, "JPEG", quality=quality)) for quality in QUALITIES)


ENCODERS: dict[str, tuple[str | None, Callable[[Image.Image], Iterator[bytes]]]] = {  # name: module it needs, files
    "Pillow JPEG": (None, pillow_jpegs),
    "Pillow JPEG, padded": (None, padded_jpegs),
    "Pillow PNG": (None, pillow_pngs),
    "interlaced PNG": (None, interlaced_pngs),
    "torchvision": (None, torchvision_files),
    "OpenCV": ("cv2", opencv_files),
    "simplejpeg": ("simplejpeg", simplejpeg_files),
    "imagecodecs": ("imagecodecs", imagecodecs_files),
    "PyMuPDF": ("pymupdf", pymupdf_files),
    "pypng": ("png", pypng_files),
    "oxipng": ("oxipng", oxipng_files),
    "mozjpeg": ("mozjpeg_lossless_optimization", mozjpeg_files),
}


def program_output(command: str, file: Path) -> bytes | None:
    """The picture that a program makes from a picture file; None where it does not accept it (guetzli: too small)."""
    with tempfile.TemporaryDirectory() as folder:
        words = command.format(i=file, o=f"{folder}/out").split()
        done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
        written = [path.read_bytes() for path in Path(folder).iterdir()]
    return (written or [done.stdout])[0] or None


def program_files(image: Image.Image, name: str) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for kind, suffix in (("PPM", "ppm"), ("JPEG", "jpg"), ("PNG", "png")):
            image.save(Path(folder) / f"in.{suffix}", kind)
        commands = [(suffix, command) for suffix, command in PROGRAMS if command.split()[0] == name]
        outputs = (program_output(command, Path(folder) / f"in.{suffix}") for suffix, command in commands)
        yield from (data for data in outputs if data)


def available() -> dict[str, Callable[[Image.Image], Iterator[bytes]]]:
    """{encoder: a function from an RGB picture to its files}, of the encoders that are installed."""
    found = {
        name: files for name, (module, files) in ENCODERS.items() if not module or importlib.util.find_spec(module)
    }
    programs = dict.fromkeys(command.split()[0] for _, command in PROGRAMS)
    return found | {name: partial(program_files, name=name) for name in programs if shutil.which(name)}
