"""Passes over a chain by kernels: both directions in one launch a step, and nothing waits.

The step is the folded sum of `sums` with two folds: one goes from the last variable to the first by
the transition, the other from the first to the last by its transpose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pcircuits.execute.chains import ChainMessages, ChainTables, ChainWindow
from pcircuits.execute.triton.inputs import from_rows, hard_values, rows_of
from pcircuits.execute.triton.inputs_dense import Leaves, dense_values
from pcircuits.execute.triton.inputs_gradients import potential_gradient, scaled
from pcircuits.execute.triton.inputs_listed import listed_values
from pcircuits.execute.triton.launch import on_device
from pcircuits.execute.triton.sampling import draw_categories, draw_states
from pcircuits.execute.triton.sums import LinearWeights, Sums, log_sum_product
from pcircuits.execute.triton.tables import table_of
from pcircuits.execute.triton.tables_down import moved_potentials


class TritonMessages(NamedTuple):
    """Log-messages in float32, position first.

    Attributes:
        soft: What the forward kernels left for the rows under potentials; None if none counted.
        leaves: (L, B, K) values of the states' emissions, latent potentials included.
        right: (L, B, K) what the variables after each position say of its state.
        outside: (L, B, K) what all other variables say, latent potentials included.
        log_value: (B,) log of the chain's value.
    """

    soft: Leaves | None
    leaves: Tensor
    right: Tensor
    outside: Tensor
    log_value: Tensor


class TritonChain:
    """The passes; see `chains.ChainPasses`.

    Args:
        tables: The chain's log-weights, float32.
        precision: One of `tables.PRECISIONS`; of the emissions. Transitions are never rounded to
            bfloat16.

    Raises:
        BackendError: If the weights are not float32 or the precision is unknown.
    """

    def __init__(self, tables: ChainTables, precision: str) -> None:
        self._log = tables.emission.log.detach()
        self._table = table_of(tables.emission, precision)
        self._initial = tables.initial.detach().contiguous()
        self._precision = "tf32x3" if precision == "bf16" else precision
        distinct = {id(table): table.detach() for table in tables.transitions}
        units = len(self._initial)
        self._transitions = (
            torch.stack(list(distinct.values()))
            if distinct
            else self._initial.new_empty(0, units, units)
        )
        length, single = len(tables.transitions) + 1, len(distinct) == 1
        self._steps: list[LinearWeights] = []
        for t in range(length - 1):
            if single and t:
                self._steps.append(self._steps[0])
                continue
            back, ahead = tables.transitions[length - 2 - t], tables.transitions[t]
            both = torch.stack([back.detach(), ahead.detach().T])[:, None]
            self._steps.append(LinearWeights.of(both))

    def messages(self, window: ChainWindow, *, soft: bool = True) -> TritonMessages:
        """See `ChainPasses.messages`."""
        with on_device(self._log.device):
            kept, leaves = self._leaves(window, soft)
            latent = window.latent
            if latent is not None:
                leaves = leaves + latent.transpose(0, 1)
            leaves = leaves.contiguous()
            right, left = self._both_ways(leaves)
            outside = right + left
            log_value = (outside[0] + leaves[0]).logsumexp(-1)
            if latent is not None:
                outside = outside + latent.transpose(0, 1)
        return TritonMessages(kept, leaves, right, outside, log_value)

    def leaves(self, window: ChainWindow) -> Tensor:
        """See `ChainPasses.leaves`."""
        with on_device(self._log.device):
            return self._leaves(window, soft=True)[1].transpose(0, 1)

    def marginals(self, window: ChainWindow, messages: ChainMessages) -> Tensor:
        """See `ChainPasses.marginals`."""
        assert isinstance(messages, TritonMessages) and messages.soft is not None
        latent = 0.0 if window.latent is None else window.latent.transpose(0, 1)
        log_value = messages.log_value[None, :, None]
        dead = log_value == -torch.inf
        # Latent potentials are in both of the terms and count once.
        states = (
            messages.outside + messages.leaves - latent - log_value.masked_fill(dead, 0)
        ).exp()
        skipped = window.observed if window.missing is None else window.observed | window.missing
        states = states.masked_fill(dead | skipped.T[..., None], 0.0)
        with on_device(self._log.device):
            own = scaled(messages.soft, rows_of(states, self._log.shape))
            rows, categories = self._rows(window)
            found = potential_gradient(self._table, rows, messages.soft, own, categories)
        return window.with_observed(self._batch_first(found))

    def moved(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        target: Tensor,
        size: float,
        largest: float,
    ) -> Tensor:
        """See `ChainPasses.moved`."""
        assert isinstance(messages, TritonMessages)
        rows, categories = self._rows(window)
        goals = rows_of(target.transpose(0, 1), self._log.shape)
        outside = rows_of(messages.outside, self._log.shape).contiguous()
        with on_device(self._log.device):
            found = moved_potentials(self._table, outside, rows, goals, size, largest, categories)
        return self._batch_first(found)

    def sample(
        self,
        window: ChainWindow,
        messages: ChainMessages,
        uniforms: Tensor,
        temperature: float = 1.0,
    ) -> Tensor:
        """See `ChainPasses.sample`."""
        assert isinstance(messages, TritonMessages)
        uniforms = uniforms.float().contiguous()
        inside = messages.right + messages.leaves
        listed = None if window.categories is None else window.categories.contiguous()
        with on_device(self._log.device):
            states = draw_states(self._initial, self._transitions, inside, uniforms)
            picked = draw_categories(
                self._log[:, 0], states, window.log_potentials, uniforms, temperature, listed
            )
        return torch.where(window.observed[:, None], window.values[:, None], picked)

    def _leaves(self, window: ChainWindow, soft: bool) -> tuple[Leaves | None, Tensor]:
        """(L, B, K) values of the emissions."""
        batch, length = window.values.shape
        shape = (length, batch, len(self._initial))
        kept, found = None, self._table.log_row_sums[:, None].expand(shape)
        if soft:
            rows, categories = self._rows(window)
            skipped = window.observed
            if window.missing is not None:
                skipped = skipped | window.missing
            active = rows_of(~skipped.T, self._log.shape)
            if categories is None:
                kept = dense_values(self._table, rows, active)
            else:
                kept = listed_values(self._table, rows, categories, active)
            own = from_rows(kept.value, shape, self._log.shape)
            if window.missing is not None:
                own = torch.where(window.missing.T[..., None], found, own)
            found = own
        hard = hard_values(self._log, torch.where(window.observed, window.values, 0).T)
        return kept, torch.where(window.observed.T[..., None], hard, found)

    def _rows(self, window: ChainWindow) -> tuple[Tensor, Tensor | None]:
        """Potentials, and categories if there are, grouped by table."""
        rows = rows_of(window.log_potentials.transpose(0, 1), self._log.shape)
        if window.categories is None:
            return rows, None
        listed = rows_of(window.categories.transpose(0, 1), self._log.shape)
        return rows, listed.contiguous()

    def _batch_first(self, rows: Tensor) -> Tensor:
        """(B, L, V or J) of what rows hold."""
        if len(self._log) > 1:
            return rows.transpose(0, 1)
        return rows.view(-1, len(self._steps) + 1, rows.shape[2])

    def _both_ways(self, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """(L, B, K) messages from the right and, the first state's weights included, the left."""
        length, batch, units = leaves.shape
        found = leaves.new_empty(length, 2, batch, units)
        found[0, 0] = 0.0
        found[0, 1] = self._initial
        read = torch.stack([leaves.flip(0), leaves], dim=1)
        totals, tops = leaves.new_empty(2, batch, units), leaves.new_empty(1, 2, batch)
        for t, weights in enumerate(self._steps):
            log_sum_product(
                [found[t], read[t]],
                weights,
                precision=self._precision,
                sums=Sums(found[t + 1], totals, tops),
            )
        return found[:, 0].flip(0), found[:, 1]
