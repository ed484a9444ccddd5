"""Which photos are found, and which can be opened: every odd file of a real collection, made here by hand."""

import io
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mlclip.config import InputError
from mlclip.images import STORE_MARK, Photo, Unreadable, find_images, open_image, view_pixels
from mlclip.images.damage import find_damage

PHOTOS = Path(__file__).parents[1].parent / "shared" / "voc12" / "photos" / "train"


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Something smooth with detail, so that every codec has work."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def opened(tmp_path):
    """Writes bytes under a name and opens them."""

    def write_and_open(data: bytes, name: str = "x.jpg", **options) -> Image.Image:
        (tmp_path / name).write_bytes(data)
        return open_image(tmp_path / name, **options)

    return write_and_open


@pytest.fixture
def refused(opened):
    """As `opened`, for bytes that must not open; gives the reason."""

    def reason(data: bytes, name: str = "x.jpg", **options) -> str:
        with pytest.raises(Unreadable) as caught:
            opened(data, name, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return reason


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a photo, as far as finding goes")
    return folder


def paths(found) -> list[str]:
    return [photo.path for photo in found.photos]


# --- opening: what is not a photo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty file"),
        (b"  <!DOCTYPE html><html><body>404</body></html>", "not an image (looks like HTML)"),
        (b"<?xml version='1.0'?><Error/>", "not an image (looks like XML)"),
        (b'{"error": "not found"}', "not an image (looks like JSON)"),
        (b"just a few words\n", "not an image (looks like text)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (bytes(5000), "nothing but zero bytes"),
        (b"PK\3\4" + bytes(90), "zip"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (bytes(range(256)), "not an image"),
    ],
)
def test_a_file_that_is_no_image_says_what_it_is(refused, data, said):
    assert said in refused(data)


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"%PDF-1.4\n"])
def test_postscript_and_pdf_named_jpg_start_no_program(refused, monkeypatch, data):
    def forbidden(*args, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    assert "not an image" in refused(data)


def test_a_heic_without_a_plug_in_says_what_to_install(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # makes the import fail
    assert "pip install pillow-heif" in refused(b"\0\0\0\x18ftypheic" + bytes(400), "x.heic")


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    heard = []

    def attempt() -> None:
        try:
            open_image(tmp_path / "pipe.jpg")
        except Unreadable as error:
            heard.append(str(error))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert heard == ["not a regular file"]


def test_a_photo_that_is_gone_or_forbidden_is_unreadable(tmp_path, monkeypatch):
    with pytest.raises(Unreadable, match="gone"):
        open_image(tmp_path / "never.jpg")
    picture().save(tmp_path / "x.jpg")

    def forbid(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbid)  # root may read anything, so the refusal is acted
    with pytest.raises(Unreadable, match="no permission"):
        open_image(tmp_path / "x.jpg")


# --- opening: damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_photo_cut_in_half_is_unreadable_whatever_pillow_is_set_to(refused, monkeypatch, kind, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = encoded(picture(320, 240), kind)
    assert "cut short" in refused(data[: len(data) // 2])
    assert tolerant == ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"quality": 100}])
@pytest.mark.parametrize("kind", ["zeros", "another photo", "noise"])
def test_a_jpeg_overwritten_in_the_middle_is_unreadable(refused, options, kind):
    data = encoded(picture(320, 240), "JPEG", **options)
    other = {
        "zeros": bytes(500),
        "another photo": encoded(picture(32, 32, seed=1), "JPEG")[:500],
        "noise": random.Random(0).randbytes(3000),
    }[kind]
    middle = len(data) // 2
    assert "damaged" in refused(data[:middle] + other + data[middle + len(other) :])


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"quality": 5}])
def test_flat_and_busy_jpegs_raise_no_false_alarm(options):
    flat, noise = Image.new("RGB", (800, 600), "white"), picture(200, 150).effect_spread(9)
    for image in (flat, noise, picture(), flat.convert("L"), flat.convert("CMYK")):
        assert find_damage(encoded(image, "JPEG", **options)) is None


def test_no_real_photo_is_thought_damaged():
    if not PHOTOS.is_dir():
        pytest.skip("the VOC photos are not here")
    assert not [file.name for file in sorted(PHOTOS.iterdir())[:300] if find_damage(file.read_bytes())]


@pytest.mark.parametrize("mode", ["RGB", "P", "L"])
def test_no_flipped_byte_of_a_png_changes_the_picture_unnoticed(opened, mode):
    image = picture(12, 10).convert(mode)
    data, expected = encoded(image, "PNG"), image.convert("RGB").tobytes()
    outcomes = []
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        try:
            outcomes.append(opened(bytes(damaged)).tobytes() == expected)
        except Unreadable:
            outcomes.append(None)
    assert False not in outcomes
    assert outcomes.count(None) > 0.9 * len(data)


