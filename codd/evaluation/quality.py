"""What judges say of generated text: its likelihood, its variety, the words that are none."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from codd.evaluation.ngram import NGramJudge, ngram_distance, ngram_surprises
from codd.evaluation.statistics import UNDEFINED, Estimate, mean
from codd.evaluation.words import unknown_words
from codd.vocabulary import Vocabulary


@dataclass(frozen=True)
class Judges:
    """What judges generated text.

    Attributes:
        ngram: Scores tokens.
        vocabulary: Turns tokens into text.
        known_words: Words of the training text, as `codd.evaluation.words.words` gives them.
    """

    ngram: NGramJudge
    vocabulary: Vocabulary
    known_words: Collection[str]


@dataclass(frozen=True, eq=False)
class TextQuality:
    """What the judges say of a set of windows.

    Attributes:
        scores: (N,) mean judge log-probability per token of each window, in nats.
        surprises: (N,) mean of -log(frequency among all windows) of each window's 3-grams, nats.
        unknown_words: Share of complete words that the training text does not know.
        distance: Jensen-Shannon distance of the 3-grams from those of the training text.
    """

    scores: Tensor = field(repr=False)
    surprises: Tensor = field(repr=False)
    unknown_words: Estimate
    distance: Estimate = UNDEFINED

    @property
    def entropy(self) -> Estimate:
        """Of the 3-grams in all windows, in nats."""
        return mean(self.surprises)

    @property
    def score(self) -> Estimate:
        """Mean judge log-probability per token, in nats."""
        return mean(self.scores)

    @property
    def perplexity(self) -> Estimate:
        """The judge's perplexity per token, exp(-score)."""
        score = self.score
        value = math.exp(-score.value)
        return Estimate(value, value * score.standard_error)


def judge(completions: Tensor, prompts: Tensor, judges: Judges) -> TextQuality:
    """What the judges say of (N, block) completions of (N, P) prompts."""
    texts = [judges.vocabulary.decode(row) for row in completions.cpu()]
    return TextQuality(
        scores=judges.ngram.log_prob(completions, prompts).mean(dim=1),
        surprises=ngram_surprises(completions),
        unknown_words=unknown_words(texts, judges.known_words),
        distance=ngram_distance(completions, judges.ngram, min(3, judges.ngram.order)),
    )


def quality_json(quality: TextQuality) -> dict[str, object]:
    """The figures of a quality, for `json_ready`."""
    return {
        "score": quality.score,
        "perplexity": quality.perplexity,
        "entropy": quality.entropy,
        "unknown_words": quality.unknown_words,
        "distance": quality.distance,
    }
