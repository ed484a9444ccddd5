"""How tables of other programs are read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .fields import require_choices, setting


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
        require_choices(self)
