"""CLIP's tokenizer: byte-pair encoding of text, the same for every published CLIP.

A text is cleaned and split into words. The bytes of each word are merged into tokens, most frequent pair first. The
vocabulary has 49,408 tokens: 256 bytes, 256 bytes at the end of a word, 48,894 merges, a start token and an end token.
"""

from __future__ import annotations

import gzip
import html
from functools import lru_cache
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..config import InputError

if TYPE_CHECKING:
    from torch import LongTensor

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
MERGES = 48_894  # the file holds more, but CLIP uses only the first ones
VOCAB_SIZE = 2 * 256 + MERGES + 2
START, END = VOCAB_SIZE - 2, VOCAB_SIZE - 1  # the text encoder finds the end token as the largest id
WORD_END = "</w>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"  # English endings, letters, single digits, the rest


class Vocabulary(NamedTuple):
    letters: list[str]  # the character for each of the 256 bytes
    ids: dict[str, int]  # of each token
    ranks: dict[tuple[str, str], int]  # of each pair of tokens that merges; 0 merges first


def byte_letters() -> list[str]:
    """A visible character for each of the 256 bytes: the same one if Latin-1 prints it, else one from 256 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = count(256)
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


@lru_cache(maxsize=1)
def _vocabulary() -> Vocabulary:
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    pairs = [tuple(line.split()) for line in lines[1 : 1 + MERGES]]  # the first line is a header
    letters = byte_letters()
    pieces = sorted(letters) + [letter + WORD_END for letter in sorted(letters)] + ["".join(pair) for pair in pairs]
    return Vocabulary(letters, {piece: n for n, piece in enumerate(pieces)}, {pair: n for n, pair in enumerate(pairs)})


def clean(text: str) -> str:
    """Repair broken Unicode, resolve HTML entities (twice, as CLIP does), collapse white space, convert to lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def join_pair(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge every occurrence of `pair` into one piece, from left to right.

    >>> join_pair(["a", "b", "a", "b", "b"], ("a", "b"))
    ['ab', 'ab', 'b']
    """
    joined, n = [], 0
    while n < len(pieces):
        width = 2 if tuple(pieces[n : n + 2]) == pair else 1
        joined.append("".join(pieces[n : n + width]))
        n += width
    return joined


@lru_cache(maxsize=4096)
def _encode_word(word: str) -> tuple[int, ...]:
    letters, ids, ranks = _vocabulary()
    pieces = [letters[byte] for byte in word.encode("utf-8")]
    pieces[-1] += WORD_END
    while len(pieces) > 1:
        best = min(pairwise(pieces), key=lambda pair: ranks.get(pair, MERGES))
        if best not in ranks:
            break
        pieces = join_pair(pieces, best)
    return tuple(ids[piece] for piece in pieces)


def tokenize(texts: list[str] | str, context_length: int = 77) -> LongTensor:
    """Token ids (N, context_length), int64: start token, the text's tokens, end token, then zeros.

    Raises InputError for a text of more than `context_length` tokens, including start and end; texts are never cut.
    Text that spells a special token, such as "<|endoftext|>", is ordinary text.
    """
    import regex
    import torch

    texts = [texts] if isinstance(texts, str) else texts
    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        words = regex.findall(WORDS, clean(text), regex.IGNORECASE)
        numbers = [START, *(number for word in words for number in _encode_word(word)), END]
        if len(numbers) > context_length:
            start = " ".join(text[:50].split())
            what = f"the text {start!r} has {len(numbers)} tokens"
            raise InputError(f"{what}; CLIP reads at most {context_length}. Shorten it.")
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens
