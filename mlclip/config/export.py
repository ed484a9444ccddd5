"""The settings of a table of labels for another tool."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import OptionError
from .fields import require, setting


@dataclass(frozen=True)
class ExportConfig:
    """How a table of labels is written for another tool."""

    OUTPUTS = {  # noqa: RUF012 (not a field) tool -> default output
        "label-studio": "label-studio.json",
        "cvat": "cvat.xml",
        "fiftyone": "fiftyone",
        "coco": "coco.json",
        "yolo-cls": "yolo-cls",
        "csv": "export.csv",
        "xmp": "xmp",
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
    csv_form: str = setting(
        "scores",
        "scores or binary (1 from the threshold on, else 0): a column per class. long: a line per photo and class.",
        methods=("csv",),
        choices=("scores", "binary", "long"),
    )
    copy_photos: bool = setting(False, "Copy the photos instead of linking to them.", methods=("yolo-cls",))
    sidecar_name: str = setting(
        "full",
        "The sidecar of photo.jpg: photo.jpg.xmp (full) or photo.xmp (stem).",
        methods=("xmp",),
        choices=("full", "stem"),
    )
    beside_photos: bool = setting(
        False, "Write sidecars beside the photos. What others wrote there is kept.", methods=("xmp",)
    )

    def __post_init__(self):
        require(self.to in self.OUTPUTS, "to", self.to, f"one of {', '.join(self.OUTPUTS)}")
        for entry in fields(self)[1:]:
            value, (tool,) = getattr(self, entry.name), entry.metadata["methods"]
            choices = entry.metadata.get("choices", (value,))
            require(value in choices, entry.name, value, f"one of {', '.join(map(str, choices))}")
            if value != entry.default and tool != self.to:
                raise OptionError(f'`{entry.name}` has no effect with `to="{self.to}"`. Use `to="{tool}"`.')
