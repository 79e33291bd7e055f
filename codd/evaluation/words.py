"""Words that generated text invents."""

import re
from collections.abc import Collection, Iterator, Sequence

import torch

from codd.evaluation.statistics import Estimate, ratio

_LETTERS = re.compile(r"[^\W\d_]+")


def words(text: str) -> Iterator[str]:
    """Maximal runs of letters, in lower case."""
    return (match.group().casefold() for match in _LETTERS.finditer(text))


def complete_words(text: str) -> Iterator[str]:
    """Words that neither begin nor end where the text is cut."""
    for match in _LETTERS.finditer(text):
        if match.start() > 0 and match.end() < len(text):
            yield match.group().casefold()


def unknown_words(texts: Sequence[str], known: Collection[str]) -> Estimate:
    """The share of complete words that are not known; NaN when there is none.

    Args:
        texts: One text a window.
        known: Words as `words` gives them, best a set.
    """
    found = [list(complete_words(text)) for text in texts]
    unknown = torch.tensor([sum(word not in known for word in row) for row in found])
    total = torch.tensor([len(row) for row in found])
    return ratio(unknown, total)
