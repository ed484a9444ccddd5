"""Photos as cameras, scanners and other programs write them: their pixels are those of a plain twin, or a reason is given."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from mlclip import read_labels
from mlclip.cli import _status
from mlclip.images import MAX_PIXELS, NOTED, PROFILE, Unreadable, decode, open_image, read_parts
from mlclip.images.decode import _orientation
from mlclip.teacher.store import contents_of

Image.init()  # or Image.SAVE is empty

# primaries of RGB spaces as XYZ columns relative to D50, and their gamma
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
SPACES = {
    "P3": (np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]), 2.2),
    "Adobe RGB": (np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]]), 2.2),
    "ProPhoto": (np.array([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]]), 1.8),
}
INK = 0.6  # in the tests' CMYK, an ink of amount x absorbs x ** INK


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colourful picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def open_bytes(folder: Path, data: bytes, **options) -> Image.Image:
    (folder / "x").write_bytes(data)
    return open_image(folder / "x", **options)


def reason(folder: Path, data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        open_bytes(folder, data)
    return str(caught.value)


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of equal size, of 255."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one.convert("RGB")).astype(float) - np.asarray(other.convert("RGB"))).mean())


# --- colour profiles --------------------------------------------------------------------------------------------------


def profile(space: str, tags: dict[bytes, bytes], lab: bool = False) -> bytes:
    """An ICC profile of version 2."""
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    kind = b"prtr" if lab else b"mntr"
    head = struct.pack(
        ">I4sI4s4s4s", start + len(body), b"", 0x02100000, kind, space.encode(), b"Lab " if lab else b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)  # D50
    return head.ljust(128, b"\0") + table + body


def xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def rgb_profile(matrix: np.ndarray, power: float) -> bytes:
    curves = {name: gamma(power) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile("RGB ", dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, matrix.T), strict=True)) | curves)


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def in_space(image: Image.Image, matrix: np.ndarray, power: float) -> Image.Image:
    """A photo's sRGB colours in another RGB space."""
    light = linear(np.asarray(image) / 255) @ SRGB.T @ np.linalg.inv(matrix).T
    return Image.fromarray(np.rint(255 * light.clip(0, 1) ** (1 / power)).astype(np.uint8))


