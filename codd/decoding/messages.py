"""How likely each state of an automaton is, given tokens that are fixed and tokens that are not.

Messages along the chain of states: a fixed token lets its own moves through, a masked one each with
the denoiser's probability of the tokens that lead there, independent of all others. The weight of a
state before a token is then the probability that the tokens before it lead there, and the weight
of a state after one the probability that what follows is accepted from there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codd.decoding.automata import Unrolled


@dataclass(frozen=True, eq=False)
class _Table:
    """The moves at one token: (M,) states before, sets of tokens, states after."""

    sources: Tensor
    supports: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)
class AutomatonMessages:
    """Messages of one automaton on one device.

    Attributes:
        unrolled: The automaton.
        supports: For each set of tokens its (n,) tokens.
        allowed: (D, V) bool, whether a set has a token.
        tables: For each place its moves.
    """

    unrolled: Unrolled
    supports: tuple[Tensor, ...]
    allowed: Tensor
    tables: tuple[_Table, ...]

    @classmethod
    def of(cls, unrolled: Unrolled, device: torch.device) -> AutomatonMessages:
        """Lays out an automaton's moves."""
        supports = tuple(torch.tensor(own, device=device) for own in unrolled.supports)
        size = len(supports), unrolled.num_categories
        allowed = torch.zeros(size, dtype=torch.bool, device=device)
        for row, own in zip(allowed, supports, strict=True):
            row[own] = True
        tables = {
            kind: _Table(*torch.tensor(unrolled.moves[kind], device=device).unbind(1))
            for kind in set(unrolled.kinds)
        }
        return cls(unrolled, supports, allowed, tuple(tables[kind] for kind in unrolled.kinds))

    def scores(self, tokens: Tensor, logits: Tensor, free: Tensor) -> Tensor:
        """(B, n, D) log-probability in float64 that each token is of each set.

        Args:
            tokens: (B, n) new tokens; fixed where not free.
            logits: (B, n, V) of the denoiser, up to a constant.
            free: (B, n) bool, True where any token may stand.
        """
        fixed = self.allowed[:, tokens.clamp(0, self.allowed.shape[1] - 1)].movedim(0, -1)
        found = fixed.double().log()
        log_probs = logits[free].to(torch.promote_types(logits.dtype, torch.float32))
        log_probs = log_probs.log_softmax(-1)
        each = [log_probs.index_select(1, own).logsumexp(1) for own in self.supports]
        found[free] = torch.stack(each, dim=1).double()
        return found

    def before(self, scores: Tensor, places: Tensor) -> Tensor:
        """(B, S) log-weights of the states before places (B,), the largest of a row 0."""
        return _at(self._forward(scores, int(places.max())), places)

    def after(self, scores: Tensor, places: Tensor) -> Tensor:
        """(B, S) log-weights of the states before places (B,) by what is accepted from there.

        What lies beyond the n tokens of the scores only has to be possible, as it is from every
        state.
        """
        backward = self._backward(scores, int(places.min()))
        return _at(backward, scores.shape[1] - places)

    def posterior(self, scores: Tensor, log_probs: Tensor) -> Tensor:
        """(B, n, V) log-probability of each token given that all together are accepted.

        Args:
            scores: (B, n, D) of these tokens.
            log_probs: (B, n, V) of each by itself.
        """
        length, count = scores.shape[1], len(self.supports)
        before, after = self._forward(scores, length), self._backward(scores, 0)[::-1]
        of_sets = [
            _gathered(
                before[i][:, table.sources] + after[i + 1][:, table.targets], table.supports, count
            )
            for i, table in enumerate(self.tables[:length])
        ]
        share = torch.stack(of_sets, dim=1).exp() @ self.allowed.double()  # (B, n, V)
        return (log_probs + share.log().to(log_probs)).log_softmax(-1)

    def _forward(self, scores: Tensor, stop: int) -> list[Tensor]:
        """Messages to the states before each token up to `stop`, from the first."""
        every = [scores.new_zeros(len(scores), 1)]
        for place, table in enumerate(self.tables[:stop]):
            terms = every[-1][:, table.sources] + scores[:, place, table.supports]
            every.append(_gathered(terms, table.targets, self.unrolled.num_states[place + 1]))
        return every

    def _backward(self, scores: Tensor, first: int) -> list[Tensor]:
        """Messages to the states before each token from `first` on, from the last."""
        stop = scores.shape[1]
        every = [scores.new_zeros(len(scores), self.unrolled.num_states[stop])]
        for place in reversed(range(first, stop)):
            table = self.tables[place]
            terms = every[-1][:, table.targets] + scores[:, place, table.supports]
            every.append(_gathered(terms, table.sources, self.unrolled.num_states[place]))
        return every


def _gathered(terms: Tensor, states: Tensor, count: int) -> Tensor:
    """(B, count) log of the sum of the terms (B, M) of each state, the largest of a row 0."""
    index = states.expand_as(terms)
    top = terms.new_full((len(terms), count), -torch.inf).scatter_reduce(1, index, terms, "amax")
    top = top.clamp(min=torch.finfo(terms.dtype).min)  # -inf less itself is none
    total = torch.zeros_like(top).scatter_add(1, index, (terms - top.gather(1, index)).exp())
    found = total.log() + top
    return found - found.amax(1, keepdim=True).clamp(min=torch.finfo(terms.dtype).min)


def _at(messages: list[Tensor], steps: Tensor) -> Tensor:
    """(B, S) of each row the message after so many steps (B,); S is the most states of one."""
    width = max(message.shape[1] for message in messages)
    padded = [
        torch.nn.functional.pad(own, (0, width - own.shape[1]), value=-torch.inf)
        for own in messages
    ]
    rows = torch.arange(len(steps), device=steps.device)
    return torch.stack(padded, dim=1)[rows, steps]