def test_a_png_without_its_end_chunk_is_used(opened):
    image = picture()
    assert opened(encoded(image, "PNG")[:-12]).tobytes() == image.tobytes()


def test_damaged_exif_is_ignored_and_nothing_is_said(opened, recwarn, capfd):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + random.Random(0).randbytes(60)
    assert opened(encoded(picture(), "JPEG", exif=exif)).size == (64, 48)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_huge_header_is_refused_in_little_memory(refused):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(side: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")

    tracemalloc.start()
    assert "too large" in refused(png(20_000))
    assert "13,360×13,360" in refused(png(13_360))  # over our limit, under Pillow's
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_our_limit_holds_where_pillows_is_switched_off(refused, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    header = struct.pack("<2sIHHIIiiHHIIIIII", b"BM", 54, 0, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
    assert "20,000×20,000" in refused(header)


def test_no_damage_escapes_as_another_exception(opened):
    chance = random.Random(0)
    small = picture(24, 20)
    # without libtiff's own codecs, which write to stderr from C
    seeds = [encoded(small, kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")]
    readable = 0
    for _ in range(700):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 4))):
            data[chance.randrange(min(len(data), chance.choice((64, 10**6))))] = chance.randrange(256)
        try:
            readable += opened(bytes(data)).mode == "RGB"
        except Unreadable as error:
            assert str(error)
    assert 0 < readable < 700


def test_a_lower_decoding_scale_finds_the_same_files_unreadable(opened):
    data = encoded(picture(640, 480), "JPEG")
    chance = random.Random(0)
    ends = [chance.randrange(20, len(data)) for _ in range(40)] + list(range(len(data) - 20, len(data) + 1))

    def readable(data: bytes, **options) -> bool:
        try:
            return bool(opened(data, **options))
        except Unreadable:
            return False

    whole = [readable(data[:end]) for end in ends]
    assert whole == [readable(data[:end], smallest=(30, 30)) for end in ends]
    assert len(set(whole)) == 2  # some of these cuts leave a photo that can be used, and some do not


# --- opening: unusual, but used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_equals_its_eight_bit_twin(tmp_path, suffix):
    grey = picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / f"deep{suffix}")
    assert open_image(tmp_path / f"deep{suffix}").tobytes() == grey.convert("RGB").tobytes()


def test_integers_beyond_sixteen_bits_are_refused_with_their_range(tmp_path):
    Image.fromarray(np.array([[-1, 70_000]], np.int32)).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable, match="from -1 to 70000"):
        open_image(tmp_path / "x.tif")


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_float_grey_within_a_known_range_is_used(tmp_path, scale):
    grey = picture().convert("L")
    Image.fromarray(np.asarray(grey).astype(np.float32) * np.float32(scale)).save(tmp_path / "x.tif")
    assert open_image(tmp_path / "x.tif").tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize("value", [-0.5, 256.0, float("nan"), float("inf")])
def test_float_grey_beyond_it_is_refused_never_clipped(tmp_path, value):
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable, match="float pixels from"):
        open_image(tmp_path / "x.tif")


def test_a_cmyk_jpeg_keeps_its_colours(opened):
    red = opened(encoded(Image.new("RGB", (16, 16), (220, 30, 30)).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(red).astype(int) - (220, 30, 30)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white_without_a_warning(opened, recwarn, mode):
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 4, 8))
    if mode == "P":
        image = image.convert("RGB").quantize(2)
        image.putdata([0] * 32 + [1] * 32)
        image.putpalette([0, 0, 0, 9, 9, 9])
        data = encoded(image, "PNG", transparency=b"\xff\x00")
        out = np.asarray(opened(data))
        assert (out[:4] == 0).all() and (out[4:] == 255).all()
    else:
        out = np.asarray(opened(encoded(image.convert(mode), "PNG")))
        assert (out[:, :4] == 0).all() and (out[:, 4:] == 255).all()
    assert not recwarn.list


@pytest.mark.parametrize(("kind", "name"), [("GIF", "x.gif"), ("WEBP", "x.webp"), ("TIFF", "x.tif"), ("PNG", "x.png")])
def test_of_many_frames_the_first_is_used(opened, kind, name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    out = opened(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), name)
    assert np.abs(np.asarray(out).astype(int) - (200, 0, 0)).max() < 10


def test_a_png_named_jpg_is_used(opened):
    assert opened(encoded(picture(), "PNG"), "x.jpg").tobytes() == picture().tobytes()


