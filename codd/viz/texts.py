"""Tokens as texts that can be seen: spaces, line ends and single pieces."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from codd.vocabulary import Vocabulary
from pcircuits import viz

HOLE = "■"
"""What stands for a masked token."""


def symbols(vocabulary: Vocabulary) -> list[str]:
    """The text of every category by itself, V texts."""
    return [vocabulary.decode([i]) for i in range(vocabulary.size)]


def token_texts(
    vocabulary: Vocabulary, ids: Tensor | Sequence[int], *, mask: str = HOLE
) -> list[str]:
    """The text of each id by itself, in letters that a common font has.

    Args:
        vocabulary: Ids to text.
        ids: (L,) ids.
        mask: What stands for a masked token.
    """
    listed = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    texts = {
        i: viz.style.letters(vocabulary.decode([i])) for i in set(listed) if i != vocabulary.mask_id
    }
    return [texts.get(i, mask) for i in listed]
