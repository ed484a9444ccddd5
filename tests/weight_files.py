"""What the tests of weight files share: copies with other entries, and the error of a file that is refused."""

import os
import re
import zipfile

import pytest

from mlclip.clip.load import load_clip
from mlclip.config import InputError


def refusal(path, **how):
    """The one-line error of `load_clip` for a file."""
    with pytest.raises(InputError) as caught:
        load_clip(path, **how)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line and re.search("[.] (Download|Use|Install|Run)", line)
    return line


def repack(source, target, change, compression=zipfile.ZIP_STORED):
    """A copy of a zip with `change(name, data)` applied to every entry. None removes an entry."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


class Malicious:
    """Its pickle calls code that creates a folder."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)
