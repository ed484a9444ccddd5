"""Finding and decoding photos: the unusual and damaged files of real collections, made here."""

import io
import os
import random
import struct
import subprocess
import tracemalloc
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, ImageFile

from mlclip.config import InputError
from mlclip.images import STORE_MARK, Unreadable, find_images, open_image

PHOTOS = Path(__file__).parents[1].parent / "shared" / "voc12" / "photos" / "train"


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A smooth picture with detail in every block."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def opened(tmp_path):
    """A function that writes bytes to a file and opens it."""

    def write_and_open(data: bytes, name: str = "x.jpg", **options) -> Image.Image:
        (tmp_path / name).write_bytes(data)
        return open_image(tmp_path / name, **options)

    return write_and_open


@pytest.fixture
def refused(opened):
    """Like `opened`, for bytes that must be refused. Returns the reason."""

    def reason(data: bytes, name: str = "x.jpg", **options) -> str:
        with pytest.raises(Unreadable) as caught:
            opened(data, name, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return reason


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not opened in these tests")
    return folder


def paths(found) -> list[str]:
    return [photo.path for photo in found.photos]


# --- opening: what is not a photo -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<?xml version='1.0'?><Error/>", "not an image (looks like XML)"),
        (b"just a few words\n", "not an image (looks like text)"),
        (bytes(5000), "not an image"),
        (b"PK\3\4" + bytes(90), "zip"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (bytes(range(256)), "not an image"),
    ],
)
def test_the_reason_for_a_file_that_is_not_an_image_says_what_it_is(refused, data, reason):
    assert reason in refused(data)


@pytest.mark.parametrize("data", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"%PDF-1.4\n"])
def test_postscript_and_pdf_named_jpg_start_no_program(refused, monkeypatch, data):
    forbidden = Mock(side_effect=AssertionError("a program was started"))
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(os, "system", forbidden)
    assert "not an image" in refused(data)


def test_a_deleted_photo_and_one_without_read_permission_are_unreadable(tmp_path, monkeypatch):
    with pytest.raises(Unreadable, match="no longer exists"):
        open_image(tmp_path / "never.jpg")
    picture().save(tmp_path / "x.jpg")
    # simulated, because root may read every file
    monkeypatch.setattr("builtins.open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(Unreadable, match="no permission"):
        open_image(tmp_path / "x.jpg")


# --- opening: damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_photo_cut_in_half_is_unreadable_whatever_pillow_is_set_to(refused, monkeypatch, kind, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = encoded(picture(160, 120), kind)
    assert "cut short" in refused(data[: len(data) // 2])
    assert tolerant == ImageFile.LOAD_TRUNCATED_IMAGES


def test_no_real_photo_is_reported_as_damaged():
    if not PHOTOS.is_dir():
        pytest.skip(f"the real photos are not available ({PHOTOS})")
    assert all(open_image(file, smallest=(32, 32)) for file in sorted(PHOTOS.iterdir())[:100])


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_no_flipped_byte_of_a_png_changes_the_picture_unnoticed(opened, mode):
    image = picture(12, 10) if mode == "RGB" else picture(12, 10).quantize(16)
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


def test_damaged_exif_is_ignored_without_a_warning(opened, recwarn, capfd):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + random.Random(0).randbytes(60)
    assert opened(encoded(picture(), "JPEG", exif=exif)).size == (64, 48)
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_huge_size_in_the_header_is_refused_with_little_memory(refused):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def png(side: int) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")

    tracemalloc.start()
    assert "too large" in refused(png(20_000))
    assert "13,360×13,360" in refused(png(13_360))  # over our limit, below Pillow's
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_damage_raises_no_exception_other_than_unreadable(opened):
    rng = random.Random(0)
    small = picture(24, 20)
    # no compressed TIFF: libtiff's codecs write to stderr
    seeds = [encoded(small, kind) for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")]
    readable = 0
    for _ in range(400):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 4))):
            data[rng.randrange(min(len(data), rng.choice((64, 10**6))))] = rng.randrange(256)
        try:
            readable += opened(bytes(data)).mode == "RGB"
        except Unreadable as error:
            assert str(error)
    assert 0 < readable < 400


def test_the_same_files_are_unreadable_at_a_lower_decoding_scale(opened):
    data = encoded(picture(640, 480), "JPEG")
    rng = random.Random(0)
    ends = [rng.randrange(20, len(data)) for _ in range(15)] + list(range(len(data) - 9, len(data) + 1))

    def readable(data: bytes, **options) -> bool:
        try:
            return bool(opened(data, **options))
        except Unreadable:
            return False

    whole = [readable(data[:end]) for end in ends]
    assert whole == [readable(data[:end], smallest=(30, 30)) for end in ends]
    assert len(set(whole)) == 2  # some of the cut files can be used, and some cannot


# --- opening: unusual photos that are used ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_gives_the_same_pixels_as_eight_bit(tmp_path, suffix):
    grey = picture().convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / f"deep{suffix}")
    assert open_image(tmp_path / f"deep{suffix}").tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_float_grey_in_a_known_range_is_used(tmp_path, scale):
    grey = picture().convert("L")
    Image.fromarray(np.asarray(grey).astype(np.float32) * np.float32(scale)).save(tmp_path / "x.tif")
    assert open_image(tmp_path / "x.tif").tobytes() == grey.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("kind", "low", "high", "words"),
    [
        (np.int32, -1, 70_000, "integer pixels from -1 to 70000"),
        *((np.float32, 0.5, value, "float pixels from") for value in (-0.5, 256.0, float("nan"), float("inf"))),
    ],
)
def test_grey_outside_the_known_ranges_is_refused_and_not_clipped(tmp_path, kind, low, high, words):
    Image.fromarray(np.array([[low, high]], kind)).save(tmp_path / "x.tif")
    with pytest.raises(Unreadable, match=words):
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
def test_the_first_of_several_frames_is_used(opened, kind, name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    out = opened(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), name)
    assert np.abs(np.asarray(out).astype(int) - (200, 0, 0)).max() < 10


