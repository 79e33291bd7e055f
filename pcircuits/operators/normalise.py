"""Weights whose rows sum to one, and the constant that is left."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcircuits.errors import ParameterError
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.condition import gathered_root
from pcircuits.operators.rewriting import copied
from pcircuits.operators.tables import Weight, dtype_of, table_of, weight_of
from pcircuits.operators.units import (
    Units,
    folded,
    input_weight,
    kronecker,
    product,
    sum_weight,
    unless_zero,
)
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum


def normalise(weighted: WeightedCircuit) -> tuple[WeightedCircuit, Tensor]:
    """Makes every input and sum a distribution without changing the circuit's own.

    Bottom up, each unit is divided by its sum over all worlds, which moves into the weights above
    (Peharz et al., "On theoretical properties of sum-product networks", AISTATS 2015, theorem 2).
    Nodes that share a parameter stay tied where they need the same factors, as in a circuit that
    is normalised already; others get weights of their own (parts of one parameter), sums without
    weights get some, and indicators of several categories become distributions. Units that are
    zero everywhere get any distribution, and weight zero wherever they are used.

    Args:
        weighted: The circuit.

    Returns:
        The circuit with all rows summing to one, and the log of the sum of the given circuit over
        all worlds, a scalar.

    Raises:
        ParameterError: If that sum is zero or not finite.

    Examples:
        >>> counts = {"input_0": torch.tensor([[3.0, 5.0]]).log()}
        >>> unnormalised = pc.WeightedCircuit(pc.families.factorized(1, num_categories=2), counts)
        >>> normalised, log_sum = pc.operators.normalise(unnormalised)
        >>> log_sum.exp()
        tensor(8.)
        >>> normalised.log_weights["input_0"].exp()
        tensor([[0.3750, 0.6250]])
    """
    assembler = Assembler(dtype_of(weighted))
    made: dict[AnyNode, Units] = {}
    for node in weighted.circuit.nodes:
        parts = [made[child] for child in node.children]
        match node:
            case Input():
                made[node] = _input(assembler, weighted, node)
            case Product():
                made[node] = product(assembler, parts, node.name)
            case KroneckerProduct():
                made[node] = kronecker(assembler, parts, node.name)
            case Sum():
                made[node] = _sum(assembler, weighted, node, parts)
    root = made[weighted.circuit.root]
    log_partition = torch.zeros(1, dtype=assembler.dtype) if root.scale is None else root.scale
    if not bool(torch.isfinite(log_partition)):
        raise ParameterError(
            f"the circuit's log sum over all worlds is {float(log_partition)}; expected a finite "
            "number"
        )
    number = gathered_root(assembler, replace(root, scale=None))
    return assembler.build(number), log_partition[0]


def _input(assembler: Assembler, weighted: WeightedCircuit, node: Input) -> Units:
    weight, table = weight_of(weighted, node), table_of(weighted, node)
    totals = unless_zero(table.logsumexp(1))
    if totals is None:
        return copied(assembler, weighted, node)
    rows = _rows(table, totals)
    if weight is None:
        content = input_weight(rows, ("indicators", node.supports))
    else:
        content = Weight(rows, weight.name, (weight.key, "rows"))
    number = assembler.input(node.variable, node.num_categories, content, name=node.name)
    return Units(node.num_units, number, None, totals)


def _sum(
    assembler: Assembler, weighted: WeightedCircuit, node: Sum, parts: Sequence[Units]
) -> Units:
    weight, table = weight_of(weighted, node), table_of(weighted, node)
    mixing, scaled = node.mixing, not all(part.plain for part in parts)
    if scaled:
        table, mixing = folded(assembler, parts, table, mixing=mixing)
    totals = unless_zero(table.logsumexp(1))
    if totals is not None or scaled:
        key: Hashable = object() if scaled else (weight.key if weight else "plain", "rows")
        rows = table if totals is None else _rows(table, totals)
        weight = sum_weight(rows, key) if weight is None else Weight(rows, weight.name, key)
    children = [part.node for part in parts if part.node is not None]
    number = assembler.sum(children, len(table), weight, mixing=mixing, name=node.name)
    return Units(len(table), number, None, totals)


def _rows(table: Tensor, totals: Tensor) -> Tensor:
    """Rows that sum to one; equal entries where all are zero."""
    uniform = torch.full_like(table, 1 / table.shape[1]).log()
    return torch.where((totals == -torch.inf)[:, None], uniform, table - totals[:, None])
