"""Named pipes where a text file is expected: each command refuses them at once, in one line."""

from __future__ import annotations

import os

import pytest
import torch
from PIL import Image

from mlclip.labels.table import Labels, write_labels

COMMANDS = [
    ["evaluate", "--labels", "labels.pt", "--truth", "pipe"],
    ["evaluate", "--labels", "labels.pt", "--truth", "pipe.csv"],
    ["evaluate", "--labels", "labels.pt", "--truth", "coco:pipe.json"],
    ["evaluate", "--labels", "labels.pt", "--truth", "label-studio:pipe.json"],
    ["evaluate", "--labels", "pipe.csv", "--truth", "labels.pt"],
    ["review", "--labels", "pipe.pt"],
    ["review", "--labels", "labels.pt", "--corrections", "pipe.csv"],
    ["train", "--labels", "labels.pt", "--corrections", "pipe.csv"],
    ["train", "--labels", "coco:pipe.json"],
    ["pseudolabel", ".", "-o", "new.pt", "--classes", "pipe"],
    ["pseudolabel", ".", "-o", "new.pt", "--classes", "cat,dog", "--contrast", "pipe.txt"],
]


@pytest.mark.timeout(60)  # reading a pipe would wait for ever
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_named_pipe_is_refused_at_once(command, tmp_path, arguments):
    for name in ("pipe", "pipe.csv", "pipe.json", "pipe.pt", "pipe.txt"):
        os.mkfifo(tmp_path / name)
    Image.linear_gradient("L").save(tmp_path / "a.jpg")
    write_labels(Labels(["a.jpg"], ["cat", "dog"], torch.ones(1, 2)), tmp_path / "labels.pt")
    status, out, err = command(*arguments)
    assert (status, out) == (1, "")
    assert "is a named pipe or a device, not a file" in err.strip().splitlines()[-1]