def test_exif_orientation_is_applied_at_a_lower_decoding_scale(opened):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture(64, 32).resize((640, 320))
    out = opened(encoded(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif), smallest=(40, 40))
    assert out.size == (160, 80)
    assert np.abs(np.asarray(out).astype(int) - np.asarray(upright.resize((160, 80)))).mean() < 4


def test_a_lower_decoding_scale_is_at_least_twice_the_requested_size(opened):
    data = encoded(picture(800, 600), "JPEG")
    assert opened(data).size == (800, 600)
    for side in (20, 37, 38, 75, 76, 150, 151, 400):
        out = opened(data, smallest=(side, side))
        assert min(out.size) >= min(2 * side, 600)


# --- finding ----------------------------------------------------------------------------------------------------------


def test_only_image_suffixes_are_found_in_upper_or_lower_case(tmp_path):
    names = ["a.JPG", "b.JpG", "c.jpeg", "d.tiff", "e.bmp", "f.webp", "g.heic", "h.gif", "i.PNG", "j.avif"]
    found = find_images([fill(tmp_path, *names, "notes.txt", "k.jpg.part", "Thumbs.db")])
    assert paths(found) == sorted(names)
    assert (found.skipped, found.repeated, found.root) == ([], 0, str(tmp_path))


def test_hidden_names_and_mlclips_own_folders_are_not_searched(tmp_path):
    fill(tmp_path, "a/1.jpg", ".git/2.jpg", "__MACOSX/3.jpg", "a/._1.jpg", "b/store/4.jpg", f"b/store/{STORE_MARK}")
    assert paths(find_images([tmp_path])) == ["a/1.jpg"]


def test_photos_with_the_same_name_in_two_folders_are_two_photos(tmp_path):
    fill(tmp_path, "a/1.jpg", "b/1.jpg")
    assert paths(find_images([tmp_path])) == ["a/1.jpg", "b/1.jpg"]
    found = find_images([tmp_path / "b", tmp_path / "a"])
    assert (found.root, paths(found)) == (str(tmp_path), ["b/1.jpg", "a/1.jpg"])


def test_a_named_file_may_have_any_suffix_and_is_relative_to_its_folder(tmp_path, monkeypatch):
    fill(tmp_path, "a/photo.raw", "-x.jpg")
    found = find_images([tmp_path / "a/photo.raw"])
    assert (found.root, paths(found)) == (str(tmp_path / "a"), ["photo.raw"])
    monkeypatch.chdir(tmp_path)
    assert paths(find_images("-x.jpg")) == ["-x.jpg"]


def test_a_photo_named_twice_is_used_once_and_counted_as_repeated(tmp_path):
    fill(tmp_path, "a/1.jpg", "a/2.jpg")
    (tmp_path / "a/3.jpg").symlink_to("1.jpg")
    found = find_images([tmp_path / "a/1.jpg", tmp_path / "a", tmp_path / "a/../a/2.jpg"])
    assert (paths(found), found.repeated) == (["1.jpg", "2.jpg"], 3)


def test_unusual_names_are_kept_exactly(tmp_path):
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


