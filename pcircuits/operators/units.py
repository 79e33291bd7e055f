"""Units of nodes that are permuted, repeated or scaled on paper, until a sum takes that up.

Dropping a variable leaves a factor for each unit, and the product of two nodes has its units in an
order of its own: to make nodes for that would cost as much as the circuit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcircuits.operators.assembly import Assembler
from pcircuits.operators.tables import Weight


@dataclass(frozen=True, eq=False)
class Units:
    """K functions: unit k is `exp(scale[k])` times unit `index[k]` of a node.

    Attributes:
        size: Number of functions K.
        node: Number of the node; None for constants.
        index: (K,) integers; None for 0 .. K-1.
        scale: (K,) logarithms; None for 0.
    """

    size: int
    node: int | None
    index: Tensor | None = None
    scale: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether they are the units of a node as they are."""
        return self.node is not None and self.index is None and self.scale is None

    def places(self) -> Tensor:
        """(K,) units of the node."""
        return torch.arange(self.size) if self.index is None else self.index

    def take(self, index: Tensor) -> Units:
        """Some of the units, in another order or several times."""
        if len(index) == self.size and bool((index == torch.arange(self.size)).all()):
            return self
        scale = None if self.scale is None else self.scale[index]
        return Units(len(index), self.node, self.places()[index], scale)


def constants(values: Tensor) -> Units:
    """(K,) logarithms as constant functions; rounding errors of normalised rows count as 1."""
    return Units(len(values), None, None, unless_zero(values))


def unless_zero(scale: Tensor) -> Tensor | None:
    """None if all logarithms are 0 within rounding, so that tied weights stay tied."""
    rounding = 16 * torch.finfo(scale.dtype).eps
    return None if bool((scale.detach().abs() <= rounding).all()) else scale


def product(assembler: Assembler, parts: Sequence[Units], name: str | None = None) -> Units:
    """Elementwise product of parts of the same size."""
    size, scale = parts[0].size, _total([part.scale for part in parts])
    solid = [part for part in parts if part.node is not None]
    if not solid:
        return Units(size, None, None, scale)
    if len(solid) == 1:
        return replace(solid[0], scale=scale)
    if not _aligned(assembler, solid):
        pairs = math.prod(assembler.num_units(node) for node in _nodes(solid))
        if pairs <= sum(size * assembler.num_units(node) for node in _nodes(solid)):
            return replace(_combined(assembler, solid, name), scale=scale)
        solid = [gathered(assembler, replace(part, scale=None)) for part in solid]
    node = assembler.product(_nodes(solid), name=name)
    return Units(size, node, solid[0].index, scale)


def kronecker(assembler: Assembler, parts: Sequence[Units], name: str | None = None) -> Units:
    """Product of all combinations, the last part's index fastest."""
    if all(part.node is not None and part.index is None for part in parts):
        scale = _outer([part.scale for part in parts], [part.size for part in parts])
        node = assembler.kronecker(_nodes(parts), name=name) if len(parts) > 1 else parts[0].node
        return Units(math.prod(part.size for part in parts), node, None, scale)
    grid = torch.cartesian_prod(*(torch.arange(part.size) for part in parts))
    columns = grid.reshape(-1, len(parts)).unbind(1)
    taken = [part.take(column) for part, column in zip(parts, columns, strict=True)]
    scale = _total([part.scale for part in taken])
    solid = [part for part in taken if part.node is not None]
    if len(solid) < 2:
        only = solid[0] if solid else taken[0]
        return Units(only.size, only.node, only.index, scale)
    return replace(_combined(assembler, solid, name), scale=scale)


def _combined(assembler: Assembler, parts: Sequence[Units], name: str | None) -> Units:
    """Elementwise product that picks its units from all combinations of the nodes' units."""
    place = torch.zeros(parts[0].size, dtype=torch.long)
    for part in parts:
        place = place * assembler.num_units(_nodes([part])[0]) + part.places()
    node = assembler.kronecker(_nodes(parts), name=name)
    whole = Units(assembler.num_units(node), node)
    return whole.take(place)


def gathered(assembler: Assembler, units: Units) -> Units:
    """The same functions as the units of a node as they are, by a sum that picks and scales."""
    if units.plain:
        return units
    assert units.node is not None, "constants are functions of no variable"
    scale = torch.zeros(units.size, dtype=assembler.dtype) if units.scale is None else units.scale
    width = assembler.num_units(units.node)
    table = torch.full((units.size, width), -torch.inf, dtype=scale.dtype)
    table[torch.arange(units.size), units.places()] = scale
    weight = sum_weight(table, object())
    return Units(units.size, assembler.sum([units.node], units.size, weight))


def sum_weight(table: Tensor, key: Hashable) -> Weight:
    """A weight of a new sum; those of sums with as many terms share a parameter."""
    return Weight(table, f"sums_{table.shape[1]}", key)


