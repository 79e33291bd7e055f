"""Passes over a chain in plain PyTorch, for every device: sums in linear space in float64.

In float64 a product of a shifted exponential and a weight is lost only some 700 nats below the
largest of its sum, so that no total needs a second look; the results have the weights' type.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcircuits.execute.chains import ChainMessages, ChainTables, ChainWindow


class TorchMessages(NamedTuple):
    """Log-messages in float64.

    Attributes:
        leaves: (B, L, K) values of the states' emissions, latent potentials included.
        right: (B, L, K) what the variables after each position say of its state.
        outside: (B, L, K) what all other variables say, latent potentials included.
        log_value: (B,) log of the chain's value.
    """

    leaves: Tensor
    right: Tensor
    outside: Tensor
    log_value: Tensor


class TorchChain:
    """The passes; see `chains.ChainPasses`."""

    def __init__(self, tables: ChainTables) -> None:
        self._dtype = tables.emission.log.dtype
        self._initial = tables.initial.detach().double()
        made = {id(table): table.detach().double() for table in tables.transitions}
        self._transitions = [made[id(table)] for table in tables.transitions]
        self._emission = tables.emission.log.detach()[:, 0].double()

    def messages(self, window: ChainWindow, *, soft: bool = True) -> TorchMessages:
        """See `ChainPasses.messages`."""
        leaves, latent = self._leaves(window, soft), window.latent
        if latent is not None:
            leaves = leaves + latent
        batch, length, units = leaves.shape
        right = [leaves.new_zeros(batch, units)]
        left = [self._initial.expand(batch, units)]
        for t in range(length - 1):
            later = length - 2 - t
            back = self._transitions[later]
            right.append(_log_product(right[-1] + leaves[:, later + 1], back))
            left.append(_log_product(left[-1] + leaves[:, t], self._transitions[t].T))
        after = torch.stack(right[::-1], 1)
        outside = after + torch.stack(left, 1)
        log_value = (outside[:, 0] + leaves[:, 0]).logsumexp(-1)
        return TorchMessages(
            leaves,
            after,
            outside if latent is None else outside + latent,
            log_value.to(self._dtype),
        )

    def leaves(self, window: ChainWindow) -> Tensor:
        """See `ChainPasses.leaves`."""
        return self._leaves(window, soft=True).to(self._dtype)

    def marginals(self, window: ChainWindow, messages: ChainMessages) -> Tensor:
        """See `ChainPasses.marginals`."""
        assert isinstance(messages, TorchMessages)
        through = self._through(messages.outside, window.categories)
        log = through + window.log_potentials - messages.log_value[:, None, None]
        skipped = window.observed if window.missing is None else window.observed | window.missing
        dead = messages.log_value == -torch.inf
        found = log.exp().masked_fill((skipped | dead[:, None])[..., None], 0.0).to(self._dtype)
        return window.with_observed(found)

    def moved(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        target: Tensor,
        size: float,
        largest: float,
    ) -> Tensor:
        """See `ChainPasses.moved`."""
        assert isinstance(messages, TorchMessages)
        total = (messages.outside + self._row_sums()).logsumexp(-1, keepdim=True)
        through = self._through(messages.outside, window.categories)
        prediction = through - total.masked_fill(total == -torch.inf, 0.0)
        ruled_out = target == -torch.inf
        fitted = (target.masked_fill(ruled_out, 0.0) - prediction).clamp(max=largest)
        before = window.log_potentials.masked_fill(ruled_out, 0.0)
        moved = (1 - size) * before + size * fitted
        return moved.masked_fill(ruled_out, -torch.inf).to(self._dtype)

    def sample(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        uniforms: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """See `ChainPasses.sample`."""
        assert isinstance(messages, TorchMessages)
        batch, samples, length, _ = uniforms.shape
        inside = (messages.right + messages.leaves)[:, None]
        state = _invert((self._initial + inside[:, :, 0]).expand(batch, samples, -1), uniforms, 0)
        states = [state]
        for t in range(1, length):
            rows = self._transitions[t - 1][state]
            state = _invert(rows + inside[:, :, t], uniforms, t)
            states.append(state)
        chosen = torch.stack(states, -1)
        group = torch.arange(length, device=chosen.device) % len(self._emission)
        logits = self._emission[group, chosen]
        if window.categories is not None:
            listed, exists = _existing(window.categories, logits.shape[-1])
            logits = logits.gather(3, listed[:, None].expand(-1, samples, -1, -1))
            logits = logits.masked_fill(~exists[:, None], -torch.inf)
        logits = logits + window.log_potentials[:, None]
        picked = _picked(logits, uniforms[..., 1], temperature)
        if window.categories is not None:
            picked = window.categories[:, None].expand(logits.shape).gather(3, picked[..., None])
            picked = picked[..., 0]
        return torch.where(window.observed[:, None], window.values[:, None], picked)

    def _leaves(self, window: ChainWindow, soft: bool) -> Tensor:
        """(B, L, K) values of the emissions."""
        found = self._row_sums().expand(*window.values.shape, -1)
        if soft:
            x = window.log_potentials.double()
            top = x.amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
            e = (x - top).exp()[:, :, None]
            if window.categories is None:
                weights = self._emission.exp()
            else:
                weights = self._listed(window.categories).exp().transpose(2, 3)
            own = (e @ weights.transpose(-1, -2))[:, :, 0].log() + top
            found = own if window.missing is None else own.where(~window.missing[..., None], found)
        values = torch.where(window.observed, window.values, 0)[..., None]
        hard = self._listed(values)[:, :, 0]
        return torch.where(window.observed[..., None], hard, found)

    def _row_sums(self) -> Tensor:
        """(1 or L, K) values of states whose variable is summed out."""
        return self._emission.logsumexp(-1)

    def _listed(self, categories: Tensor) -> Tensor:
        """(B, L, J, K) log-weights of listed categories; -inf for those that do not exist."""
        listed, exists = _existing(categories, self._emission.shape[-1])
        group = torch.arange(categories.shape[1], device=categories.device) % len(self._emission)
        found = self._emission.transpose(1, 2)[group[:, None], listed]
        return found.masked_fill(~exists[..., None], -torch.inf)

    def _through(self, outside: Tensor, categories: Tensor | None) -> Tensor:
        """(B, L, V or J) log of the sum over states of message times table."""
        top = outside.amax(-1, keepdim=True).clamp_min(torch.finfo(outside.dtype).min)
        e = (outside - top).exp()[:, :, None]
        if categories is None:
            return (e @ self._emission.exp())[:, :, 0].log() + top
        return (e @ self._listed(categories).exp().transpose(2, 3))[:, :, 0].log() + top


def _existing(categories: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    exists = categories < limit
    return torch.where(exists, categories, 0), exists


def _log_product(x: Tensor, log: Tensor) -> Tensor:
    """(B, O) log of the sum over k of exp(x[b, k] + log[o, k])."""
    top = x.amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
    return ((x - top).exp() @ log.exp().T).log() + top


def _invert(log: Tensor, uniforms: Tensor, position: int) -> Tensor:
    return _picked(log, uniforms[:, :, position, 0], 1.0)


def _picked(log: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """Index of the last axis at which the cumulative weight first exceeds uniform times total."""
    if temperature == 0:
        return log.argmax(-1)
    x = log / temperature
    p = (x - x.amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)).exp()
    cumulative = p.cumsum(-1)
    reached = (cumulative > uniforms[..., None] * cumulative[..., -1:]) & (p > 0)
    return reached.byte().argmax(-1)