def test_a_pattern_is_expanded_only_if_no_file_has_that_name(tmp_path):
    fill(tmp_path, "[1].jpg", "1.jpg", "2.jpg", "2.txt", "sub/3.jpg", "sub/deep/4.png")
    assert paths(find_images([tmp_path / "[1].jpg"])) == ["[1].jpg"]
    assert paths(find_images([tmp_path / "?.*"])) == ["1.jpg", "2.jpg"]
    found = find_images([tmp_path / "s*"])
    assert (found.root, paths(found)) == (str(tmp_path / "sub"), ["3.jpg", "deep/4.png"])
    found = find_images([tmp_path / "**"])
    assert (len(found.photos), found.repeated) == (5, 0)


def test_links_to_folders_are_followed_without_endless_loops(tmp_path):
    fill(tmp_path, "top/b/1.jpg", "other/2.jpg")
    (tmp_path / "top/b/up").symlink_to(tmp_path / "top")
    (tmp_path / "top/a").symlink_to(tmp_path / "top/b")
    (tmp_path / "top/c").symlink_to(tmp_path / "other")
    found = find_images([tmp_path / "top"])
    assert (paths(found), found.skipped) == (["b/1.jpg", "c/2.jpg"], [])


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path, monkeypatch):
    fill(tmp_path, "a/1.jpg", "closed/2.jpg")
    listed = os.scandir

    def scandir(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)  # simulated, because root may list every folder
    found = find_images([tmp_path])
    assert (paths(found), [skip.path for skip in found.skipped]) == (["a/1.jpg"], ["closed"])
    assert "Permission denied" in found.skipped[0].reason


def test_a_list_file_may_have_comments_blanks_duplicates_and_missing_files(tmp_path, told):
    fill(tmp_path, "in/a.jpg", "in/b c.jpg", "in/#1.jpg", "d.raw", "in/more/e.jpg")
    lines = ["a.jpg", "", "# comment", "  b c.jpg  ", "#1.jpg", "a.jpg", "missing.jpg", "../d.raw", "more"]
    lines.append(str(tmp_path / "in/a.jpg"))
    (tmp_path / "in/list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = find_images([f"@{tmp_path}/in/list.txt"])
    assert found.root == str(tmp_path)
    assert paths(found) == ["in/a.jpg", "in/b c.jpg", "in/#1.jpg", "d.raw", "in/more/e.jpg"]
    found.say_left_out(told)
    assert found.repeated == 2 and told.lines == ["named or linked more than once, used once: 2 photos"]
    assert [(skip.path, skip.reason) for skip in found.skipped] == [("in/missing.jpg", "not found")]


def test_a_list_in_utf_16_or_with_undecodable_bytes_is_read(tmp_path):
    name = os.fsdecode(b"\xff.jpg")
    fill(tmp_path, "é.jpg", name)
    (tmp_path / "16.txt").write_bytes("é.jpg\r\n".encode("utf-16"))
    (tmp_path / "raw.txt").write_bytes(b"\xff.jpg\n")
    assert paths(find_images([f"@{tmp_path}/16.txt"])) == ["é.jpg"]
    assert paths(find_images([f"@{tmp_path}/raw.txt"])) == [name]


def test_a_named_pipe_instead_of_a_list_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match=r"list\.txt cannot be read .*named pipe"):
        find_images([f"@{tmp_path}/list.txt"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "names no photos"),
        (b"# only a comment\r\n\r\n", "names no photos"),
        (b"b\0.jpg\na.jpg\n", "is not a text file with one path per line"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "To use a photo, name it without the @"),
    ],
)
def test_an_empty_list_and_one_that_is_no_text_are_refused(tmp_path, content, words):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        find_images([f"@{tmp_path}/list.txt"])


def test_a_source_that_cannot_be_searched_is_refused_by_name(tmp_path):
    fill(tmp_path / "texts", "a.txt")
    cases = {
        str(tmp_path / "missing"): "missing not found",
        str(tmp_path / "*.jpg"): "not found",
        str(tmp_path / "texts"): r"No images found in .*texts \(searched for \.jpg",
        f"@{tmp_path}/none.txt": "none.txt cannot be read",
        "": "an empty name not found",
        "nul\0byte": "is not a valid name",
    }
    for source, message in cases.items():
        with pytest.raises(InputError, match=message):
            find_images([source])
    with pytest.raises(InputError, match="No photos are named"):
        find_images([])


def test_an_empty_folder_among_other_sources_is_skipped_with_a_reason(tmp_path):
    fill(tmp_path, "a/1.jpg")
    (tmp_path / "b").mkdir()
    found = find_images([tmp_path / "a", tmp_path / "b"])
    assert (paths(found), [skip.path for skip in found.skipped]) == (["a/1.jpg"], ["b"])
