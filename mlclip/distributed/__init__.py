"""One process or several (torchrun): the ranks and their communication (`ranks`), and how they start (`start`)."""

from .ranks import Distributed, Runtime
from .start import (
    choose_device,
    describe_device,
    rank_device,
    restarted,
    start_distributed,
    stop_distributed,
)

__all__ = [
    "Distributed",
    "Runtime",
    "choose_device",
    "describe_device",
    "rank_device",
    "restarted",
    "start_distributed",
    "stop_distributed",
]
