"""Exact stand-ins for decoding: a model whose joint distribution is known in closed form.

The joint over L tokens is a mixture of products, so marginals, conditionals and samples have
formulas, and small cases are enumerated world by world in numpy.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from codd.coupling.conditioner import Reconditioner
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError

Array = np.ndarray


@dataclass(frozen=True)
class MixtureDistribution:
    """A `TokenDistribution`: weights (B, K) times products of categoricals (B, K, W, V)."""

    weights: Tensor
    components: Tensor
    values: Tensor
    observed: Tensor

    @property
    def batch_size(self) -> int:
        return self.values.shape[0]

    @property
    def length(self) -> int:
        return self.values.shape[1]

    @property
    def num_categories(self) -> int:
        return self.components.shape[-1]

    @property
    def log_partition(self) -> Tensor:
        return self._joint_with_visible().sum(dim=1).log()

    def log_prob(self, tokens: Tensor) -> Tensor:
        agree = ((tokens == self.values) | ~self.observed).all(dim=1)
        likely = self._of(tokens).prod(dim=2)  # (B, K)
        log_prob = (self.weights * likely).sum(dim=1).log() - self.log_partition
        return torch.where(agree, log_prob, -torch.inf)

    def marginals(self) -> Tensor:
        free = torch.einsum("bk,bkwv->bwv", self._posterior(), self.components)
        fixed = torch.nn.functional.one_hot(self._safe(self.values), self.num_categories)
        return torch.where(self.observed.unsqueeze(-1), fixed.to(free.dtype), free)

    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        latent = torch.multinomial(self._posterior(), num_samples, True, generator=generator)
        rows = torch.arange(self.batch_size)[:, None]
        conditional = self.components[rows, latent]  # (B, S, W, V)
        if temperature == 0.0:
            drawn = conditional.argmax(dim=-1)
        else:
            powered = conditional ** (1.0 / temperature)
            drawn = torch.multinomial(powered.flatten(0, 2), 1, generator=generator)
            drawn = drawn.view(conditional.shape[:3])
        return torch.where(self.observed[:, None], self.values[:, None], drawn)

    def condition(self, tokens: Tensor, observed: Tensor) -> MixtureDistribution:
        assert bool((observed | ~self.observed).all()), "observed must include the earlier ones"
        return replace(self, values=tokens, observed=observed)

    def conditioner(self) -> Reconditioner:
        return Reconditioner(self)

    def _safe(self, tokens: Tensor) -> Tensor:
        return tokens.clamp(0, self.num_categories - 1)

    def _of(self, tokens: Tensor) -> Tensor:
        index = self._safe(tokens)[:, None, :, None].expand(-1, self.components.shape[1], -1, 1)
        return self.components.gather(3, index).squeeze(3)  # (B, K, W)

    def _joint_with_visible(self) -> Tensor:
        visible = self._of(self.values).masked_fill(~self.observed[:, None], 1.0)
        return self.weights * visible.prod(dim=2)  # (B, K)

    def _posterior(self) -> Tensor:
        joint = self._joint_with_visible()
        return joint / joint.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Call:
    """One `distribution` asked for: how many rows, which coupling."""

    rows: int
    coupling: str | None


@dataclass(frozen=True)
class MixtureModel:
    """A `Decodable` that knows the joint: weights (K,) times components (K, L, V).

    Its denoiser gives the exact single-token conditionals. "factorised" multiplies them, any
    other coupling is the exact conditional joint of the window given all visible tokens.
    """

    weights: Tensor
    components: Tensor
    window: int
    block: int
    calls: list[Call] = field(default_factory=list)

    @property
    def mask_id(self) -> int:
        return self.num_categories

    @property
    def num_categories(self) -> int:
        return self.components.shape[-1]

    @property
    def max_length(self) -> int:
        return self.components.shape[1]

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        assert attention_mask is None, "positions are absolute: no padding"
        logits = self._joint(tokens).marginals().log()
        return DenoiserOutput(logits=logits, hidden=torch.zeros(*tokens.shape, 1))

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | None = None,
        valid: Tensor | None = None,
    ) -> MixtureDistribution:
        assert valid is None
        self.calls.append(Call(len(tokens), coupling))
        rows = torch.arange(len(tokens))[:, None]
        index = start[:, None] + torch.arange(self.window)
        values = tokens[rows, index]
        observed = values != self.mask_id
        if coupling == "factorised":
            single = output.logits.softmax(dim=-1)[rows, index]
            ones = torch.ones(len(tokens), 1, dtype=single.dtype)
            return MixtureDistribution(ones, single[:, None], values, observed)
        whole = self._joint(tokens)
        outside = whole.observed.clone().scatter_(1, index, False)
        posterior = replace(whole, observed=outside)._posterior()
        kinds = torch.arange(len(self.weights))[None, :, None]
        components = whole.components[rows[:, None], kinds, index[:, None]]
        return MixtureDistribution(posterior, components, values, observed)

    def _joint(self, tokens: Tensor) -> MixtureDistribution:
        batch, length = tokens.shape
        return MixtureDistribution(
            self.weights.expand(batch, -1),
            self.components[:, :length].expand(batch, -1, -1, -1),
            tokens,
            tokens != self.mask_id,
        )


def mixture_model(
    length: int, num_categories: int, *, window: int, block: int, components: int = 3, seed: int = 0
) -> MixtureModel:
    """A random joint in which tokens depend strongly on one another."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(components, 4.0))
    tables = rng.dirichlet(np.full(num_categories, 0.5), size=(components, length)) + 0.02
    tables /= tables.sum(axis=-1, keepdims=True)
    return MixtureModel(torch.tensor(weights), torch.tensor(tables), window, block)


