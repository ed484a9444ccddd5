"""The tokenizer equals that of open_clip, and texts that are too long raise an error."""

import hashlib
import random
import subprocess
import sys

import pytest
import torch

from mlclip.clip.tokenizer import END, START, VOCABULARY, join_pair, tokenize
from mlclip.config import InputError

PIECES = [
    *["a photo of a ", "cat", "Dog's", "they're", "I'll", "we've", "I'm", "he'd", "can't", "IT'S", "\u2019s", "'ſ"],
    *["naïve café", "Ærøskøbing", "Straße", "İstanbul", "ǅ", "ﬁne", "e\u0301", "Ⅷ", "½", "ＡＢＣ", "ñandú", "ΑΒΓ"],
    *["猫と犬", "고양이", "中文字符", "กขค", "שלום", "مرحبا", "हिन्दी", "🙂", "👩‍👩‍👧", "🇩🇪", "❤️", "𝔘𝔫𝔦"],
    *["&amp;", "&lt;b&gt;", "&amp;amp;", "&#39;", "&#x1F600;", "&eacute;", "&nbsp;", "&notanentity;", "&#xD800;", "&"],
    *["!", "...", "?!", "--", "$3.50", "@#%", "[]{}", "\\", "`", "_", "'", '"', "“quoted”", "—", "…", "™", "°C"],
    *[
        "\t",
        "\n",
        "\r\n",
        " ",
        "  ",
        "\u00a0",
        "\u3000",
        "\u200b",
        "\ufeff",
        "\x00",
        "\x07",
        "\x1b[31m",
        "\x1f",
        "\x7f",
    ],
    *["0", "42", "3.14", "1234567890", "٣", "antidisestablishmentarianism", "x" * 60, "supercali" * 8, "aAbB" * 20],
    *["Ã©", "â€™", "schÃ¶n", "\ud83d\ude00", "\udcff", "\ufffd", "</w>", "<|notamark|>"],
]


def random_text(rng: random.Random) -> str:
    parts = [rng.choice(PIECES) for _ in range(rng.randrange(7))]
    parts += [chr(rng.choice([rng.randrange(32, 0x250), rng.randrange(0x370, 0xD7FF)])) for _ in range(3)]
    rng.shuffle(parts)
    return rng.choice(["", " "]).join(parts)


def test_four_thousand_unusual_texts_get_the_same_tokens_as_the_reference(open_clip):
    rng = random.Random(0)
    texts = [*PIECES, "", " ", "a photo of a cat", *(random_text(rng) for _ in range(4000))]
    expected = open_clip.tokenizer.SimpleTokenizer()(texts, context_length=400)
    assert torch.equal(tokenize(texts, context_length=400), expected)


def test_the_vocabulary_is_the_published_file():
    digest = hashlib.sha256(VOCABULARY.read_bytes()).hexdigest()
    assert digest == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    assert digest in VOCABULARY.with_name("NOTICE").read_text()


def test_a_known_sentence_has_the_known_token_ids():
    tokens = tokenize("a diagram")
    assert tokens.dtype == torch.int64 and tokens.shape == (1, 77)
    assert tokens[0, :5].tolist() == [START, 320, 22697, END, 0]
    assert tokenize([""])[0, :3].tolist() == [START, END, 0]
    assert tokenize([]).shape == (0, 77)


def test_a_text_of_77_tokens_fits_and_a_longer_one_is_refused_with_its_count():
    fitting = "cat " * 75
    assert tokenize(fitting)[0, -1] == END
    with pytest.raises(InputError, match=r"'cat cat .*78 tokens.*at most 77"):
        tokenize(["dog", fitting + "cat"])
    with pytest.raises(InputError, match=r"6 tokens.*at most 5"):
        tokenize("a photo of cats", context_length=5)
    with pytest.raises(InputError) as caught:
        tokenize("two\nlines " * 500)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_text_that_spells_a_special_token_is_ordinary_text():
    row = tokenize("a <|endoftext|> b <end_of_text>")[0]
    assert (row == END).sum() == 1


def test_pairs_are_merged_from_the_left():
    assert join_pair(list("aaab"), ("a", "a")) == ["aa", "a", "b"]


def test_importing_the_registry_loads_neither_torch_nor_the_vocabulary():
    code = "import sys; from mlclip.clip import registry; assert not {'torch', 'ftfy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "from mlclip.clip import tokenizer; assert tokenizer._vocabulary.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True)
