"""Downloads from a local server that cuts connections, ignores ranges, sends wrong data, or does not exist."""

import hashlib
import os
import socket
import threading
from unittest.mock import Mock

import pytest
from toy_server import CONTENT, SHA256, Recorder, Server

from mlclip.clip.download import FAILURES, download
from mlclip.clip.registry import Entry
from mlclip.config import InputError


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("mlclip.clip.download.PAUSE", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def part_of(entry):
    return entry.path.with_name("toy.pt.part")


def leave_part(entry, data):
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    part_of(entry).write_bytes(data)


def refused(entry, **how):
    with pytest.raises(InputError) as caught:
        download(entry, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_downloaded_once_and_the_progress_is_reported(server, own_cache):
    entry, progress = server.entry(), Recorder()
    assert download(entry, progress=progress) == own_cache / "toy.pt" == entry.path
    assert entry.path.read_bytes() == CONTENT and not part_of(entry).exists()
    size = len(CONTENT)
    assert progress.bars == [{"label": "downloading Toy", "total": size, "unit": "B", "start": 0, "done": size}]
    download(entry, progress=progress)
    assert len(server.requests) == 1


def test_a_broken_connection_continues_where_it_stopped(server):
    half = len(CONTENT) // 2
    server.breaks = [half, half + 1000]
    progress = Recorder()
    assert download(server.entry(), progress=progress).read_bytes() == CONTENT
    assert server.requests == [None, f"bytes={half}-", f"bytes={half + 1000}-"]
    assert [bar["start"] for bar in progress.bars] == [0, half, half + 1000]
    assert len(progress.lines) == 2 and "was interrupted" in progress.lines[0]


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server):
    server.ranges = False
    server.breaks = [len(CONTENT) // 2]
    assert download(server.entry()).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_after_repeated_failures_the_download_stops_and_keeps_the_received_bytes(server):
    server.breaks = [1000] * 20
    entry = server.entry()
    line = refused(entry)
    assert entry.url in line and str(entry.path) in line and "1000 bytes" in line
    assert len(server.requests) <= 1 + FAILURES
    assert part_of(entry).read_bytes() == CONTENT[:1000] and not entry.path.exists()


def test_a_complete_partial_file_is_used_and_a_too_long_one_starts_over(server):
    entry = server.entry()
    leave_part(entry, CONTENT)
    assert download(entry).read_bytes() == CONTENT
    assert len(server.requests) == 1
    entry.path.unlink()
    leave_part(entry, CONTENT + b"more")
    assert download(entry).read_bytes() == CONTENT
    assert server.requests[-1] is None


def test_a_download_with_a_wrong_hash_is_deleted_and_the_next_run_begins_again(server):
    entry = server.entry(sha256="0" * 64)
    line = refused(entry)
    assert entry.url in line and str(entry.path) in line and SHA256 in line and "0" * 64 in line
    assert not entry.path.exists() and not part_of(entry).exists()
    entry = server.entry()
    leave_part(entry, b"\x00" * 1000)
    assert SHA256 in refused(entry)
    assert download(entry).read_bytes() == CONTENT


def test_a_truncated_file_is_refused_with_both_hashes_and_not_changed(server):
    entry = server.entry()
    entry.path.write_bytes(CONTENT[:1000])
    line = refused(entry)
    assert str(entry.path) in line and hashlib.sha256(CONTENT[:1000]).hexdigest() in line and SHA256 in line
    assert "Delete it" in line and server.requests == [] and entry.path.stat().st_size == 1000


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (404, 1), (503, FAILURES)])
def test_a_missing_file_is_reported_at_once_and_a_server_error_is_retried(server, status, attempts):
    server.status = status
    entry = server.entry()
    line = refused(entry)
    assert str(status) in line and entry.url in line and str(entry.path) in line and len(server.requests) == attempts


def test_without_network_the_error_names_the_url_and_the_path_for_a_manual_copy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("mlclip.clip.download.PAUSE", 0.0)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        entry = Entry("Toy", f"http://127.0.0.1:{unused.getsockname()[1]}/toy.pt", SHA256, 3, 32)
        line = refused(entry)
    assert entry.url in line and str(entry.path) in line and "by hand" in line


def test_offline_or_with_a_cached_file_there_is_no_connection(server, monkeypatch, own_cache):
    entry = server.entry()
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, Mock(side_effect=AssertionError("a socket was opened")))
    line = refused(entry, offline=True)
    assert entry.url in line and str(entry.path) in line and "`offline=True`" in line
    assert list(own_cache.iterdir()) == []
    entry.path.write_bytes(CONTENT)
    assert download(entry) == download(entry, offline=True) == entry.path
    entry.path.unlink()
    with pytest.raises(AssertionError, match="a socket was opened"):  # proves that sockets are blocked
        download(entry)


def test_an_unwritable_cache_is_named(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLCLIP_CACHE", str(tmp_path / "file" / "cache"))
    line = refused(server.entry())
    assert str(tmp_path / "file") in line and "MLCLIP_CACHE" in line


def test_a_full_disk_is_reported_and_not_retried(server):
    full = "/dev/full"
    if not os.path.exists(full):
        pytest.skip("this system has no /dev/full")
    entry = server.entry()
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    part_of(entry).symlink_to(full)
    line = refused(entry)
    assert "No space left" in line and str(entry.path) in line and len(server.requests) == 1


def test_a_second_process_reports_that_it_waits_and_uses_the_first_one_s_file(server):
    fcntl = pytest.importorskip("fcntl")
    entry, progress = server.entry(), Recorder()
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    with open(entry.path.with_name("toy.pt.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = threading.Thread(target=download, args=(entry,), kwargs={"progress": progress})
        second.start()
        while not progress.lines and second.is_alive():
            second.join(0.01)
        entry.path.write_bytes(CONTENT)
    second.join()
    assert "another process is downloading" in progress.lines[0] and server.requests == []
