"""Compound prompts: what a class looks like beside every other class. This goes beyond both papers.

The prompt "a and b" is closer to a photo of both than either name alone. The embedding of a pair is split into a common part, a part of
its first and a part of its second name (an analysis of variance with two equal factors). The part of a name is what all its pairs share.
It is made as long as the name's own part, and the class embedding is the mean of both. There are K·(K−1)/2 more prompts.

Pure functions of tensors. Letters: K names, P = K·(K−1)/2 pairs, D the joint embedding.
"""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor


def pairs_of(names: int) -> list[tuple[int, int]]:
    """All pairs of K `names`, by their numbers.

    >>> pairs_of(3)
    [(0, 1), (0, 2), (1, 2)]
    """
    return list(combinations(range(names), 2))


def main_effects(pairs: Tensor) -> Tensor:
    """The part of each name (K, D) in the embeddings (P, D) of all pairs, in the order of `pairs_of`. Their sum is 0; K ≥ 3.

    If each pair is a common vector plus one of each name, and those of the names have the sum 0, they are found exactly.

    >>> main_effects(torch.tensor([[5.0], [6.0], [4.0]]))  # common 5; names 1, -1, 0 ... pairs (0,1), (0,2), (1,2)
    tensor([[ 1.],
            [-1.],
            [ 0.]])
    """
    names = round((1 + (1 + 8 * len(pairs)) ** 0.5) / 2)
    first, second = torch.tensor(pairs_of(names)).unbind(1)
    centred = pairs - pairs.mean(0)
    sums = torch.zeros(names, pairs.shape[1]).index_add(0, first, centred).index_add(0, second, centred)
    return sums / (names - 2)


def with_pairs(single: Tensor, pairs: Tensor) -> Tensor:
    """Embeddings of K names (K, D) and of their pairs (P, D), all L2-normalised -> class embeddings (K, D), L2-normalised.

    Two names have only one pair, which says nothing about either: they stay as they are.
    """
    if len(single) < 3:
        return single
    common = single.mean(0)
    own, shared = single - common, main_effects(pairs)
    shared = shared * own.norm(dim=-1).mean() / shared.norm(dim=-1).mean().clamp(min=1e-9)
    return F.normalize(common + (own + shared) / 2, dim=-1)
