"""The cells of a class column as scores: numbers in [0, 1], and the words and marks that people and programs write."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..config import InputError, TableOptions
from .csv_lines import Say

NAN = math.nan
# True and false: English, and what Excel writes in German, French, Spanish, Italian, Dutch and Portuguese.
_YES = "true yes y t present positive pos wahr vrai verdadero vero waar verdadeiro ja oui sí si sì sim"
_NO = "false no n f absent negative neg falsch faux falso onwaar nein non nee não nao"
_UNKNOWN = "na n/a #n/a nan <na> null none nil ? ?? unknown unk uncertain unsure n.a. missing"
TICKS, CROSSES, DASHES = ("✓", "✔", "☑", "√", "+"), ("x",), ("-", "–", "—")
_NOT = ("✗", "✘", "☐")
WORDS: dict[str, float] = {
    **dict.fromkeys(_YES.split(), 1.0),
    **dict.fromkeys(_NO.split(), 0.0),
    **dict.fromkeys(_UNKNOWN.split(), NAN),
    **dict.fromkeys((*TICKS, *CROSSES), 1.0),
    **dict.fromkeys(_NOT, 0.0),
    **dict.fromkeys(("", *DASHES), NAN),
}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")


def number_in(cell: str) -> float | None:
    """The number in a cell, with a decimal point or a decimal comma; None where there is none.

    >>> number_in(" 0,25 "), number_in("1.0"), number_in("cat")
    (0.25, 1.0, None)
    """
    text = cell.strip()
    if "_" in text:  # Python would read 2008_000008 as a number
        return None
    try:
        return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None


def is_score(cell: str) -> bool:
    """Whether a cell can be in a class column: a word of WORDS, -1, or a number in [0, 1]."""
    value = number_in(cell)
    if value is None:
        return cell.strip().lower() in WORDS
    return 0 <= value <= 1 or value == -1 or math.isnan(value)


def is_known_score(cell: str) -> bool:
    """Whether a cell says something: a number, a true or false word, or a mark, but not an empty or unknown cell."""
    value = number_in(cell)
    if value is None:
        return not math.isnan(WORDS.get(cell.strip().lower(), NAN))
    return not math.isnan(value)


def meanings(counts: Counter[str], options: TableOptions, file: Path, say: Say, where: str) -> dict[str, float]:
    """What each different cell of the class columns means: {cell: score in [0, 1], or NaN = unknown}.

    `counts` has every cell of these columns with its number. All columns of a table are read alike. `where` is the
    place of the first -1 for a message. Cells that are no score are left out. InputError where -1 or a dash has two readings.

    >>> options = TableOptions(minus_one="absent")
    >>> meanings(Counter({"1": 2, "-1": 3, "0": 1}), options, Path("t.csv"), lambda line: None, "line 2")
    {'1': 1.0, '-1': 0.0, '0': nan}
    """
    found = {cell: _plain_meaning(cell) for cell in counts if is_score(cell)}
    words = {cell.strip().lower() for cell in found}
    _say_words(words, file, say)
    if any(value == -1 for value in found.values()):
        found = _with_minus_one(found, counts, options, file, say, where)
    blank = _blank_meaning(words, found, options, file, say)
    for cell in found:
        if not cell.strip() or cell.strip() in DASHES:
            found[cell] = blank[cell.strip() in DASHES]
    return found


def _plain_meaning(cell: str) -> float:
    number = number_in(cell)
    return WORDS[cell.strip().lower()] if number is None else number


def _say_words(words: set[str], file: Path, say: Say) -> None:
    spoken = [word for word in sorted(words) if WORDS.get(word, NAN) in (0, 1)]
    if spoken:
        say(f"{file}: " + ", ".join(f"{word!r} is read as {WORDS[word]:g}" for word in spoken[:6]))
    unknown = [word for word in sorted(words) if word and word not in DASHES and math.isnan(WORDS.get(word, 0))]
    if unknown:
        say(f"{file}: {', '.join(map(repr, unknown[:6]))} is read as unknown")
    if any(_DECIMAL_COMMA.fullmatch(word) for word in words):
        say(f"{file}: numbers with a decimal comma, such as 0,5, are read as 0.5")


def _with_minus_one(
    found: dict[str, float], counts: Counter[str], options: TableOptions, file: Path, say: Say, where: str
) -> dict[str, float]:
    """-1 as 0 (then 0 is unknown), or as unknown."""
    reading = options.minus_one or _reading_of_minus_one(found, counts, file, where)
    absent = reading == "absent"
    zero, minus = (NAN, 0.0) if absent else (0.0, NAN)
    also = f" and 0 as {'unknown' if absent else 'absent'}" if any(v == 0 for v in found.values()) else ""
    other = "" if options.minus_one else f'; `minus_one="{"unknown" if absent else "absent"}"` reads it otherwise'
    say(f"{file}: -1 is read as {reading}{also}{other}")
    return {cell: minus if value == -1 else zero if value == 0 else value for cell, value in found.items()}


def _reading_of_minus_one(found: dict[str, float], counts: Counter[str], file: Path, where: str) -> str:
    """As in VOC's lists (1 present, -1 absent, 0 difficult), or a missing score; InputError where both can be meant."""
    zeros = sum(counts[cell] for cell, value in found.items() if value == 0)
    minus = sum(counts[cell] for cell, value in found.items() if value == -1)
    ones = sum(counts[cell] for cell, value in found.items() if value == 1)
    if any(0 < value < 1 for value in found.values()):
        return "unknown"
    if ones and 0 < zeros <= minus:
        return "absent"
    zero = " (0 is then unknown)" if zeros else ""
    also = " (0 is then absent)" if zeros else ""
    raise InputError(
        f"{file}, {where}: '-1' can mean that the class is absent{zero}, or that it is not known{also}. "
        'Say which with `minus_one="absent"` or `minus_one="unknown"`.'
    )


