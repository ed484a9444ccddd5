"""A machine that loses its power or its network closes no connection: TCP's keepalive notices that it is gone.

A process that is only busy, or stopped, is not taken for gone: its system still answers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

IDLE, INTERVAL, PROBES = 60, 10, 6  # seconds without data, seconds between questions, questions without an answer
_OPTIONS = {  # by their names in `socket`; each system has some of them
    "TCP_KEEPIDLE": IDLE,  # Linux
    "TCP_KEEPALIVE": IDLE,  # macOS
    "TCP_KEEPINTVL": INTERVAL,
    "TCP_KEEPCNT": PROBES,
    "TCP_USER_TIMEOUT": 1000 * (IDLE + INTERVAL * PROBES),  # milliseconds, for data that nobody confirms
}


@contextmanager
def lost_machines_noticed() -> Iterator[None]:
    """TCP connections that are opened in this block fail if the other machine is gone for IDLE + INTERVAL × PROBES seconds.

    This is for connections that other libraries open. Systems without a list of open files (Windows) are left as they are.
    """
    before = _open_files()
    yield
    for descriptor, _ in _open_files() - before:
        with suppress(OSError):  # it is not a socket
            _keep_alive(descriptor)


def _open_files() -> set[tuple[int, int]]:
    """This process's open files: their numbers, which the system uses again, and their inodes."""
    numbers: list[int] = []
    for folder in ("/proc/self/fd", "/dev/fd"):
        if not numbers:
            with suppress(OSError):
                numbers = [int(name) for name in os.listdir(folder)]
    found = set()
    for number in numbers:
        with suppress(OSError):  # the list itself, which is closed by now
            found.add((number, os.fstat(number).st_ino))
    return found


def _keep_alive(descriptor: int) -> None:
    with socket.socket(fileno=os.dup(descriptor)) as connection:  # the copy is closed, the connection stays
        if connection.type != socket.SOCK_STREAM or connection.family not in (socket.AF_INET, socket.AF_INET6):
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
