"""The settings of a table of labels for another tool."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import OptionError
from .fields import require, setting


@dataclass(frozen=True)
class ExportConfig:
    """How a table of labels is written for another tool."""

    OUTPUTS = {  # noqa: RUF012 (not a field) tool -> default output
        "label-studio": "label-studio.json",
        "coco": "coco.json",
        "csv": "export.csv",
        "exiftool": "keywords.csv",
    }

    to: str | None = setting(
        None,
        "Write a table of labels for this tool or in this format, instead of a model.",
        choices=tuple(OUTPUTS),
        if_none="no table is written",
    )
    url_prefix: str = setting(
        "/data/local-files/?d=",
        "What stands before the path of a photo in its URL. The default is for Label Studio's local files; an empty text gives "
        "relative paths.",
        methods=("label-studio",),
    )

    def __post_init__(self):
        require(self.to in self.OUTPUTS, "to", self.to, f"one of {', '.join(self.OUTPUTS)}")
        if self.to != "label-studio" and self.url_prefix != ExportConfig.url_prefix:
            raise OptionError(f'`url_prefix` has no effect with `to="{self.to}"`. Use `to="label-studio"`.')