def _blank_meaning(
    words: set[str], found: dict[str, float], options: TableOptions, file: Path, say: Say
) -> tuple[float, float]:
    """What an empty cell and a dash mean: unknown, but absent where a table otherwise only has marks."""
    if options.empty_cells:
        return (0.0 if options.empty_cells == "absent" else NAN,) * 2
    if "x" in words and words & {*TICKS}:
        raise InputError(
            f"{file}: 'x' can mean yes, or no because there are also ticks ({', '.join(words & {*TICKS})}). Write 1 and 0 instead."
        )
    marked, negative = words & {*TICKS, *CROSSES}, any(value == 0 for value in found.values())
    if negative or not any(value == 1 for value in found.values()):
        return NAN, NAN
    if "+" in words and words & {*DASHES}:
        return NAN, 0.0
    if words & {*DASHES}:
        raise InputError(
            f"{file}: a dash can mean that the class is absent, or that it is not known, because no cell says that a class is "
            'absent. Say which with `empty_cells="absent"` or `empty_cells="unknown"`.'
        )
    if "" in words and marked:
        say(
            f'{file}: an empty cell is read as absent, because the others are marks; `empty_cells="unknown"` reads it otherwise'
        )
        return 0.0, NAN
    if "" in words and all(value == 1 or math.isnan(value) for value in found.values()):
        say(f"{file}: {no_zero()}")
    return NAN, NAN


def no_zero() -> str:
    """What to say about a table in which no cell says that a class is absent."""
    return 'no cell says that a class is absent: empty cells are unknown; `empty_cells="absent"` reads them as absent'


def refuse(cells: Iterable[tuple[int, str, str]], file: Path) -> None:
    """InputError for the first (line, class, cell) that is no score."""
    for line, name, cell in cells:
        if is_score(cell):
            continue
        percent = number_in(cell.strip().rstrip("%").strip())
        if cell.strip().endswith("%") and percent is not None:
            remedy = f"It is a percentage: divide the numbers by 100, as in {percent / 100:g}."
        elif percent is not None and 1 < percent <= 100:
            remedy = "Write a number from 0 to 1 (divide percentages by 100), or nothing if it is unknown."
        else:
            remedy = "Write a number from 0 to 1, or nothing if it is unknown."
        raise InputError(
            f"{file}, line {line}: {cell.strip()[:40]!r} is not a score of {name[:40]!r}. {remedy} If the column is no class, pass "
            f'`ignore_columns="{name[:40]}"`.'
        )
