"""A batch whose windows have distributions of different circuits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codd.coupling.conditioner import TokenConditioner
from codd.coupling.distribution import TokenDistribution
from codd.coupling.window import describe
from codd.errors import CouplingError


@dataclass(frozen=True, eq=False)
class RowwiseDistribution:
    """Distributions of groups of windows as one of all windows.

    Args:
        rows: For each group (n,) int64, which windows of the batch are its, in its order; together
            every window once.
        parts: The groups' distributions.

    Raises:
        CouplingError: If the rows are not each window once, or windows differ in their sizes.
    """

    rows: tuple[Tensor, ...]
    parts: tuple[TokenDistribution, ...]

    def __post_init__(self) -> None:
        every = torch.cat(self.rows).sort().values.tolist()
        counts = [part.batch_size for part in self.parts]
        if every != list(range(sum(counts))) or counts != [len(own) for own in self.rows]:
            raise CouplingError(f"rows must name each of {sum(counts)} windows once; found {every}")
        sizes = {(part.length, part.num_categories) for part in self.parts}
        if len(sizes) > 1:
            raise CouplingError(f"windows of one batch must have one size; found {sorted(sizes)}")

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.observed, self.num_categories)

    @property
    def batch_size(self) -> int:
        """Number of windows B."""
        return sum(map(len, self.rows))

    @property
    def length(self) -> int:
        """Tokens in a window W."""
        return self.parts[0].length

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return self.parts[0].num_categories

    @property
    def values(self) -> Tensor:
        """(B, W) tokens; arbitrary where masked."""
        return self.joined(lambda part, _: part.values)

    @property
    def observed(self) -> Tensor:
        """(B, W) bool."""
        return self.joined(lambda part, _: part.observed)

    @property
    def log_partition(self) -> Tensor:
        """(B,) log Z."""
        return self.joined(lambda part, _: part.log_partition)

    @property
    def omitted_mass(self) -> Tensor:
        """(B,) bound on the probability of worlds with a token that is not listed."""
        return self.joined(lambda part, _: part.omitted_mass)

    @property
    def marginal_error(self) -> Tensor:
        """(B,) largest total variation between a masked token's marginal and its target."""
        return self.joined(lambda part, _: part.marginal_error)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability of the masked tokens of (B, W) given the visible ones."""
        return self.joined(lambda part, rows: part.log_prob(tokens[rows]))

    def marginals(self) -> Tensor:
        """(B, W, V) exact single-token posteriors; one-hot where observed."""
        return self.joined(lambda part, _: part.marginals())

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) exact joint samples; observed tokens are kept."""
        return self.joined(
            lambda part, _: part.sample(num_samples, temperature=temperature, generator=generator)
        )

    def mutual_information(self) -> Tensor:
        """(B, W, W) mutual information of every pair of tokens, in nats."""
        return self.joined(lambda part, _: part.mutual_information())

    def condition(self, tokens: Tensor, observed: Tensor) -> RowwiseDistribution:
        """The same distribution given more tokens."""
        parts = zip(self.rows, self.parts, strict=True)
        conditioned = tuple(part.condition(tokens[own], observed[own]) for own, part in parts)
        return RowwiseDistribution(self.rows, conditioned)

    def conditioner(self) -> TokenConditioner:
        """The same distribution, to fix tokens one by one; it stays as it is."""
        return _RowwiseConditioner(self.rows, [part.conditioner() for part in self.parts])

    def joined(self, ask: Callable[[TokenDistribution, Tensor], Tensor]) -> Tensor:
        """(B, ...) what the parts answer, in the order of the windows.

        Args:
            ask: Given a part and the windows (n,) that are its; answers (n, ...).
        """
        parts = zip(self.parts, self.rows, strict=True)
        return _in_order(self.rows, [ask(part, rows) for part, rows in parts])


class _RowwiseConditioner:
    """See `TokenConditioner`."""

    def __init__(self, rows: Sequence[Tensor], parts: Sequence[TokenConditioner]) -> None:
        self._rows, self._parts = rows, parts

    def fix(self, positions: Tensor, tokens: Tensor, rows: Tensor) -> None:
        for own, part in zip(self._rows, self._parts, strict=True):
            part.fix(positions[own], tokens[own], rows[own])

    def marginals(self, wanted: Tensor) -> Tensor:
        parts = zip(self._rows, self._parts, strict=True)
        return _in_order(self._rows, [part.marginals(wanted[own]) for own, part in parts])

    def marginal(self, positions: Tensor, rows: Tensor) -> Tensor:
        parts = zip(self._rows, self._parts, strict=True)
        found = [part.marginal(positions[own], rows[own]) for own, part in parts]
        return _in_order(self._rows, found)


def _in_order(rows: Sequence[Tensor], found: Sequence[Tensor]) -> Tensor:
    """What groups of windows answered, in the order of the windows."""
    return torch.cat(list(found))[torch.cat(list(rows)).argsort()]
