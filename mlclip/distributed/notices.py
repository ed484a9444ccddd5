"""The error of one rank, as the other ranks get to know it."""

from __future__ import annotations

import json
from contextlib import suppress

import torch.distributed as dist

from ..config import InputError, OptionError


class Notices:
    """The error of a rank, for ranks that are at work and do not wait for it: a key in the key-value store of the ranks.

    `section` counts the agreements so far. So an error is only seen in the block in which it was raised.
    """

    def __init__(self, store: dist.Store):
        self.store, self.section = store, 0

    def post(self, plain: list) -> None:
        with suppress(RuntimeError):  # the process that holds the store has ended
            self.store.set(f"error-{self.section}", json.dumps(plain))
            self.store.add(f"errors-{self.section}", 1)

    def read(self) -> list | None:
        try:
            posted = self.store.add(f"errors-{self.section}", 0)  # adding 0 reads without waiting
            return json.loads(self.store.get(f"error-{self.section}")) if posted else None
        except RuntimeError:  # the process that holds the store has ended
            return None


def as_plain(error: InputError, rank: int) -> list:
    """The rank, kind and text of an error, as JSON holds them. An error of another rank stays that rank's."""
    text = getattr(error, "text", None) or str(error)
    return [getattr(error, "rank", rank), isinstance(error, OptionError), text]


def as_error(plain: list) -> InputError:
    """The error that `as_plain` described. The text names the rank, unless it is the main one."""
    rank, wrong_usage, text = plain
    error = (OptionError if wrong_usage else InputError)(text if rank == 0 else f"rank {rank}: {text}")
    error.rank, error.text = rank, text
    return error
