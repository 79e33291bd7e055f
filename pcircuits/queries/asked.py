"""What is asked of single variables, and what evidence lists of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import Weights, floor_of
from pcircuits.queries.entries import has_shared_table
from pcircuits.queries.lazy import take_folds
from pcircuits.queries.routes import routes_of


@dataclass(frozen=True, eq=False)
class Asked:
    """One variable of each of n examples, which may repeat.

    Attributes:
        variables: (n,).
        examples: (n,).
        batch: B if all examples are there for one variable after the other; None if not so.
    """

    variables: np.ndarray
    examples: np.ndarray
    batch: int | None

    def take(self, table: Tensor, first: np.ndarray) -> Tensor:
        """(n, ...) rows of (F, B, ...) at (first[n], examples[n]), a view if possible."""
        if self.batch is not None:
            return take_folds(table, first[:: self.batch]).flatten(0, 1)
        index = (torch.as_tensor(at, device=table.device) for at in (first, self.examples))
        return table[tuple(index)]

    def rows(self, table: np.ndarray, first: np.ndarray) -> np.ndarray:
        """`take` of what is on the host; a view only of all examples of one variable."""
        whole = self.batch == len(first)
        found: np.ndarray = table[first[0]] if whole else table[first, self.examples]
        return found

    def only(self, kept: np.ndarray) -> Asked:
        """Those where `kept` (n,) is true."""
        if kept.all():
            return self
        batch = 1 if self.batch == 1 else None
        return Asked(self.variables[kept], self.examples[kept], batch)


@dataclass(frozen=True, eq=False)
class Listed:
    """Categories that evidence lists, where one table on the CPU serves all variables.

    Attributes:
        layer: The layer of all inputs.
        folds: (L,) the only input of each variable.
        columns: (V, K) the table in linear space, column by column.
        floor: See `floor_of`.
        categories: (L, B, k) what is listed.
        potentials: (L, B, k) its log-potentials.
    """

    layer: int
    folds: np.ndarray
    columns: np.ndarray
    floor: float
    categories: np.ndarray
    potentials: np.ndarray


def listed_of(
    plan: Plan, prepared: PreparedParameters, potentials: Tensor | None, categories: Tensor | None
) -> Listed | None:
    """What compiled passes need; None where they may not do."""
    by_layer = routes_of(plan).input_folds
    if potentials is None or categories is None or len(by_layer) > 1:
        return None
    ((i, folds),) = by_layer.items()
    layer, weights = plan.layers[i], prepared.weights[i]
    assert isinstance(layer, InputLayer)
    # Of fewer categories than the circuit has, those that are listed and are not there are none.
    if folds.shape[1] > 1 or layer.num_categories < plan.num_categories:
        return None
    if not isinstance(weights, Weights) or weights.shift is not None:
        return None
    if not has_shared_table(weights) or weights.log.device.type != "cpu":
        return None
    columns = weights.columns.contiguous()
    lists = (np.ascontiguousarray(own.numpy()) for own in (categories, potentials))
    return Listed(i, folds[:, 0], columns.numpy(), floor_of(columns), *lists)