CAMERA = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_all_eight_exif_orientations_give_the_same_pixels(opened, kind):
    upright = picture(60, 40)
    views = view_pixels(upright, 32, (1, 3))
    for orientation, turn in CAMERA.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        lying = upright if turn is None else upright.transpose(turn)
        options = {"lossless": True} if kind == "WEBP" else {}
        out = opened(encoded(lying, kind, exif=exif, **options), f"x{orientation}.{kind.lower()}")
        assert out.size == (60, 40)
        assert view_pixels(out, 32, (1, 3)).equal(views), orientation


def test_a_turned_jpeg_is_upright_at_a_lower_scale_too(opened):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(64, 32).resize((640, 320))
    out = opened(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), smallest=(40, 40))
    assert out.size == (160, 80)
    assert np.abs(np.asarray(out).astype(int) - np.asarray(upright.resize((160, 80)))).mean() < 4


def test_a_lower_scale_never_falls_below_twice_the_size_asked_for(opened):
    data = encoded(picture(800, 600), "JPEG")
    assert opened(data).size == (800, 600)
    for side in (20, 37, 38, 75, 76, 150, 151, 400):
        out = opened(data, smallest=(side, side))
        assert min(out.size) >= min(2 * side, 600)


def test_warnings_are_silenced_here_and_only_here(opened):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        opened(encoded(picture(), "JPEG"))
        warnings.warn("heard", stacklevel=1)
    assert [str(each.message) for each in heard] == ["heard"]


# --- finding ----------------------------------------------------------------------------------------------------------


def test_suffixes_are_found_in_any_case_and_nothing_else_is_counted(tmp_path):
    names = ["a.JPG", "b.JpG", "c.jpeg", "d.tiff", "e.bmp", "f.webp", "g.heic", "h.gif", "i.PNG", "j.avif"]
    found = find_images([fill(tmp_path, *names, "notes.txt", "k.jpg.part", "Thumbs.db")])
    assert paths(found) == sorted(names)
    assert (found.skipped, found.repeated, found.root) == ([], 0, str(tmp_path))


def test_hidden_names_and_mlclips_own_folders_are_left_out(tmp_path):
    fill(tmp_path, "a/1.jpg", ".git/2.jpg", "__MACOSX/3.jpg", "a/._1.jpg", "b/store/4.jpg", f"b/store/{STORE_MARK}")
    assert paths(find_images([tmp_path])) == ["a/1.jpg"]


def test_the_store_mark_is_the_one_the_store_writes():
    store = pytest.importorskip("mlclip.teacher.embedding_store")
    assert store.MANIFEST == STORE_MARK


