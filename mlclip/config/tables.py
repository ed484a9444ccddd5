"""The settings of tables: how those of other programs are read, how they are written for another tool, and the page about labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .fields import OptionError, check_values, require, setting


@dataclass(frozen=True)
class TableOptions:
    """How a .csv of another program is read, where its own content allows two readings. None: the table decides."""

    path_column: str | None = setting(
        None, "The column with the photos.", if_none="path, filename, image and the like", rare=True
    )
    split: str | None = setting(
        None, "Read only the rows with this value in a column, as VALUE or COLUMN=VALUE.", if_none="all rows", rare=True
    )
    minus_one: str | None = setting(
        None,
        "What -1 means. absent: 0 is then unknown, as in VOC's lists. unknown: 0 is then absent.",
        choices=("absent", "unknown"),
        if_none="absent, unless 0 is more frequent",
        rare=True,
    )
    partial: bool = setting(
        False,
        "Accept a table of which fewer than half of the photos or classes match the other (of the smaller table).",
        rare=True,
    )

    @property
    def for_scores(self) -> TableOptions:
        """The same for a table of scores beside true labels: `split` is about the true labels."""
        return replace(self, split=None)

    def __post_init__(self):
        check_values(self)


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
        rare=True,
    )

    def __post_init__(self):
        require(self.to in self.OUTPUTS, "to", self.to, f"one of {', '.join(self.OUTPUTS)}")
        if self.to != "label-studio" and self.url_prefix != ExportConfig.url_prefix:
            raise OptionError(f'`url_prefix` has no effect with `to="{self.to}"`. Use `to="label-studio"`.')


@dataclass(frozen=True)
class ReportConfig:
    """What the page of `mlclip report` shows at first."""

    limit: int = setting(
        20_000, "Number of photos in the gallery; if there are more, those most worth a look.", rare=True
    )
    thumbnails: str = setting(
        "auto",
        "Where the thumbnails are: in the page (embed), in a folder beside it, or in the page up to 40 MB (auto).",
        choices=("auto", "embed", "folder"),
        rare=True,
    )
    sort: str = setting(
        "review",
        "The order of the photos at first; review: as `mlclip review` names them.",
        choices=("review", "doubt", "contradicted", "duplicates", "high", "low", "table"),
        rare=True,
    )

    def __post_init__(self):
        require(self.limit >= 0, "limit", self.limit, "0 or more")
        check_values(self)