def joint_table(model: MixtureModel) -> Array:
    """(V,) * L probabilities of all worlds, by enumeration."""
    weights, tables = model.weights.numpy(), model.components.numpy()
    length, size = tables.shape[1:]
    joint = np.zeros((size,) * length)
    for world in itertools.product(range(size), repeat=length):
        for weight, table in zip(weights, tables, strict=True):
            joint[world] += weight * np.prod([table[i, v] for i, v in enumerate(world)])
    return joint


def conditional(joint: Array, known: dict[int, int], position: int) -> Array:
    """(V,) p(token at position | the known ones), by slicing and summing the joint."""
    index = tuple(known.get(i, slice(None)) for i in range(joint.ndim))
    left = [i for i in range(joint.ndim) if i not in known]
    other = tuple(axis for axis, i in enumerate(left) if i != position)
    table = joint[index].sum(axis=other)
    return table / table.sum()


def assert_follows(samples: Tensor, expected: Array, alpha: float = 1e-4) -> None:
    """Chi-square test that rows of samples (N, L) have the expected table of probabilities."""
    p_value = chi_square(samples, expected)
    assert p_value > alpha, f"samples do not follow the table: p = {p_value:.2e}"


def chi_square(samples: Tensor, expected: Array) -> float:
    """The p-value of that test; worlds expected fewer than five times are put together."""
    keys = np.ravel_multi_index(tuple(samples.numpy().T), expected.shape)
    counts = np.bincount(keys, minlength=expected.size).astype(float)
    wanted = expected.ravel() * len(samples)
    assert counts[wanted == 0].sum() == 0, "a world of probability zero was drawn"
    rare = wanted < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    kept = wanted > 0
    return float(chisquare(counts[kept], wanted[kept]).pvalue)


def empty_prompts(count: int) -> list[Tensor]:
    """Rows without a prompt."""
    return [torch.empty(0, dtype=torch.int64)] * count


@dataclass(frozen=True)
class CountingModel:
    """A `Decodable` that counts upwards modulo V from the last visible token.

    Its rule knows no absolute positions, so it works under padding and sliding, and it checks
    that padding is hidden from the denoiser and handed on as not valid.
    """

    num_categories: int
    max_length: int
    window: int
    block: int
    lengths: list[int] = field(default_factory=list)

    @property
    def mask_id(self) -> int:
        return self.num_categories

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        assert tokens.shape[1] <= self.max_length
        self.lengths.append(tokens.shape[1])
        visible = tokens != self.mask_id
        if attention_mask is not None:
            assert bool((~visible[~attention_mask]).all()), "padding holds the mask id"
        positions = torch.arange(tokens.shape[1])
        last = torch.where(visible, positions, -1).cummax(dim=1).values  # (B, L)
        base = tokens.gather(1, last.clamp(min=0))
        wanted = (base + positions - last) % self.num_categories
        logits = torch.nn.functional.one_hot(wanted, self.num_categories) * 100.0
        if attention_mask is not None:
            logits[~attention_mask] = torch.nan  # outputs at padding mean nothing
        return DenoiserOutput(logits=logits, hidden=torch.zeros(*tokens.shape, 1))

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | None = None,
        valid: Tensor | None = None,
    ) -> MixtureDistribution:
        logits = output.logits
        if valid is not None:
            assert bool((tokens[~valid] == self.mask_id).all())
            logits = logits.masked_fill(~valid.unsqueeze(-1), 0.0)
        rows = torch.arange(len(tokens))[:, None]
        index = start[:, None] + torch.arange(self.window)
        single = logits.softmax(dim=-1)[rows, index]
        values = tokens[rows, index]
        return MixtureDistribution(
            torch.ones(len(tokens), 1), single[:, None], values, values != self.mask_id
        )


def rows(*lists: Sequence[int]) -> list[Tensor]:
    """Ragged rows of ids."""
    return [torch.tensor(row, dtype=torch.int64) for row in lists]


def refused(message: str) -> AbstractContextManager[object]:
    """What is to be refused with this message, the whole of it."""
    return pytest.raises(DecodingError, match=f"^{re.escape(message)}$")
