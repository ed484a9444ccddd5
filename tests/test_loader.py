"""Snippets cover the image; batches keep their order, whatever is bad among them and however many processes read."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from mlclip.images import PhotoViews, collate, find_images, photo_batches, tile_boxes, view_pixels


def grey(value: int, size: tuple[int, int] = (12, 9)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.fixture
def photos(tmp_path):
    """Seven photos, the value of their pixels 10 times their number; 2, 3 (a whole batch of two) and 6 are bad."""
    for number in range(7):
        grey(10 * number).save(tmp_path / f"{number}.png")
    for number in (2, 3, 6):
        (tmp_path / f"{number}.png").write_bytes(b"<html>")
    return find_images([tmp_path]).photos


def read(batches) -> list:
    """Batches as plain lists: indices, the first pixel of every photo, indices of the bad."""
    return [
        (rows.tolist(), [] if pixels is None else pixels[:, 0, 0, 0, 0].tolist(), [index for index, _ in bad])
        for rows, pixels, bad in batches
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
    for low, high, side in ((0, 2, width), (1, 3, height)):  # equal, up to the rounding to whole pixels
        assert all(abs((box[high] - box[low]) - max(1, side / n)) < 1 for box in boxes)


def test_snippets_come_row_by_row():
    assert tile_boxes(9, 6, 3) == [(x, y, x + 3, y + 2) for y in (0, 2, 4) for x in (0, 3, 6)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2)])
def test_tiny_and_thin_photos_have_all_their_views(size):
    views = view_pixels(grey(77, size), 16, (1, 3))
    assert views.shape == (10, 3, 16, 16) and views.dtype == torch.uint8
    assert (views == 77).all()


def test_a_view_is_its_snippet_alone_squeezed_to_a_square():
    pixels = np.zeros((60, 90, 3), np.uint8)
    for row in range(3):
        for column in range(3):
            pixels[20 * row : 20 * row + 20, 30 * column : 30 * column + 30] = 25 * (3 * row + column) + 5
    views = view_pixels(Image.fromarray(pixels), 32, (3, 1))
    for number in range(9):
        assert (views[number] == 25 * number + 5).all()  # not a trace of the neighbours
    plain = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    assert np.abs(views[9].permute(1, 2, 0).numpy().astype(int) - np.asarray(plain)).max() <= 1


def test_shrinking_a_large_photo_averages_instead_of_picking_pixels():
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (view_pixels(Image.fromarray(stripes), 50).int() - 100).abs().max() <= 3


def test_a_bad_photo_gives_its_reason_and_no_pixels(photos):
    dataset = PhotoViews(photos, 8, (1, 3))
    assert dataset[2] == (2, "not an image (looks like HTML)")
    index, views = dataset[1]
    assert index == 1 and views.shape == (10, 3, 8, 8) and (views == 10).all()


def test_a_photo_gone_since_it_was_listed_gives_a_reason(photos):
    os.unlink(photos[4].file)
    assert PhotoViews(photos, 8)[4] == (4, "the file is gone")


def test_collate_keeps_the_order_of_good_and_bad():
    views = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    rows, pixels, bad = collate([(5, views), (3, "no"), (4, views + 1), (1, "never")])
    assert rows.tolist() == [5, 4] and rows.dtype == torch.int64
    assert pixels.shape == (2, 1, 3, 4, 4) and pixels[1, 0, 0, 0, 0] == 1
    assert bad == [(3, "no"), (1, "never")]


def test_a_wholly_bad_batch_leaves_the_others_in_order(photos):
    assert read(photo_batches(PhotoViews(photos, 8), batch_size=2)) == EXPECTED


def test_an_order_is_followed_and_may_leave_photos_out(photos):
    batches = photo_batches(PhotoViews(photos, 8), batch_size=3, order=[5, 6, 0, 4])
    assert read(batches) == [([5, 0], [50, 0], [6]), ([4], [40], [])]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_batches_each_time(photos, num_workers):
    batches = photo_batches(PhotoViews(photos, 8), batch_size=2, num_workers=num_workers, persistent_workers=True)
    assert read(batches) == EXPECTED
    assert read(batches) == EXPECTED


def test_names_of_no_encoding_reach_the_workers(tmp_path):
    grey(50).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + b"/\xff.png")
    dataset = PhotoViews(find_images([tmp_path]).photos, 8)
    assert read(photo_batches(dataset, batch_size=2, num_workers=1)) == [([0], [50], [])]


def test_reading_draws_no_global_random_numbers(photos):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(photo_batches(PhotoViews(photos, 8), batch_size=2))
    assert torch.equal(before, torch.get_rng_state())


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
from mlclip.images import PhotoViews, find_images, photo_batches
if __name__ == "__main__":
    photos = find_images([sys.argv[1]]).photos
    loader = photo_batches(PhotoViews(photos * 2000, 8), batch_size=2, num_workers=2)
    batches = iter(loader)
    next(batches)
    print("ready", flush=True)
    try:
        while True:  # however late the interrupt comes
            for _ in batches:
                pass
            batches = iter(loader)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_reaches_the_caller_and_the_workers_stay_quiet(photos, tmp_path):
    (tmp_path / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "run.py", os.path.dirname(photos[0].file)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: everyone in the group
        out, err = process.communicate(timeout=150)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
