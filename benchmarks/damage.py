"""The rules of `mlclip.images.damage`: the good files that they refuse, and the damage that they find and Pillow does not.

    python benchmarks/damage.py --photos ../shared/voc12/photos --cases 1000

Good files are real photos, and pictures written by all encoders of encoders.py that are installed. The second table is
about random damage, `cases` files per row: "undetected" files load in Pillow without an error and with other pixels, and
the columns after it say how many of those each rule finds, and how many it finds that no other rule finds.
"same pixels, refused" counts files that a rule refuses although the damage changes no pixel.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from encoders import available, drawn_pictures, encoded, interlaced_pngs
from PIL import Image

from mlclip.images.damage import PILLOW_ERRORS, RULES

Damage = Callable[[bytes, random.Random], bytes]


def pixels(data: bytes) -> bytes | None:
    """All pixels of an image file, or None where Pillow's strict load raises an error."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        return repr((image.mode, image.size, image.getpalette())).encode() + image.tobytes()
    except PILLOW_ERRORS:
        return None


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) // 20, len(data))]


def overwritten(data: bytes, rng: random.Random, source: Callable[[int], bytes]) -> bytes:
    """With a stretch of 64 to 4096 bytes, at most half of the file, replaced."""
    length = min(round(2 ** rng.uniform(6, 12)), len(data) // 2)
    start = rng.randrange(len(data) // 20, len(data) - length)
    return data[:start] + source(length) + data[start + length :]


def zeroed(data: bytes, rng: random.Random) -> bytes:
    return overwritten(data, rng, bytes)


def zero_tail(data: bytes, rng: random.Random) -> bytes:
    """As a download leaves it that reserved the space first and then stopped."""
    kept = cut(data, rng)
    return kept + bytes(len(data) - len(kept))


def randomized(data: bytes, rng: random.Random) -> bytes:
    return overwritten(data, rng, rng.randbytes)


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


DAMAGES: dict[str, Damage] = {
    "cut": cut,
    "zeros to the end": zero_tail,
    "zeros inside": zeroed,
    "random bytes inside": randomized,
    "one byte changed": flipped,
}


def undamaged_files(photos: list[bytes], rng: random.Random, count: int) -> dict[str, list[bytes]]:
    """`count` files of each format that is damaged: photos as they are, and pictures of photos in other formats."""
    chosen = rng.sample(photos, min(count, len(photos))) or [
        encoded(image.resize((500, 375)), "JPEG") for image in drawn_pictures()[:3]
    ]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in chosen]
    small = [image.reduce(2) for image in images]  # PNG is slow
    return {
        "JPEG as found": chosen,
        "JPEG, optimized": [encoded(image, "JPEG", optimize=True) for image in images],
        "JPEG, progressive": [encoded(image, "JPEG", progressive=True) for image in images],
        "JPEG, restarts": [encoded(image, "JPEG", restart_marker_rows=1) for image in images],
        "PNG": [encoded(image, "PNG", compress_level=4) for image in small],
        "PNG, palette": [encoded(image.quantize(64), "PNG", compress_level=4) for image in small],
        "PNG, interlaced": [next(interlaced_pngs(image)) for image in small],
    }


def refusals(files: list[bytes]) -> Counter:
    """How many files are good (Pillow loads them), and how many of those each rule refuses."""
    counts: Counter = Counter()
    for data in files:
        if pixels(data) is not None:
            counts["files"] += 1
            counts.update(rule.__name__ for rule in RULES if rule(data))
    return counts


def detections(files: list[tuple[bytes, bytes]], damage: Damage, cases: int, rng: random.Random) -> Counter:
    """What Pillow and the rules find in `cases` damaged copies of `files`, (file, its pixels)."""
    counts: Counter = Counter()
    for _ in range(cases):
        data, before = rng.choice(files)
        broken = damage(data, rng)
        after = pixels(broken)
        found = [rule.__name__ for rule in RULES if after is not None and rule(broken)]
        if after is None:
            counts["Pillow"] += 1
        elif after == before:
            counts["same"] += 1
            counts["same, refused"] += bool(found)
        else:
            counts["undetected"] += 1
            counts.update(found)
            counts["any"] += bool(found)
            counts.update(f"{name} alone" for name in found if len(found) == 1)
    return counts


def row(*cells: object) -> None:
    print(f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else str(cell) for cell in cells)} |", flush=True)


def measure_good_files(photos: list[bytes]) -> None:
    names = [rule.__name__ for rule in RULES]
    print("\nGood files that each rule refuses\n")
    row("encoder", "files", *names)
    row(*["---"] * (2 + len(names)))
    total: Counter = Counter()
    sources = {"real photos": lambda: photos} if photos else {}
    small = [Image.open(io.BytesIO(data)).convert("RGB").reduce(2) for data in photos[:: len(photos) // 4 + 1]]
    for encoder, files in available().items():
        sources[encoder] = lambda files=files: [data for image in (*drawn_pictures(), *small) for data in files(image)]
    for source, make in sources.items():
        counts = refusals(make())
        total += counts
        row(source, counts["files"], *(counts[name] for name in names))
    row("all", total["files"], *(total[name] for name in names))


def measure_damaged_files(photos: list[bytes], cases: int, rng: random.Random) -> None:
    names = [rule.__name__ for rule in RULES]
    print(f"\nDamaged files, {cases:,} in each row\n")
    columns = [f"{name} (alone)" for name in names]
    row("format", "damage", "Pillow refuses", "same pixels", "same pixels, refused", "undetected", *columns, "found")
    row(*["---"] * (7 + len(names)))
    for form, plain in undamaged_files(photos, rng, 40).items():
        files = [(data, pixels(data)) for data in plain]
        for name, damage in DAMAGES.items():
            c = detections(files, damage, cases, rng)
            by_rule = (f"{c[rule]:,} ({c[f'{rule} alone']:,})" for rule in names)
            row(form, name, c["Pillow"], c["same"], c["same, refused"], c["undetected"], *by_rule, c["any"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=Path("../shared/voc12/photos"), help="a folder of real JPEGs")
    parser.add_argument("--cases", type=int, default=1000, help="damaged files per format and kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    if not args.photos.is_dir():
        print(
            f"Real photos are skipped: {args.photos} is not a folder. Pass another one with --photos.", file=sys.stderr
        )
    photos = [path.read_bytes() for path in sorted(args.photos.rglob("*.jpg"))]
    measure_good_files(photos)
    measure_damaged_files(photos, args.cases, random.Random(args.seed))
    print(f"\n{time.monotonic() - started:.0f} seconds")


if __name__ == "__main__":
    main()
