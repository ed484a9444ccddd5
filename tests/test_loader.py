"""Snippets cover the image. Batches keep their order with unreadable photos and with any number of workers."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.images import PhotoViews, find_images, photo_batches, tile_boxes, view_pixels


def grey(value: int, size: tuple[int, int] = (12, 9)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def photos(tmp_path):
    """Seven photos; the pixels of photo i are 10 · i, but for a corner. Photos 2 and 3 (a whole batch of two) and 6 are unreadable."""
    for number in range(7):
        photo = grey(10 * number)
        photo.putpixel((11, 8), (200, 200, 200))
        photo.save(tmp_path / f"{number}.png")
    for number in (2, 3, 6):
        (tmp_path / f"{number}.png").write_bytes(b"<html>")
    return find_images([tmp_path]).photos


def read(batches) -> list:
    """Batches as lists: indices, the first pixel of each photo, indices of the unreadable photos."""
    return [
        (rows.tolist(), [] if pixels is None else pixels[:, 0, 0, 0, 0].tolist(), [index for index, _ in unreadable])
        for rows, pixels, unreadable in batches
    ]


EXPECTED = [([0, 1], [0, 10], []), ([], [], [2, 3]), ([4, 5], [40, 50], []), ([], [], [6])]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2), (2, 300), (320, 213), (7, 5)])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_snippets_are_never_empty_and_cover_the_image(size, n):
    width, height = size
    boxes = tile_boxes(width, height, n)
    covered = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        covered[y0:y1, x0:x1] = True
    assert covered.all()
    assert len(boxes) == n * n
    for low, high, side in ((0, 2, width), (1, 3, height)):  # equal after rounding to whole pixels
        assert all(abs((box[high] - box[low]) - max(1, side / n)) < 1 for box in boxes)


def test_a_view_is_its_snippet_resized_to_a_square_without_its_neighbours():
    pixels = np.zeros((60, 90, 3), np.uint8)
    for row in range(3):
        for column in range(3):
            pixels[20 * row : 20 * row + 20, 30 * column : 30 * column + 30] = 25 * (3 * row + column) + 5
    views = view_pixels(Image.fromarray(pixels), 32, (3, 1))
    for number in range(9):
        assert (views[number] == 25 * number + 5).all()  # no pixel of a neighbour
    plain = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(views[9].permute(1, 2, 0).numpy().astype(int) - np.asarray(plain)).max() <= 1


def test_reducing_a_large_photo_averages_its_pixels():
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (view_pixels(Image.fromarray(stripes), 50).int() - 100).abs().max() <= 3


@pytest.mark.parametrize("device", [None, torch.device("cpu")], ids=["processes", "threads"])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_keep_their_order_with_any_number_of_workers(photos, device, num_workers):
    settings = {"num_workers": num_workers, "device": device}
    assert read(photo_batches(PhotoViews(photos, 8), batch_size=2, **settings)) == EXPECTED
    chosen = photo_batches(PhotoViews(photos, 8), batch_size=3, order=[5, 6, 0, 4], **settings)
    for _ in range(2 if device is None else 1):
        assert read(chosen) == [([5, 0], [50, 0], [6]), ([4], [40], [])]


def test_an_error_in_a_thread_reaches_the_caller(photos):
    class Broken(PhotoViews):
        def __getitem__(self, index):
            raise ZeroDivisionError(index)

    with pytest.raises(ZeroDivisionError):
        read(photo_batches(Broken(photos, 8), batch_size=2, num_workers=2, device=torch.device("cpu")))


def test_loading_does_not_change_the_global_random_state(photos):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(photo_batches(PhotoViews(photos, 8), batch_size=2))
    assert torch.equal(before, torch.get_rng_state())


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from mlclip.images import PhotoViews, find_images, photo_batches
if __name__ == "__main__":
    photos = find_images([sys.argv[1]]).photos
    loader = photo_batches(PhotoViews(photos * 2000, 8), batch_size=2, num_workers=2)
    batches = iter(loader)
    next(batches)
    print("ready", flush=True)
    try:
        while True:  # until the interrupt comes
            for _ in batches:
                pass
            batches = iter(loader)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_reaches_the_main_process_and_the_workers_print_nothing(photos, tmp_path):
    (tmp_path / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "run.py", os.path.dirname(photos[0].file)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # to the whole process group, as a terminal does
        out, err = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)


def test_workers_start_from_a_script_with_a_guard(photos, tmp_path):
    text = """
import os, sys
from mlclip.images import PhotoViews, find_images, photo_batches

def process_ids(items):
    return os.getpid()

def main():
    photos = find_images([sys.argv[1]]).photos
    ids = set(photo_batches(PhotoViews(photos, 8), batch_size=2, num_workers=2, collate_fn=process_ids))
    print(len(ids - {os.getpid()}))
"""
    (tmp_path / "run.py").write_text(text + "if __name__ == '__main__':\n    main()\n")
    command = [sys.executable, tmp_path / "run.py", os.path.dirname(photos[0].file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr, done.returncode) == ("2\n", "", 0)


# --- imports and the number of workers --------------------------------------------------------------------------------


@pytest.mark.parametrize(("photo_count", "expected"), [(1, 0), (2, 0), (3, 2), (4, 2)])
def test_there_are_never_more_workers_than_batches_and_none_for_one_batch(photos, photo_count, expected):
    batches = photo_batches(PhotoViews(photos, 8), batch_size=2, num_workers=5, order=range(photo_count))
    assert batches.num_workers == expected


def test_finding_and_cutting_photos_does_not_import_torch(photos):
    code = (
        "import sys; from mlclip.images import find_images, open_image, read_parts, tile_boxes;"
        "[views], noted = read_parts(sys.argv[1], [(8, (1, 3))]); assert views.shape == (10, 3, 8, 8) and not noted;"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, photos[0].file], check=True)
