"""The weights of single nodes as tables, wherever a circuit keeps them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import Input, Part, Sum


@dataclass(frozen=True, eq=False)
class Weight:
    """The log-weights of a node to be made.

    Attributes:
        table: (K, V) of an input, (K, C) of a sum.
        name: Name of the parameter, which nodes with other tables may share part by part.
        key: Nodes with equal names and keys are tied: they have the same table.
    """

    table: Tensor
    name: str
    key: Hashable


def weight_of(weighted: WeightedCircuit, node: Input | Sum) -> Weight | None:
    """The weights of a node that has parameters, else None."""
    if not node.has_parameter:
        return None
    name = weighted.circuit.parameter_names[node]
    tensor = weighted.log_weights[name]
    if not isinstance(node.parameter, Part):
        return Weight(tensor.reshape(node.num_units, -1), name, (name, 0))
    start = node.parameter.start
    if isinstance(node, Input):
        return Weight(tensor[start : start + node.num_units], name, (name, start))
    size = node.num_units * node.num_inputs
    return Weight(tensor[start : start + size].reshape(node.num_units, -1), name, (name, start))


def table_of(
    weighted: WeightedCircuit, node: Input | Sum, dtype: torch.dtype | None = None
) -> Tensor:
    """(K, V) or (K, C) log-weights of a node; 0 and -inf (of `dtype`) for one without."""
    weight = weight_of(weighted, node)
    if weight is not None:
        return weight.table
    dtype = dtype or dtype_of(weighted)
    if isinstance(node, Sum):
        return torch.zeros(node.num_units, node.num_inputs, dtype=dtype)
    assert node.supports is not None, "inputs without parameters are indicators"
    table = torch.full(node.parameter_shape, -torch.inf, dtype=dtype)
    for row, support in zip(table, node.supports, strict=True):
        row[list(support)] = 0.0
    return table


def dtype_of(*circuits: WeightedCircuit) -> torch.dtype:
    """The floating-point type that holds all weights; float64 if there are none."""
    types = {tensor.dtype for weighted in circuits for tensor in weighted.log_weights.values()}
    return reduce(torch.promote_types, types) if types else torch.float64


def zeros_of(weighted: WeightedCircuit) -> dict[str, Any]:
    """Parameter name -> nested lists, true where a weight is zero, of parameters that have one."""
    masks = {name: tensor.detach().isneginf() for name, tensor in weighted.log_weights.items()}
    return {name: mask.tolist() for name, mask in masks.items() if bool(mask.any())}
