"""How tables of other programs are read."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace

from .fields import require, require_choices, setting


@dataclass(frozen=True)
class TableOptions:
    """How a .csv of another program is read, where its own content allows two readings. None: the table decides."""

    READINGS = ("absent", "unknown")
    SEPARATORS = ("comma", "semicolon", "tab", "pipe")
    LABEL_SEPARATORS = ("comma", "semicolon", "pipe", "space", "none")

    path_column: str | None = setting(None, "The column with the photos.", if_none="path, filename, image and the like")
    label_column: str | None = setting(
        None, "The column with the names of each photo's classes.", if_none="labels, tags, class and the like"
    )
    label_separator: str | None = setting(
        None,
        "What is between the names in one cell of that column; none: a cell is one name.",
        choices=LABEL_SEPARATORS,
        if_none="what the cells show",
    )
    split: str | None = setting(
        None, "Read only the rows with this value in a column, as VALUE or COLUMN=VALUE.", if_none="all rows"
    )
    minus_one: str | None = setting(
        None,
        "What -1 means. absent: 0 is then unknown, as in VOC's lists. unknown: 0 is then absent.",
        choices=READINGS,
        if_none="absent where the table also has 0, and less often",
    )
    empty_cells: str | None = setting(
        None,
        "What an empty cell means.",
        choices=READINGS,
        if_none="unknown; absent in a column of names and in a table of x marks",
    )
    ignore_columns: str | None = setting(
        None, "Columns that are not classes, separated by commas.", if_none="columns of other text, row numbers, boxes"
    )
    keep_columns: str | None = setting(
        None, "Columns that are classes though their names suggest something else, separated by commas."
    )
    separator: str | None = setting(
        None, "What is between the columns.", choices=SEPARATORS, if_none="what the first lines show"
    )
    encoding: str | None = setting(
        None, "Encoding of the text, such as cp1252 for older Excel files.", if_none="UTF-8, or UTF-16"
    )

    @property
    def for_scores(self) -> TableOptions:
        """The same for a table of scores beside true labels: `split` and `empty_cells` are about the true labels."""
        return replace(self, split=None, empty_cells=None)

    def __post_init__(self):
        require_choices(self)
        if self.encoding is not None:
            try:
                known = codecs.lookup(self.encoding)._is_text_encoding
            except (LookupError, ValueError):
                known = False
            require(known, "encoding", self.encoding, "the name of a text encoding, such as utf-8 or cp1252")