def input_weight(table: Tensor, key: Hashable) -> Weight:
    """A weight of a new input; those of inputs with as many categories share a parameter."""
    return Weight(table, f"inputs_{table.shape[1]}", key)


def folded(
    assembler: Assembler, parts: Sequence[Units], table: Tensor, *, mixing: bool
) -> tuple[Tensor, bool]:
    """Takes what is on paper into the weights of a sum.

    Args:
        assembler: Knows the nodes' numbers of units.
        parts: What is summed.
        table: (K, C) log-weights, by the parts' functions; by part if `mixing`.
        mixing: Whether unit k sums only the parts' functions k.

    Returns:
        (K, C) log-weights by the nodes' own units, and whether the sum is still a mixing one.
    """
    if mixing and all(part.index is None for part in parts):
        columns = [
            column if part.scale is None else column + part.scale
            for column, part in zip(table.unbind(1), parts, strict=True)
        ]
        return torch.stack(columns, dim=1), True
    if mixing:
        table = densified(table, [part.size for part in parts])
    blocks = table.split([part.size for part in parts], dim=1)
    return torch.cat(
        [_by_unit(assembler, p, block) for p, block in zip(parts, blocks, strict=True)], dim=1
    ), False


def add(
    assembler: Assembler,
    parts: Sequence[Units],
    weight: Weight | None,
    table: Tensor,
    *,
    mixing: bool,
    name: str | None = None,
) -> Units:
    """The sum of parts, with the weight as it is if nothing is on paper.

    Args:
        assembler: Takes the node.
        parts: What is summed; constants only together with constants.
        weight: The weights, or None for a plain sum.
        table: (K, C) their logarithms, also of a plain sum.
        mixing: Whether unit k sums only the parts' functions k.
        name: Name of the node.

    Returns:
        K functions.
    """
    if parts[0].node is None:
        if mixing:
            table = densified(table, [part.size for part in parts])
        scales = [_scale(part, table) for part in parts]
        return Units(len(table), None, None, unless_zero((table + torch.cat(scales)).logsumexp(1)))
    if not all(part.plain for part in parts):
        own = (weight.name, weight.key) if weight else None
        scaled = any(part.scale is not None for part in parts)
        key = object() if scaled else (own, tuple(_index_key(assembler, part) for part in parts))
        table, mixing = folded(assembler, parts, table, mixing=mixing)
        weight = sum_weight(table, key) if weight is None else Weight(table, weight.name, key)
    node = assembler.sum(_nodes(parts), len(table), weight, mixing=mixing, name=name)
    return Units(len(table), node)


def densified(table: Tensor, sizes: Sequence[int]) -> Tensor:
    """(K, sum of sizes) dense log-weights of a sum that mixes unit by unit; sizes are K or 1."""
    rows = torch.arange(len(table))
    blocks = []
    for column, size in zip(table.unbind(1), sizes, strict=True):
        block = torch.full((len(table), size), -torch.inf, dtype=table.dtype)
        block[rows, rows if size > 1 else 0] = column
        blocks.append(block)
    return torch.cat(blocks, dim=1)


def _by_unit(assembler: Assembler, part: Units, block: Tensor) -> Tensor:
    """(K, units of the node) from (K, functions): those of one unit are added."""
    if part.scale is not None:
        block = block + part.scale
    if part.index is None:
        return block
    width = assembler.num_units(_nodes([part])[0])
    top = block.detach().amax(dim=1, keepdim=True).clamp_min(torch.finfo(block.dtype).min)
    sums = block.new_zeros(len(block), width)
    return sums.index_add(1, part.index, (block - top).exp()).log() + top


def _aligned(assembler: Assembler, parts: Sequence[Units]) -> bool:
    first = parts[0]
    if all(part.index is None for part in parts):
        return True
    widths = {assembler.num_units(node) for node in _nodes(parts)}
    return len(widths) == 1 and all(torch.equal(p.places(), first.places()) for p in parts)


def _nodes(parts: Sequence[Units]) -> list[int]:
    return [part.node for part in parts if part.node is not None]


def _index_key(assembler: Assembler, part: Units) -> Hashable:
    if part.index is None:
        return None
    return assembler.num_units(_nodes([part])[0]), tuple(part.index.tolist())


def _scale(part: Units, like: Tensor) -> Tensor:
    return like.new_zeros(part.size) if part.scale is None else part.scale


def _total(scales: Sequence[Tensor | None]) -> Tensor | None:
    given = [scale for scale in scales if scale is not None]
    return sum(given[1:], start=given[0]) if given else None


def _outer(scales: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    if all(scale is None for scale in scales):
        return None
    dtype = next(scale.dtype for scale in scales if scale is not None)
    total = torch.zeros(1, dtype=dtype)
    for scale, size in zip(scales, sizes, strict=True):
        own = torch.zeros(size, dtype=dtype) if scale is None else scale
        total = (total[:, None] + own).flatten()
    return total