def cmyk_profile(nodes: int = 13) -> bytes:
    """A profile of four inks: a table from (C, M, Y, K) to Lab, 16 bits."""
    inks = np.stack(np.meshgrid(*[np.linspace(0, 1, nodes)] * 4, indexing="ij"), -1)
    light = linear((1 - inks[..., :3] ** INK) * (1 - inks[..., 3:])) @ SRGB.T / SRGB.sum(1)
    cube = np.where(light > 0.008856, np.cbrt(light), 7.787 * light + 16 / 116)
    x, y, z = np.moveaxis(cube, -1, 0)
    lab = np.stack([(116 * y - 16) * 652.8, (500 * (x - y) + 128) * 256, (200 * (y - z) + 128) * 256], -1)
    unchanged = struct.pack(">9i", *(65536 * one for one in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    table = b"mft2\0\0\0\0" + bytes([4, 3, nodes, 0]) + unchanged + struct.pack(">HH", 2, 2)
    ends = struct.pack(">HH", 0, 65535)
    table += 4 * ends + np.rint(lab).clip(0, 65535).astype(">u2").tobytes() + 3 * ends
    return profile("CMYK", {b"A2B0": table}, lab=True)


def in_inks(image: Image.Image) -> Image.Image:
    inks = np.rint(255 * (1 - np.asarray(image) / 255) ** (1 / INK)).astype(np.uint8)
    return Image.fromarray(np.dstack([inks, np.zeros_like(inks[..., 0])]), "CMYK")


P3 = rgb_profile(*SPACES["P3"])
OPTIONS = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 98},
    "HEIF": {"quality": 98},
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("space", SPACES)
def test_colours_of_a_profile_become_srgb(tmp_path, space, kind):
    if kind == "AVIF" and kind not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    matrix, power = SPACES[space]
    twin = Image.blend(picture(), Image.new("RGB", (60, 40), "grey"), 0.5)  # these colours are in all spaces
    stored, options = in_space(twin, matrix, power), OPTIONS.get(kind, {})
    plain = open_bytes(tmp_path, encoded(stored, kind, **options))
    image = open_bytes(tmp_path, encoded(stored, kind, icc_profile=rgb_profile(matrix, power), **options))
    assert difference(image, twin) < 2.5 < 4 < difference(plain, twin)
    assert image.info[NOTED] == plain.info[NOTED] == 0


def test_transparent_and_grey_and_palette_pixels_have_profiles_too(tmp_path):
    twin = picture()
    stored = in_space(twin, *SPACES["P3"])
    stored.putalpha(Image.linear_gradient("L").resize(twin.size).point(lambda value: 255 * (value > 99)))
    white = Image.composite(twin, Image.new("RGB", twin.size, "white"), stored.getchannel("A"))
    assert difference(open_bytes(tmp_path, encoded(stored, "PNG", icc_profile=P3)), white) < 3
    indexed = in_space(twin, *SPACES["P3"]).quantize(256)
    assert difference(open_bytes(tmp_path, encoded(indexed, "PNG", icc_profile=P3)), twin) < 10
    grey = twin.convert("L")
    light = Image.fromarray(np.rint(255 * linear(np.asarray(grey) / 255) ** (1 / 1.5)).astype(np.uint8))
    assert difference(light, grey) > 20
    of_grey = profile("GRAY", {b"kTRC": gamma(1.5), b"wtpt": xyz((0.9642, 1, 0.8249))})
    assert difference(open_bytes(tmp_path, encoded(light, "PNG", icc_profile=of_grey)), grey) < 1


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(tmp_path, kind):
    twin, options = picture(), {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    image = open_bytes(tmp_path, encoded(in_inks(twin), kind, icc_profile=cmyk_profile(), **options))
    assert difference(image, twin) < 4
    assert difference(open_bytes(tmp_path, encoded(in_inks(twin), kind, **options)), twin) > 20


def test_srgb_is_left_as_it_is_and_a_useless_profile_is_ignored_and_noted(tmp_path):
    from PIL import ImageCms

    data = encoded(picture(), "JPEG")
    plain = open_bytes(tmp_path, data)
    created = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for good in (created, created + bytes(9)):
        image = open_bytes(tmp_path, encoded(picture(), "JPEG", icc_profile=good))
        assert (image.tobytes(), image.info[NOTED]) == (plain.tobytes(), 0)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    huge = P3 + bytes(5 * 2**20)
    for bad in (b"no profile", P3[:200], P3[:40], lab, huge, cmyk_profile(2)):
        image = open_bytes(tmp_path, encoded(picture(), "JPEG", icc_profile=bad))
        assert (image.tobytes(), image.info[NOTED]) == (plain.tobytes(), PROFILE)


# --- PNG with long texts, JPEG without an end marker, very large photos -----------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_png_with_long_texts_or_a_long_profile_is_used(tmp_path):
    twin, stored = picture(), in_space(picture(), *SPACES["P3"])
    data = encoded(stored, "PNG")

    def with_chunks(size_of_profile: int, at: int, chunks: list[bytes]) -> Image.Image:
        noise = np.random.default_rng(0).bytes(size_of_profile - len(P3))
        colours = chunk(b"iCCP", b"P3\0\0" + zlib.compress(P3 + noise, 0))
        return open_bytes(tmp_path, data[:33] + colours + data[33:at] + b"".join(chunks) + data[at:])

    many = [chunk(b"tEXt", b"n\0" + bytes(1_000_000))] * 66
    image = with_chunks(len(P3), len(data) - 12, many)
    assert difference(image, twin) < 3 and image.info[NOTED] == 0
    long = zlib.compress(bytes(2_000_000))
    texts = [chunk(b"zTXt", b"parameters\0\0" + long), chunk(b"iTXt", b"workflow\0\1\0\0\0" + long)]
    image = with_chunks(3_000_000, 33, texts)
    assert difference(image, twin) < 3 and image.info[NOTED] == 0
    image = with_chunks(5_000_000, 33, texts)
    assert difference(image, stored) == 0 and image.info[NOTED] == PROFILE


VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + np.random.default_rng(1).bytes(50_000)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_that_only_lacks_its_end_marker_is_used_and_one_that_lacks_more_is_not(tmp_path, options):
    data = encoded(picture(320, 240), "JPEG", quality=90, **options)
    whole = open_bytes(tmp_path, data).tobytes()
    samsung = b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data"
    for trailer in (b"", b"\xff", VIDEO, samsung + VIDEO):
        assert open_bytes(tmp_path, data[:-2] + trailer).tobytes() == whole
        assert open_bytes(tmp_path, data[:-2] + trailer, smallest=(30, 30)).size == (80, 60)
    rng = np.random.default_rng(0)
    scan = data.rfind(b"\xff\xda") if "progressive" in options else data.find(b"\xff\xda")
    cuts = [*rng.integers(scan + 20, len(data) - 12, 15), len(data) // 2]
    restarts = [at for at in range(scan, len(data)) if data[at] == 255 and 0xD0 <= data[at + 1] <= 0xD7]
    for cut in [*cuts, *restarts[::5], *(at + 2 for at in restarts[::5])]:
        for options in ({}, {"smallest": (30, 30)}):
            with pytest.raises(Unreadable, match="cut short"):
                open_bytes(tmp_path, data[:cut], **options)
        with pytest.raises(Unreadable):
            open_bytes(tmp_path, data[:cut] + VIDEO)
    scans = [at for at in range(scan) if data[at : at + 2] == b"\xff\xda"]
    for start in scans[1:]:  # whole scans are missing
        assert "cut short" in reason(tmp_path, data[:start])


def test_a_jpeg_above_the_limit_is_decoded_at_a_fraction_and_another_format_is_refused(tmp_path, monkeypatch):
    twin = picture(400, 320)
    monkeypatch.setattr("mlclip.images.decode.MAX_PIXELS", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)  # Pillow's own limit is twice that
    data = encoded(twin, "JPEG", quality=95)
    image = open_bytes(tmp_path, data)
    assert image.size == (100, 80) and difference(image, twin.resize((100, 80))) < 5
    assert open_bytes(tmp_path, data, smallest=(300, 300)).size == (100, 80)
    assert open_bytes(tmp_path, data, smallest=(20, 20)).size == (50, 40)
    assert "too large (400×320, over 10,000 pixels)" in reason(tmp_path, encoded(twin, "PNG"))
    assert MAX_PIXELS == 178_000_000
    with decode._STRICT_AND_QUIET:  # another thread may be in `Image.crop`, which multiplies the limit
        assert 2 * Image.MAX_IMAGE_PIXELS > MAX_PIXELS


# --- orientation ------------------------------------------------------------------------------------------------------

CAMERA = {  # EXIF orientation -> how the camera stored the photo
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
SHORT, ASCII, BYTE = 3, 2, 1


def exif_of(orientation: int, kind: int = SHORT) -> bytes:
    value = {SHORT: struct.pack(">H", orientation), ASCII: b"%d\0" % orientation, BYTE: bytes([orientation])}[kind]
    count = 2 if kind == ASCII else 1
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHI", 0x112, kind, count) + value.ljust(4, b"\0") + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_all_eight_exif_orientations_give_the_same_pixels(tmp_path, kind):
    options = OPTIONS.get(kind, {})
    if kind == "AVIF" and kind not in Image.SAVE:
        pytest.skip("this Pillow does not write AVIF")
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    upright, bound = picture(), {"JPEG": 2, "AVIF": 6, "HEIF": 8}.get(kind, 0)
    for orientation, turn in CAMERA.items():
        stored = upright if turn is None else upright.transpose(turn)
        for type_of_tag in (SHORT, ASCII, BYTE) if kind in ("JPEG", "PNG", "WEBP", "TIFF") else (SHORT,):
            more = {"exif": exif_of(orientation, type_of_tag)}
            if kind == "TIFF":
                tags = TiffImagePlugin.ImageFileDirectory_v2()
                tags.tagtype[0x112] = type_of_tag
                tags[0x112] = {SHORT: orientation, ASCII: str(orientation), BYTE: bytes([orientation])}[type_of_tag]
                more = {"tiffinfo": tags}
            image = open_bytes(tmp_path, encoded(stored, kind, **options, **more))
            assert difference(image, upright) <= bound, (orientation, type_of_tag)


def test_the_orientation_of_a_heic_that_stands_in_its_exif_only(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    upright = picture()
    data = encoded(upright.transpose(CAMERA[6]), "HEIF", quality=98, exif=exif_of(1))
    assert b"irot" not in data
    plain, tagged = exif_of(1)[6:], exif_of(6)[6:]
    assert data.count(plain) == 1
    assert difference(open_bytes(tmp_path, data.replace(plain, tagged)), upright) < 8
    turned = encoded(upright.transpose(CAMERA[6]), "HEIF", quality=98, exif=exif_of(6))
    assert b"irot" in turned
    assert difference(open_bytes(tmp_path, turned), upright) < 8


@pytest.mark.parametrize("box", ["irot", "imir", "none"])
def test_a_heic_is_not_turned_twice(box):
    """Without pillow-heif: what it says of a photo with the EXIF orientation 6."""
    image = Mock(format="HEIF", info={"original_orientation": 6})
    image.getexif.return_value = {0x112: 1}
    data = b"....ftypheic....meta" + struct.pack(">I4sI4s", 17, b"ipco", 9, box.encode()) + b"\1mdat irot imir"
    assert _orientation(image, data) == (6 if box == "none" else 1)


# --- TIFF -------------------------------------------------------------------------------------------------------------


def tiff(pixels: np.ndarray, colours: int, order: str = "<", planar: bool = False, bits: int = 0, **more: int) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, S) numbers, with the tags in `more` named by t and their number."""
    height, width, samples = (*pixels.shape, 1)[:3]
    planes = np.moveaxis(pixels, -1, 0) if planar else pixels[None]
    body = planes.astype(pixels.dtype.newbyteorder(order)).tobytes()
    form, depth = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind], bits or 8 * pixels.dtype.itemsize
    size, start = len(body) // len(planes), 1000
    tags = {
        256: [width],
        257: [height],
        258: [depth] * samples,
        259: [1],
        262: [colours],
        277: [samples],
        278: [height],
    }
    tags |= {273: [start + n * size for n in range(len(planes))], 279: [size] * len(planes), 284: [1 + planar]}
    tags |= {339: [form] * samples} | {int(name[1:]): [value] for name, value in more.items()}
    head, values = struct.pack(order + "2sHIH", {"<": b"II", ">": b"MM"}[order], 42, 8, len(tags)), b""
    for number, numbers in sorted(tags.items()):
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(content) > 4:
            values, content = values + content, struct.pack(order + "I", 500 + len(values))
        head += struct.pack(order + "HHI", number, 4, len(numbers)) + content
    return (head.ljust(500, b"\0") + values).ljust(start, b"\0") + body


def test_unusual_tiffs_are_read_rightly(tmp_path):
    twin = picture()
    rgb, grey = np.asarray(twin), np.asarray(twin.convert("L"))
    deep, deep_grey = rgb.astype(np.uint16) * 257, grey.astype(np.uint16) * 257
    for order in "<>":
        for planar in (False, True):
            assert difference(open_bytes(tmp_path, tiff(deep, 2, order, planar)), twin) == 0
            assert difference(open_bytes(tmp_path, tiff(rgb, 2, order, planar)), twin) == 0
    white_is_zero = open_bytes(tmp_path, tiff(65535 - deep_grey, 0))
    assert difference(white_is_zero, twin.convert("L")) == 0
    values = (grey.astype(np.uint16) * 16).reshape(-1, 2)  # 12 bits: three bytes for two pixels
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], 1)
    twelve = tiff(grey, 1, bits=12)[: -grey.size] + packed.astype(np.uint8).tobytes()
    assert difference(open_bytes(tmp_path, twelve), twin.convert("L")) < 1


def test_pixels_of_other_tiffs_are_named_and_not_guessed(tmp_path):
    rgb = np.asarray(picture())
    grey = rgb[..., 0]
    for data, words in (
        (tiff(rgb.astype(np.float32) / 255, 2), "32-bit float RGB, 3 values per pixel"),
        (tiff(grey.astype(np.int16) * 128, 1), "16-bit signed grey, 1 values"),
        (tiff(grey.astype(np.int8), 1), "8-bit signed grey"),
        (tiff(grey.astype(np.float32), 0), "32-bit float grey (0 is white)"),
        (tiff(np.dstack([rgb, grey]), 1), "8-bit grey, 4 values per pixel"),
        (tiff(np.dstack([rgb, grey, grey]), 5, t338=2), "8-bit CMYK, 5 values per pixel"),
        (tiff(np.dstack([rgb, grey]), 1, planar=True), "8-bit planar grey, 4 values per pixel"),
        (tiff(rgb.astype(np.uint16), 32803), "RAW"),
    ):
        assert words in (told := reason(tmp_path, data)) and "8-bit RGB" in told
    for few in (grey.astype(np.uint16) * 16, rgb.astype(np.uint16) * 16):
        assert "12 bits in 16" in reason(tmp_path, tiff(few, 1 if few.ndim == 2 else 2))
    assert "12 bits in 16" in reason(tmp_path, encoded(Image.fromarray(grey.astype(np.uint16) * 16), "PNG"))


def test_a_first_page_that_is_a_thumbnail_is_not_taken_for_the_photo(tmp_path):
    small, large = picture(30, 20), picture()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    data = bytearray(encoded(small, "TIFF", tiffinfo=tags, save_all=True, append_images=[large]))
    data[data.rfind(struct.pack("<HHII", 254, 4, 1, 1)) + 8] = 0  # Pillow marks both pages
    image = open_bytes(tmp_path, data)
    assert difference(image, large) == 0 and image.info[NOTED] == 0
    assert "thumbnail" in reason(tmp_path, encoded(small, "TIFF", tiffinfo=tags))


# --- one colour, empty alpha, disks that fail once --------------------------------------------------------------------


def test_a_picture_of_one_colour_is_not_used(tmp_path):
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    blank = [Image.new("RGB", (60, 40), "white"), picture()]
    for data in (
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(blank[0], "GIF", save_all=True, append_images=blank[1:]),
    ):
        open_bytes(tmp_path, data)
        with pytest.raises(Unreadable, match="a picture of one colour only"):
            read_parts(str(tmp_path / "x"), [(32, (1,))])
    spot = Image.new("L", (60, 40))
    spot.putpixel((7, 7), 9)
    spot.save(tmp_path / "spot.png")
    assert read_parts(str(tmp_path / "spot.png"), [(32, (1,))])


def test_a_bmp_with_an_empty_alpha_is_opaque(tmp_path):
    twin = picture()
    data = bytearray(encoded(twin.convert("RGBA"), "BMP"))
    start = struct.unpack_from("<I", data, 10)[0]
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 60, 40, 1, 32, 3, 60 * 40 * 4, 0, 0, 0, 0) + masks + bytes(52)
    for alpha in (0, 255):
        pixels = np.frombuffer(bytes(data[start:]), np.uint8).reshape(-1, 4).copy()
        pixels[:, 3] = alpha
        bmp = b"BM" + struct.pack("<IHHI", 122 + pixels.size, 0, 0, 122) + head + pixels.tobytes()
        assert Image.open(io.BytesIO(bmp)).mode == "RGBA"
        assert difference(open_bytes(tmp_path, bmp), twin) == 0


@pytest.mark.parametrize("error", [5, 116])  # EIO, ESTALE
def test_a_file_is_read_again_after_one_error(tmp_path, monkeypatch, error):
    picture().save(tmp_path / "x.png")
    really = open
    fails = [OSError(error, "disk")]

    def opens(*parts, **named):
        if fails:
            raise fails.pop()
        return really(*parts, **named)

    monkeypatch.setattr("builtins.open", opens)
    assert difference(open_image(tmp_path / "x.png"), picture()) == 0
    monkeypatch.setattr("builtins.open", Mock(side_effect=OSError(error, "disk")))
    with pytest.raises(Unreadable, match=r"cannot be read \(disk\)"):
        open_image(tmp_path / "x.png")
    monkeypatch.setattr("mlclip.teacher.store.content_hash", Mock(side_effect=[OSError(error, "disk"), b"hash"]))
    assert contents_of([Mock(file="x")]) == [b"hash"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_labels_are_those_of_the_plain_twins(clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    best, adobe = OPTIONS["JPEG"], SPACES["Adobe RGB"]
    jpeg = [encoded(picture(90, 60, seed), "JPEG", **best) for seed in range(2)]
    tagged = [encoded(picture(90, 60, seed), "JPEG", **best, icc_profile=b"bad") for seed in (6, 7)]
    deep = np.asarray(picture(90, 60, 3)).astype(np.uint16) * 257
    photos = [
        jpeg[0][:-2] + VIDEO,
        encoded(in_space(picture(90, 60, 1), *adobe), "JPEG", **best, icc_profile=rgb_profile(*adobe)),
        encoded(in_inks(picture(90, 60, 2)), "TIFF", icc_profile=cmyk_profile()),
        tiff(deep, 2, planar=True),
        encoded(picture(90, 60, 4).transpose(CAMERA[8]), "JPEG", **best, exif=exif_of(8, ASCII)),
        encoded(picture(90, 60, 5), "GIF", save_all=True, append_images=[picture(90, 60, 6)]),
        *tagged,
    ]
    for seed, data in enumerate(photos):
        (tmp_path / "photos" / f"{seed}.jpg").write_bytes(data)
        twin = Image.open(io.BytesIO(data)).convert("RGB") if seed == 5 else picture(90, 60, seed)
        (tmp_path / "photos" / f"twin-{seed}.jpg").write_bytes(encoded(twin, "PNG"))
    (tmp_path / "photos" / "9.jpg").write_bytes(encoded(Image.new("RGB", (90, 60)), "PNG"))
    label = ["--classes", "red,green,blue", "--clip", str(clip_file), "--device", "cpu"]
    assert _status(["pseudolabel", "photos", *label]) == 3
    told = capsys.readouterr().err
    unused = "colour profiles that cannot be used (damaged, over 4 MB, or for other colours): 2, such as 6.jpg"
    assert told.count(unused) == 1
    assert told.count("files with several frames or pages: 1, such as 5.jpg") == 1
    assert "9.jpg: a picture of one colour only" in told
    table = read_labels("labels.pt")
    assert table.paths == [f"{seed}.jpg" for seed in range(8)] + [f"twin-{seed}.jpg" for seed in range(8)]
    scores = table.scores.unflatten(0, (2, 8))
    assert torch.allclose(scores[0], scores[1], atol=0.05), (scores[0] - scores[1]).abs().amax(1)
    assert scores.std(1).min() > 0.05  # the photos differ
