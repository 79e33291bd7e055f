"""The most probable assignment by branch and bound over partial assignments."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pcircuits.queries.bounds import category_bounds, upper_bound
from pcircuits.queries.local_search import GAIN
from pcircuits.queries.posterior import Posterior

# Partial assignments that are bounded in one batch.
_AT_ONCE = 64


@dataclass
class _Search:
    """One example's search.

    Attributes:
        given: The circuit and its evidence, one example.
        values: (L,) the best assignment so far.
        value: Its log-weight.
        open: Heap of (minus the bound, serial number, (L, V) bool categories still allowed).
        serial: Nodes made so far.
        visited: Nodes bounded so far.
    """

    given: Posterior
    values: Tensor
    value: float
    open: list[tuple[float, int, Tensor]] = field(default_factory=list)
    serial: int = 0
    visited: int = 0

    @property
    def threshold(self) -> float:
        """Nothing below this is worth a visit."""
        return self.value + GAIN[self.given.log_potentials.dtype] * max(1.0, abs(self.value))

    @property
    def bound(self) -> float:
        """A bound on all assignments."""
        return max(self.value, -self.open[0][0]) if self.open else self.value

    def push(self, bound: float, allowed: Tensor) -> None:
        """Keeps a partial assignment for later, unless it cannot beat the best one."""
        if bound > self.threshold:
            heapq.heappush(self.open, (-bound, self.serial, allowed))
            self.serial += 1

    def pop(self, most: int) -> list[tuple[float, int, Tensor]]:
        """Takes the most promising partial assignments."""
        taken = [heapq.heappop(self.open) for _ in range(min(most, len(self.open)))]
        return [node for node in taken if -node[0] > self.threshold]


@torch.no_grad()
def branch_and_bound(
    given: Posterior, values: Tensor, log_weights: Tensor, *, node_limit: int
) -> tuple[Tensor, Tensor]:
    """Searches each example's assignments, best bound first.

    A node of the search allows each variable some of its categories. `category_bounds` bounds it,
    strikes out categories that cannot beat the best assignment known, and orders: the variable
    whose categories' bounds have the smallest sum is set next, as it says most about the rest.

    Args:
        given: The circuit and its evidence.
        values: (B, L) assignments to begin with, of positive weight.
        log_weights: (B,) their log-weights.
        node_limit: Most nodes that are bounded for one example.

    Returns:
        (B, L) the best assignments found and (B,) upper bounds, which their weights attain but
        where the limit was hit.
    """
    best, bounds = [], []
    for example in range(given.batch_size):
        own = given.take(torch.tensor([example], device=values.device))
        search = _Search(own, values[example], float(log_weights[example]))
        search.push(float("inf"), own.log_potentials[0] > -torch.inf)
        while search.open and search.visited < node_limit:
            nodes = search.pop(min(_AT_ONCE, node_limit - search.visited))
            if nodes:
                _expand(search, nodes)
        best.append(search.values)
        bounds.append(search.bound)
    return torch.stack(best), log_weights.new_tensor(bounds)


def _expand(search: _Search, nodes: list[tuple[float, int, Tensor]]) -> None:
    search.visited += len(nodes)
    allowed = torch.stack([mask for _, _, mask in nodes])
    rows = search.given.take(allowed.new_zeros(len(nodes), dtype=torch.long))
    rows = replace(rows, log_potentials=rows.log_potentials.masked_fill(~allowed, -torch.inf))
    table = category_bounds(rows)
    _try(search, rows, table.argmax(-1))
    parents = table.new_tensor([-negative for negative, _, _ in nodes])
    for row, bound in zip(table, torch.minimum(upper_bound(table), parents), strict=True):
        if float(bound) > search.threshold:
            for own, mask in _children(row, search.threshold):
                search.push(min(own, float(bound)), mask)


def _try(search: _Search, rows: Posterior, values: Tensor) -> None:
    """Keeps the best of some assignments if it beats the best one so far."""
    weights = rows.log_weight(values)
    place = int(weights.argmax())
    if float(weights[place]) > search.value:
        search.value, search.values = float(weights[place]), values[place]


def _children(bounds: Tensor, threshold: float) -> Iterator[tuple[float, Tensor]]:
    """Splits a node by the categories of one variable; nothing where it is one assignment."""
    allowed = bounds > threshold
    free = allowed.sum(-1) > 1
    if not bool(free.any()):
        return
    spread = bounds.masked_fill(~allowed, -torch.inf).logsumexp(-1)
    variable = int(spread.masked_fill(~free, torch.inf).argmin())
    for category in allowed[variable].nonzero()[:, 0].tolist():
        mask = allowed.clone()
        mask[variable] = False
        mask[variable, category] = True
        yield float(bounds[variable, category]), mask
