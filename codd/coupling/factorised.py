"""The denoiser's own output as a distribution: no circuit, independent tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from codd.coupling.conditioner import Reconditioner, TokenConditioner
from codd.coupling.targets import Listing
from codd.coupling.window import (
    check_shapes,
    check_tokens,
    describe,
    free_sum,
    skipped,
    taken,
)
from codd.errors import CouplingError


@dataclass(frozen=True, eq=False)
class FactorisedDistribution:
    """The denoiser's own output: independent tokens.

    Args:
        log_probs: (B, W, V) normalised log-probabilities; with `listing` (B, W, J), which are
            normalised here.
        values: (B, W) tokens.
        observed: (B, W) bool.
        valid: (B, W) bool, False at padding, which is no token at all; None = all valid.
        listing: The tokens that `log_probs` speaks of; None = all.
        vocabulary_size: V; with `listing` only.

    Raises:
        CouplingError: If shapes do not fit, lists come without the size of the vocabulary, or a
            log-probability of a masked token is NaN or infinite.

    Examples:
        New York or San Diego, each word for itself: half of what is drawn is no city.

        >>> unsure = torch.full((1, 2, 2), 0.5).log()
        >>> hidden = torch.zeros(1, 2, dtype=torch.bool)
        >>> alone = codd.FactorisedDistribution(unsure, hidden.long(), hidden)
        >>> alone.log_prob(torch.tensor([[0, 1]])).exp()  # New Diego
        tensor([0.2500])
        >>> alone.mutual_information()[0].round(decimals=4)  # entropies alone
        tensor([[0.6931, 0.0000],
                [0.0000, 0.6931]])
    """

    log_probs: Tensor
    values: Tensor
    observed: Tensor
    valid: Tensor | None = None
    listing: Listing | None = field(default=None, kw_only=True)
    vocabulary_size: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.listing is not None and self.vocabulary_size < 1:
            raise CouplingError(
                f"vocabulary_size must be at least 1 with lists; found {self.vocabulary_size}"
            )
        window = (self.values, self.observed, self.valid)
        check_shapes(self.log_probs, *window, self.listing)
        check_tokens(*window, self.num_categories, self.log_probs.detach())
        if self.listing is not None:
            object.__setattr__(self, "log_probs", self.log_probs.log_softmax(-1))

    def __repr__(self) -> str:
        return describe(type(self).__name__, self.observed, self.num_categories)

    @property
    def batch_size(self) -> int:
        """Number of windows B."""
        return self.log_probs.shape[0]

    @property
    def length(self) -> int:
        """Tokens in a window W."""
        return self.log_probs.shape[1]

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return self.log_probs.shape[-1] if self.listing is None else self.vocabulary_size

    @property
    def log_partition(self) -> Tensor:
        """(B,) zeros: the factors are normalised."""
        return self.log_probs.new_zeros(self.batch_size)

    @property
    def omitted_mass(self) -> Tensor:
        """(B,) probability that some masked token is one that is not listed; exact."""
        if self.listing is None:
            return self.log_probs.new_zeros(self.batch_size)
        fixed = skipped(self.observed, self.valid)
        return -torch.expm1(torch.log1p(-self.listing.omitted()).masked_fill(fixed, 0.0).sum(1))

    @property
    def marginal_error(self) -> Tensor:
        """(B,) zeros: the marginals are their targets."""
        return self.log_probs.new_zeros(self.batch_size)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """(B,) log-probability of the masked tokens of (B, W) given the visible ones."""
        each = taken(self.log_probs, tokens, self.listing)
        return free_sum(each, tokens, self.values, self.observed, self.valid)

    def marginals(self) -> Tensor:
        """(B, W, V) the denoiser's probabilities; one-hot where observed."""
        inside = self.values.masked_fill(~self.observed, 0).long()
        one_hot = torch.nn.functional.one_hot(inside, self.num_categories).to(self.log_probs)
        probs = self.log_probs.exp()
        if self.listing is not None:
            probs = self.listing.spread(probs, self.num_categories)
        return torch.where(self.observed[..., None], one_hot, probs)

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, num_samples, W) independent tokens, each tempered; observed ones are kept.

        Raises:
            CouplingError: If there is nothing to draw, or the temperature is negative.
        """
        if num_samples < 1 or not temperature >= 0:
            raise CouplingError(
                "expected num_samples >= 1 and temperature >= 0; found "
                f"{num_samples}, {temperature}"
            )
        logits = self.log_probs[:, None].expand(-1, num_samples, -1, -1)
        if temperature > 0:
            noise = torch.empty(logits.shape).to(logits).exponential_(generator=generator)
            logits = logits / temperature - noise.log()
        drawn = logits.argmax(-1)
        if self.listing is not None:
            listed = self.listing.categories[:, None].expand(logits.shape)
            drawn = listed.gather(3, drawn.unsqueeze(3)).squeeze(3)
        return torch.where(self.observed[:, None], self.values[:, None], drawn)

    def mutual_information(self) -> Tensor:
        """(B, W, W) entropies on the diagonal, zero elsewhere."""
        return torch.diag_embed(torch.special.entr(self.marginals()).sum(-1))

    def condition(self, tokens: Tensor, observed: Tensor) -> FactorisedDistribution:
        """The same distribution given more tokens."""
        return replace(self, values=tokens, observed=observed)

    def conditioner(self) -> TokenConditioner:
        """The same distribution, to fix tokens one by one; it stays as it is."""
        return Reconditioner(self)
