"""An n-gram model that judges generated tokens; entropy and distance of generated n-grams.

The judge interpolates all orders with Witten-Bell weights (Witten & Bell 1991; Chen & Goodman 1998,
section 2.6): a history h seen c(h) times with t(h) different continuations gives

    p(w | h) = (c(h, w) + t(h) p(w | h')) / (c(h) + t(h)),

where h' leaves out the earliest token, and below the empty history stands the uniform distribution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codd.errors import EvaluationError
from codd.evaluation.statistics import Estimate, mean, standard_error

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CountTable:
    """Counts of all n-grams of one order; a token row is one number in base V.

    Attributes:
        grams: Sorted keys of the n-grams seen.
        gram_counts: How often each was seen.
        histories: Sorted keys of their first n - 1 tokens.
        history_counts: How often each was seen with a continuation.
        continuations: Number of different continuations of each.
    """

    grams: Integers
    gram_counts: Integers
    histories: Integers
    history_counts: Integers
    continuations: Integers

    @classmethod
    def from_keys(cls, keys: Integers, num_categories: int) -> CountTable:
        """Counts the n-grams of a text.

        Args:
            keys: (N,) key of the n-gram that ends at each place.
            num_categories: V.
        """
        grams, gram_counts = np.unique(keys, return_counts=True)
        histories, first = np.unique(grams // num_categories, return_index=True)
        return cls(
            grams=grams,
            gram_counts=gram_counts,
            histories=histories,
            history_counts=np.add.reduceat(gram_counts, first),
            continuations=np.diff(np.append(first, len(grams))),
        )

    def interpolate(self, keys: Integers, num_categories: int, lower: Floats) -> Floats:
        """Refines the next lower order's probabilities; unseen histories leave them as they are.

        Args:
            keys: (N,) n-grams to judge.
            num_categories: V.
            lower: (N,) probabilities under the next lower order.

        Returns:
            (N,) probabilities of the n-grams' last tokens given the others.
        """
        history = keys // num_categories
        seen = _look_up(self.histories, self.history_counts, history)
        novel = _look_up(self.histories, self.continuations, history)
        count = _look_up(self.grams, self.gram_counts, keys)
        known = seen > 0
        refined: Floats = (count + novel * lower) / np.where(known, seen + novel, 1)
        return np.where(known, refined, lower)


@dataclass(frozen=True, eq=False)
class NGramJudge:
    """An interpolated Witten-Bell n-gram model; `fit` makes one.

    Attributes:
        num_categories: V.
        tables: Counts of order 1, 2, ..., up to the judge's order.
    """

    num_categories: int
    tables: tuple[CountTable, ...]

    @classmethod
    def fit(cls, tokens: Tensor, *, num_categories: int, order: int = 6) -> NGramJudge:
        """Counts all n-grams of a text.

        Args:
            tokens: (N,) int64 ids in [0, V).
            num_categories: V.
            order: n; a token is judged by the n - 1 before it.

        Raises:
            EvaluationError: If ids are out of range, or the text is shorter than n, or n is below
                1 or so large that n-grams do not fit 63 bits.
        """
        if order < 1 or num_categories < 1 or num_categories**order >= 2**63:
            raise EvaluationError(
                f"order: expected at least 1 and V ** order below 2 ** 63, found order {order} "
                f"with V = {num_categories}"
            )
        if tokens.dim() != 1 or len(tokens) < order:
            raise EvaluationError(
                f"tokens: expected (N,) with at least {order} ids, found shape "
                f"{tuple(tokens.shape)}"
            )
        ids = _checked(tokens, num_categories)
        keys = _keys_by_order(ids[None], num_categories, order)
        tables = tuple(
            CountTable.from_keys(key[0, n - 1 :], num_categories) for n, key in enumerate(keys, 1)
        )
        return cls(num_categories, tables)

    @property
    def order(self) -> int:
        """n; a token is judged by the n - 1 before it."""
        return len(self.tables)

    def log_prob(self, sequences: Tensor, context: Tensor | None = None) -> Tensor:
        """Judges every token by those before it.

        Tokens with fewer than n - 1 before them are judged by the lower order that fits.

        Args:
            sequences: (N, L) int64 ids in [0, V).
            context: (N, C) ids right before the sequences; None when there are none.

        Returns:
            (N, L) float64 natural logarithms of probabilities.

        Raises:
            EvaluationError: If shapes or ids are wrong.
        """
        length = sequences.shape[-1]
        if context is not None:
            if context.dim() != 2 or len(context) != len(sequences):
                raise EvaluationError(
                    f"context: expected ({len(sequences)}, C), found {tuple(context.shape)}"
                )
            before = context[:, max(0, context.shape[1] - self.order + 1) :]
            sequences = torch.cat((before, sequences), dim=1)
        ids = _checked(sequences, self.num_categories)
        probability = np.full(ids.shape, 1.0 / self.num_categories)
        keys = _keys_by_order(ids, self.num_categories, self.order)
        for n, (table, key) in enumerate(zip(self.tables, keys, strict=True), 1):
            known = (slice(None), slice(n - 1, None))
            probability[known] = table.interpolate(
                key[known], self.num_categories, probability[known]
            )
        return torch.from_numpy(np.log(probability[:, ids.shape[1] - length :]))


def ngram_entropy(sequences: Tensor, n: int = 3) -> Estimate:
    """The entropy of the n-grams in a set of windows, in nats.

    It grows with the number of windows, so only sets of equal size compare. The standard error is
    that of the windows' mean surprise (delta method).

    Args:
        sequences: (N, L) int64 ids.
        n: Tokens in a row.

    Raises:
        EvaluationError: If a window is shorter than n.
    """
    return mean(ngram_surprises(sequences, n))


def ngram_surprises(sequences: Tensor, n: int = 3) -> Tensor:
    """(N,) mean surprise of each window's n-grams by their frequency in all windows, in nats.

    Args:
        sequences: (N, L) int64 ids.
        n: Tokens in a row.

    Raises:
        EvaluationError: If a window is shorter than n.
    """
    if sequences.dim() != 2 or not 1 <= n <= sequences.shape[1]:
        raise EvaluationError(
            f"sequences: expected (N, L) with L at least n = {n}, found {tuple(sequences.shape)}"
        )
    grams = sequences.cpu().unfold(1, n, 1)  # (N, L - n + 1, n)
    _, kind, counts = torch.unique(
        grams.reshape(-1, n), dim=0, return_inverse=True, return_counts=True
    )
    surprise: Tensor = -(counts[kind].double() / len(kind)).log().view(grams.shape[:2])
    return surprise.mean(dim=1)


def ngram_distance(sequences: Tensor, judge: NGramJudge, n: int = 3) -> Estimate:
    """The Jensen-Shannon distance between the n-grams of windows and of the judge's text.

    The square root of the divergence in bits (Endres & Schindelin 2003): 0 for equal frequencies,
    1 where no n-gram is common. A small set of windows is farther from any text than a large one,
    so only sets of equal size compare; the true continuations say how near a set can be. The
    standard error is that of the windows (delta method), the judge's text taken as given.

    Args:
        sequences: (N, L) int64 ids in [0, V).
        judge: Has counted the text's n-grams.
        n: Tokens in a row, at most the judge's order.

    Raises:
        EvaluationError: If n does not fit the windows and the judge, or ids are out of range.
    """
    if sequences.dim() != 2 or not 1 <= n <= min(sequences.shape[1], judge.order):
        raise EvaluationError(
            f"n: expected 1 to the judge's order {judge.order} and at most the length of the "
            f"windows, found {n} for windows {tuple(sequences.shape)}"
        )
    ids, size = _checked(sequences, judge.num_categories), judge.num_categories
    *_, keys = _keys_by_order(ids, size, n)
    grams, kind, counts = np.unique(keys[:, n - 1 :], return_inverse=True, return_counts=True)
    table = judge.tables[n - 1]
    own = counts / counts.sum()
    other = _look_up(table.grams, table.gram_counts, grams) / table.gram_counts.sum()
    middle = (own + other) / 2
    pull = np.log2(own / middle) / 2  # what a window adds by each of its n-grams
    known = np.where(other > 0, other, 1.0)
    theirs = other * np.log2(known / middle)
    # An n-gram of the text that no window has is twice as frequent there as in the middle: 1 bit.
    divergence = float((own * pull).sum() + (theirs.sum() + 1 - other.sum()) / 2)
    distance = max(divergence, 0.0) ** 0.5
    windows = torch.from_numpy(pull[kind].reshape(len(ids), -1).mean(axis=1))
    scale = 2 * distance if distance > 0 else float("nan")
    return Estimate(distance, standard_error(windows) / scale)


def _checked(tokens: Tensor, num_categories: int) -> Integers:
    ids: Integers = tokens.detach().cpu().numpy().astype(np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= num_categories):
        raise EvaluationError(
            f"tokens: expected ids 0 to {num_categories - 1}, found {ids.min()} to {ids.max()}"
        )
    return ids


def _keys_by_order(ids: Integers, num_categories: int, order: int) -> Iterator[Integers]:
    """Keys (N, L) of the n-grams ending at each place, order by order; the first n - 1 are void."""
    keys, power = ids, 1
    yield keys
    for n in range(2, order + 1):
        power *= num_categories
        longer = keys.copy()
        longer[:, n - 1 :] += ids[:, : max(0, ids.shape[1] - n + 1)] * power
        keys = longer
        yield keys


def _look_up(keys: Integers, values: Integers, wanted: Integers) -> Integers:
    """The values of the wanted keys, 0 where a key is not among the sorted ones."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
