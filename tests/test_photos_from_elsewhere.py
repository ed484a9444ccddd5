"""Photos in .tar shards, paths in columns of tables, and videos."""

from __future__ import annotations

import io
import os
import tarfile
from hashlib import blake2b

import numpy as np
import pytest
from PIL import Image

from mlclip.cli import _status
from mlclip.config import InputError
from mlclip.images import Unreadable, find_images, open_image
from mlclip.images.shards import content_hash, index_of, locate


def write_shard(file, photos, *, extra=(), format=tarfile.GNU_FORMAT):
    """A shard like webdataset's: each photo with a .json and a .cls beside it. `extra` are further TarInfos without data."""
    with tarfile.open(file, "w", format=format) as archive:
        for photo in photos:
            for name, data in (
                (photo.name, photo.read_bytes()),
                (f"{photo.stem}.json", b"{}"),
                (f"{photo.stem}.cls", b"1"),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return file


@pytest.fixture
def shards(photos, tmp_path):
    """Two shards in a folder of their own, with the twelve photos of `photos`."""
    folder, files = tmp_path / "shards", sorted(photos.glob("*.jpg"))
    folder.mkdir()
    write_shard(folder / "a-000.tar", files[:7])
    write_shard(folder / "a-001.tar", files[7:], format=tarfile.PAX_FORMAT)
    return folder


def pixels(file) -> np.ndarray:
    return np.asarray(open_image(file))


def test_photos_in_shards_are_found_in_their_order_and_have_the_same_pixels(shards, photos):
    found = find_images(shards)
    assert [photo.path for photo in found.photos] == [f"a-{n // 7:03d}.tar/{n:02d}.jpg" for n in range(12)]
    assert not found.skipped and found.root == str(shards)
    for photo in found.photos:
        file = photos / os.path.basename(photo.file)
        assert photo.size == file.stat().st_size
        assert photo.mtime_ns == os.stat(os.path.dirname(photo.file)).st_mtime_ns
        assert (pixels(photo.file) == pixels(file)).all()
        expected = blake2b(file.read_bytes(), digest_size=16).digest()
        assert content_hash(photo.file) == content_hash(str(file)) == expected


def test_a_shard_a_pattern_a_list_and_a_single_member_name_the_same_photos(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(shards)
    every = [photo.file for photo in find_images(".").photos]
    (shards / "list.txt").write_text("a-000.tar\na-001.tar/07.jpg\na-001.tar/none.jpg\n")
    assert [p.file for p in find_images(["a-000.tar", "a-001.tar"]).photos] == every
    assert [p.file for p in find_images("a-*.tar").photos] == every
    listed = find_images("@list.txt")
    assert [p.file for p in listed.photos] == every[:8]
    assert [(s.path, s.reason) for s in listed.skipped] == [("a-001.tar/none.jpg", "not in a-001.tar")]


def test_shards_beside_photos_are_not_searched_and_a_folder_may_be_called_tar(shards, photos):
    Image.new("RGB", (8, 8)).save(shards / "own.jpg")
    assert [photo.path for photo in find_images(shards).photos] == ["own.jpg"]
    os.rename(photos, photos.with_name("photos.tar"))
    named = find_images(photos.with_name("photos.tar"))
    assert len(named.photos) == 12 and pixels(named.photos[0].file).any()


def test_members_that_are_no_ordinary_photos_are_not_used(photos, tmp_path):
    def info(name, kind, **more):
        made = tarfile.TarInfo(name)
        made.type = kind
        for key, value in more.items():
            setattr(made, key, value)
        return made

    extra = [
        info("link.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"),
        info("hard.jpg", tarfile.LNKTYPE, linkname="00.jpg"),
        info("device.jpg", tarfile.CHRTYPE),
        info("../out.jpg", tarfile.REGTYPE),
        info("/root.jpg", tarfile.REGTYPE),
        info("._00.jpg", tarfile.REGTYPE),
        info("folder.jpg", tarfile.DIRTYPE),
    ]
    shard = write_shard(tmp_path / "s.tar", sorted(photos.glob("*.jpg"))[:1], extra=extra)
    found = find_images(shard)
    assert [photo.path for photo in found.photos] == ["s.tar/00.jpg"]
    reasons = {os.path.basename(skip.path): skip.reason for skip in found.skipped}
    assert set(reasons) == {"link.jpg", "hard.jpg", "device.jpg", "out.jpg", "root.jpg"}
    assert "a link, a device" in reasons["link.jpg"] and "leads out" in reasons["out.jpg"]
    with pytest.raises(Unreadable):
        open_image(shard / "link.jpg")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_other_letters_and_bytes_that_are_no_text_are_kept(photos, tmp_path, form):
    names = ["a" * 180 + "/" + "b" * 120 + ".jpg", "straße/日本.jpg", os.fsdecode(b"\xff.jpg")]
    data = (photos / "00.jpg").read_bytes()
    with tarfile.open(tmp_path / "s.tar", "w", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    found = find_images(tmp_path / "s.tar")
    assert [photo.path for photo in found.photos] == [f"s.tar/{name}" for name in names]
    assert all(pixels(photo.file).any() for photo in found.photos)


def test_a_shard_cut_at_any_block_gives_the_photos_before_the_cut_and_one_reason(photos, tmp_path):
    whole = write_shard(tmp_path / "whole.tar", sorted(photos.glob("*.jpg"))[:3])
    spans, data = index_of(str(whole)).members, whole.read_bytes()
    last = max(map(sum, spans.values()))
    cut = tmp_path / "cut.tar"
    for size in range(0, last + 512, 512):
        cut.write_bytes(data[:size])
        os.utime(cut, ns=(size, size))
        index = index_of(str(cut))
        assert set(index.members) == {name for name, span in spans.items() if sum(span) <= size}
        assert index.problem
    found = find_images([cut, whole])
    assert len(found.photos) == 3 + 3 and "cut short" in found.skipped[0].reason and len(found.skipped) == 1


def test_no_changed_byte_of_a_shard_raises_or_reads_outside_the_file(photos, tmp_path):
    whole = write_shard(tmp_path / "w.tar", sorted(photos.glob("*.jpg"))[:2], format=tarfile.PAX_FORMAT).read_bytes()
    rng, file = np.random.default_rng(0), tmp_path / "changed.tar"
    headers = [at for at in range(0, len(whole), 512) if whole[at + 257 : at + 262] == b"ustar"]
    for number in range(400):
        data = bytearray(whole)
        at = int(rng.choice(headers))
        data[at + int(rng.integers(0, 512))] = int(rng.integers(0, 256))
        if number % 2:  # a correct checksum lets the change through
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
        file.write_bytes(data)
        os.utime(file, ns=(number, number))
        index = index_of(str(file))
        assert all(start > 0 and start + size <= len(data) for start, size in index.members.values())


def test_a_changed_shard_is_indexed_again_and_a_compressed_one_is_refused(photos, tmp_path):
    shard = write_shard(tmp_path / "s.tar", sorted(photos.glob("*.jpg"))[:1])
    assert locate(shard / "00.jpg").size
    write_shard(shard, sorted(photos.glob("*.jpg"))[1:2])
    with pytest.raises(FileNotFoundError):
        locate(shard / "00.jpg")
    with tarfile.open(shard, "w:gz") as archive:
        archive.add(photos / "00.jpg", "00.jpg")
    with pytest.raises(InputError, match="compressed, so that"):
        find_images(shard)


def test_every_command_works_on_shards_and_a_cut_shard_gives_status_3(shards, clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    whole = (shards / "a-001.tar").read_bytes()
    (shards / "a-001.tar").write_bytes(whole[: len(whole) // 2])
    common = ["--device", "cpu"]
    label = ["pseudolabel", str(shards), "--classes", "red,green,blue", "--clip", str(clip_file), *common]
    assert _status(label) == 3
    err = capsys.readouterr().err
    assert err.count("a-001.tar") == 1 and "cut short" in err
    small = ["--arch", "resnet18", "--init", "none", "--size", "64", "--epochs", "1", "--batch-size", "4"]
    assert _status(["train", *small, *common]) == 0
    assert _status(["predict", str(shards / "a-000.tar"), "--heatmaps", "maps", "--format", "csv", *common]) == 0
    assert "a-000.tar/00.jpg" in capsys.readouterr().out
    assert (tmp_path / "maps" / "a-000.tar" / "00.jpg.heatmap.jpg").is_file()
    assert _status(["report"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "data:image" in page and "could not be opened" not in page
    assert _status([*label, "-o", "again.pt", "-v"]) == 3  # the store knows the photos by shard and member
    assert "encoding photos" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "spec"),
    [
        ("t.csv", 'id,image path\n1,photos/00.jpg\n2,\n3,"photos/01.jpg"\n', "t.csv:image path"),
        ("t.csv", "\ufeffpath;label\nphotos/00.jpg;cat\nphotos/01.jpg;dog\n", "t.csv"),
        ("t.tsv", "label\tpath\ncat\tphotos/00.jpg\ndog\tphotos/01.jpg\n", "t.tsv:path"),
        ("t.csv", "path\nphotos/00.jpg\nphotos/01.jpg\n", "t.csv"),
        ("t.csv", "photos/00.jpg\nphotos/01.jpg\n", "t.csv"),  # a plain list, as before
    ],
)
def test_a_column_of_a_table_names_photos(name, text, spec, photos, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = find_images(f"@{tmp_path / spec}")
    assert [photo.path for photo in found.photos] == ["00.jpg", "01.jpg"] and not found.skipped


@pytest.mark.parametrize(
    ("text", "spec", "words"),
    [
        ("id,file\n1,a.jpg\n", "t.csv:fiel", "no column 'fiel'. Did you mean 'file'? It has id, file."),
        ("id,file\n1,a.jpg\n", "t.csv", "no column 'path'. Name the column of the paths: @"),
        ("file,file\na.jpg,b.jpg\n", "t.csv:file", "two columns 'file'"),
        ("id,file\n1\n", "t.csv:file", "line 2: no cell for 'file'"),
        ('id,file\n1,"a\n', "t.csv:file", "Save it as a comma-separated file"),
        ("id,url\n1,https://x.org/a.jpg\n", "t.csv:url", "holds addresses such as https://x.org/a.jpg, not paths"),
        ("id,file\n1,\n", "t.csv:file", "names no photos"),
    ],
)
def test_a_table_that_names_no_paths_is_refused_in_one_line(text, spec, words, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError) as error:
        find_images(f"@{tmp_path / spec}")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_column_of_a_parquet_file_names_photos(photos, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["photos/00.jpg", None, "photos/01.jpg"]
    table = pyarrow.table({"n": [1, 2, 3], "path": names, "kind": pyarrow.array(names).dictionary_encode()})
    parquet.write_table(table, tmp_path / "t.parquet")
    for spec in ("t.parquet", "t.parquet:path", "t.parquet:kind"):
        assert [photo.path for photo in find_images(f"@{tmp_path / spec}").photos] == ["00.jpg", "01.jpg"]
    with pytest.raises(InputError, match="'n' holds int64, not text"):
        find_images(f"@{tmp_path / 't.parquet'}:n")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        find_images(f"@{tmp_path / 't.parquet'}")


@pytest.mark.parametrize("name", ["a clip.mp4", "b.MOV"])
def test_a_video_is_refused_with_the_ffmpeg_line(name, tmp_path):
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(InputError, match=r"is a video.*ffmpeg -skip_frame nokey -i \S.* -fps_mode vfr"):
        find_images(tmp_path / name)


def test_what_other_programs_leave_is_named_and_not_labelled(photos, clip_file, tmp_path, monkeypatch, capsys):
    """What photo managers, NAS boxes, cameras and downloads leave in a folder; two photos are the user's own."""
    monkeypatch.chdir(tmp_path)
    data = (photos / "00.jpg").read_bytes()
    own = ["trip/1.jpg", "Old.photoslibrary/originals/0/2.jpg"]
    thumbnails = ["trip/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/3.jpg", "$RECYCLE.BIN/4.jpg", ".thumbnails/5.jpg",
                  "Lr.lrdata/6.jpg", "Old.photoslibrary/resources/7.jpg", "lost+found/8.jpg", "@Recycle/9.jpg"]  # fmt: skip
    unread = ["trip/1.NEF", "trip/2.cr3", "trip/3.DNG", "a.jxl", "bare", "1.jpg~", "1.jpg.1", "notes", "x.jpg.part"]
    left_out = ["trip/1_mask.jpg", "trip/masks/1.jpg", "small/1.jpg"]
    for name in [*own, *thumbnails, *unread, *left_out]:
        file = tmp_path / "all" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"no photo" if name == "notes" else data)
    excluded = ["--exclude", "*_mask.jpg", "--exclude", "masks", "--exclude", "all/small/", "--exclude", "nothing"]
    command = ["pseudolabel", "all", "--classes", "cat,dog", "--clip", str(clip_file)]
    assert _status([*command, *excluded, "-o", "labels.csv"]) == 0
    rows = [line.split(",")[0] for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]
    said = capsys.readouterr().err
    assert sorted(rows) == sorted(own)
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", ".thumbnails", "Lr.lrdata", "lost+found", "@Recycle"):
        assert f"{name} (1)" in said
    assert "*.photoslibrary/resources (1)" in said
    assert "2 RAW photos" in said and "exiftool -b -PreviewImage" in said  # 1.NEF has its JPEG beside it
    assert "1 JPEG XL photos; run `pip install pillow-jxl-plugin`" in said
    assert "1 photos without a suffix" in said and "2 copies with another ending" in said
    assert "left out by --exclude: 3 (such as" in said and "--exclude nothing fits no file" in said
    assert _status(["pseudolabel", "all", "--exclude", "*", *command[2:], "-o", "none.csv"]) == 1
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/1.CR2").write_bytes(data)
    capsys.readouterr()
    assert _status(["pseudolabel", "raw", *command[2:], "-o", "raw.csv"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 RAW photos" in line and "exiftool" in line


def test_what_is_not_read_in_shards_is_said(photos, clip_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    files, folder = sorted(photos.glob("*.jpg")), tmp_path / "in"
    folder.mkdir()
    names = ["a.jpg", "a.jpg", "b.jpg", "b.seg.png", "2020.01.01.jpg", "sub/b.jpg"]
    with tarfile.open(folder / "s.tar", "w") as archive:
        for name, file in zip(names, files, strict=False):
            archive.add(file, name)
    labelled = ["--classes", "cat,dog", "--clip", str(clip_file)]
    assert _status(["pseudolabel", "in", *labelled, "-o", "one.csv"]) == 0
    rows = [line.split(",")[0] for line in (tmp_path / "one.csv").read_text().splitlines()[1:]]
    assert sorted(rows) == [f"s.tar/{name}" for name in ("2020.01.01.jpg", "a.jpg", "b.jpg", "sub/b.jpg")]
    said = capsys.readouterr().err
    assert "files with the name of a later file of the same shard, which alone is read: 1 (such as" in said
    assert "such as masks, and are not read: 1 (such as" in said and "b.seg.png" in said
    (folder / "sub").mkdir()
    (folder / "sub/own.jpg").write_bytes(files[0].read_bytes())
    assert _status(["pseudolabel", "in", *labelled, "-o", "two.csv"]) == 0
    assert (tmp_path / "two.csv").read_text().count("own.jpg") == 1
    said = capsys.readouterr().err
    assert "shards that are not read unless you name them, because the same folder or one below it has photos" in said