def test_photos_of_one_name_in_two_folders_are_two_rows(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    assert paths(find_images([tmp_path])) == ["a/1.jpg", "b/1.jpg"]
    found = find_images([tmp_path / "b", tmp_path / "a"])
    assert (found.root, paths(found)) == (str(tmp_path), ["b/1.jpg", "a/1.jpg"])


def test_a_photo_tells_its_place_size_and_time(tmp_path):
    fill(tmp_path, "a/1.jpg")
    status = (tmp_path / "a/1.jpg").stat()
    expected = Photo("a/1.jpg", str(tmp_path / "a/1.jpg"), status.st_size, status.st_mtime_ns)
    assert find_images([tmp_path]).photos == [expected]


def test_a_named_file_is_taken_whatever_its_suffix_and_relative_to_its_folder(tmp_path, monkeypatch):
    fill(tmp_path, "a/photo.raw", "-x.jpg")
    found = find_images([tmp_path / "a/photo.raw"])
    assert (found.root, paths(found)) == (str(tmp_path / "a"), ["photo.raw"])
    monkeypatch.chdir(tmp_path)
    assert paths(find_images("-x.jpg")) == ["-x.jpg"]


def test_a_photo_named_twice_is_one_row_and_counted(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "a/3.jpg").symlink_to("1.jpg")
    found = find_images([tmp_path / "a/1.jpg", tmp_path / "a", tmp_path / "a/../a/2.jpg"])
    assert (paths(found), found.repeated) == (["1.jpg", "2.jpg"], 3)


def test_strange_names_come_through(tmp_path):
    names = [
        "a b.jpg",
        "a'b\".jpg",
        "a,b.jpg",
        "a\nb.jpg",
        "-a.jpg",
        "😀.jpg",
        os.fsdecode(b"\xff\xfe.jpg"),
        "[1]*.jpg",
    ]
    found = find_images([fill(tmp_path, *names)])
    assert paths(found) == sorted(names)
    assert all(os.path.exists(photo.file) for photo in found.photos)
    assert paths(find_images([tmp_path / name for name in names])) == names


def test_patterns_are_expanded_only_where_no_such_file_exists(tmp_path):
    fill(tmp_path, "[1].jpg", "1.jpg", "2.jpg", "2.txt", "sub/3.jpg", "sub/deep/4.png")
    assert paths(find_images([tmp_path / "[1].jpg"])) == ["[1].jpg"]
    assert paths(find_images([tmp_path / "?.*"])) == ["1.jpg", "2.jpg"]
    found = find_images([tmp_path / "s*"])
    assert (found.root, paths(found)) == (str(tmp_path / "sub"), ["3.jpg", "deep/4.png"])
    found = find_images([tmp_path / "**"])
    assert (len(found.photos), found.repeated) == (5, 0)


def test_links_to_folders_are_followed_but_never_in_circles(tmp_path):
    fill(tmp_path, "top/b/1.jpg", "elsewhere/2.jpg")
    (tmp_path / "top/b/up").symlink_to(tmp_path / "top")
    (tmp_path / "top/a").symlink_to(tmp_path / "top/b")
    (tmp_path / "top/c").symlink_to(tmp_path / "elsewhere")
    found = find_images([tmp_path / "top"])
    assert (paths(found), found.skipped) == (["b/1.jpg", "c/2.jpg"], [])


def test_broken_links_pipes_and_sockets_are_skipped_with_a_reason(tmp_path, monkeypatch):
    fill(tmp_path, "good.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        found = find_images([tmp_path])
    assert paths(found) == ["good.jpg"]
    assert {skip.path: skip.reason for skip in found.skipped} == {
        "broken.jpg": "a broken link",
        "circle.jpg": "a broken link",
        "device.jpg": "a device",
        "pipe.jpg": "a named pipe",
        "socket.jpg": "a socket",
    }
    for name in ("broken.jpg", "pipe.jpg"):
        with pytest.raises(InputError, match=f"{name} is a"):
            find_images([tmp_path / name])


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.jpg", "shut/2.jpg")
    listed = os.scandir

    def scandir(folder):
        if str(folder).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)  # root may list anything, so the refusal is acted
    found = find_images([tmp_path])
    assert (paths(found), [skip.path for skip in found.skipped]) == (["a/1.jpg"], ["shut"])
    assert "Permission denied" in found.skipped[0].reason


def test_a_list_file_is_read_with_all_its_oddities(tmp_path):
    fill(tmp_path, "in/a.jpg", "in/b c.jpg", "d.raw", "in/more/e.jpg")
    lines = ["a.jpg", "", "# no", "  b c.jpg  ", "a.jpg", "missing.jpg", "../d.raw", "more", str(tmp_path / "in/a.jpg")]
    (tmp_path / "in/list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = find_images([f"@{tmp_path}/in/list.txt"])
    assert found.root == str(tmp_path)
    assert paths(found) == ["in/a.jpg", "in/b c.jpg", "d.raw", "in/more/e.jpg"]
    assert found.repeated == 2
    assert [(skip.path, skip.reason) for skip in found.skipped] == [("in/missing.jpg", "not found")]


def test_a_list_in_utf_16_or_with_bytes_of_no_encoding_is_read(tmp_path):
    name = os.fsdecode(b"\xff.jpg")
    fill(tmp_path, "é.jpg", name)
    (tmp_path / "16.txt").write_bytes("é.jpg\r\n".encode("utf-16"))
    (tmp_path / "raw.txt").write_bytes(b"\xff.jpg\n")
    assert paths(find_images([f"@{tmp_path}/16.txt"])) == ["é.jpg"]
    assert paths(find_images([f"@{tmp_path}/raw.txt"])) == [name]


@pytest.mark.parametrize("content", [b"", b"# only a comment\r\n\r\n"])
def test_an_empty_list_is_refused(tmp_path, content):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match="names no photos"):
        find_images([f"@{tmp_path}/list.txt"])


def test_what_cannot_be_searched_is_refused_with_its_name(tmp_path):
    fill(tmp_path / "texts", "a.txt")
    cases = {
        str(tmp_path / "missing"): "missing not found",
        str(tmp_path / "*.jpg"): "not found",
        str(tmp_path / "texts"): r"no images found in .*texts \(looked for \.jpg",
        f"@{tmp_path}/none.txt": "none.txt cannot be read",
        "": "an empty name not found",
        "nul\0byte": "not found",
    }
    for source, said in cases.items():
        with pytest.raises(InputError, match=said):
            find_images([source])
    with pytest.raises(InputError, match="no photos given"):
        find_images([])


def test_a_folder_with_nothing_but_broken_things_says_so(tmp_path):
    (tmp_path / "a.jpg").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"skipped 1, first a\.jpg: a broken link"):
        find_images([tmp_path])


def test_an_empty_folder_among_others_is_told_of(tmp_path):
    fill(tmp_path, "a/1.jpg")
    (tmp_path / "b").mkdir()
    found = find_images([tmp_path / "a", tmp_path / "b"])
    assert (paths(found), [skip.path for skip in found.skipped]) == (["a/1.jpg"], ["b"])
