"""What every function of the front door accepts: images, settings by name, a number of workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from ..config import OptionError
from ..images import Found, find_images
from ..machine import default_workers
from ..spelling import nearest

Images = str | os.PathLike | Sequence[str | os.PathLike] | Found


def found_images(images: Images) -> Found:
    """The photos, found now unless they already are."""
    return images if isinstance(images, Found) else find_images(images)


def config_of(config: type, settings: dict[str, Any]) -> Any:
    """A config from settings by name. OptionError for a name that it does not have, with the nearest one."""
    names = [field.name for field in fields(config)]
    for name in settings:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean `{near}`?" if near else f"there are {', '.join(names)}"
            raise OptionError(f"there is no setting `{name}`; {hint}")
    return config(**settings)


def workers_or_default(num_workers: int | None) -> int:
    """The number of workers; None means one per core, at most 8."""
    return default_workers() if num_workers is None else num_workers
