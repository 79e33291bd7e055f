"""More units of the same kind, for learning to tell apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.errors import ParameterError
from pcircuits.operators.assembly import Assembler
from pcircuits.operators.tables import Weight, dtype_of, table_of, weight_of
from pcircuits.operators.units import sum_weight
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum


def grow(
    weighted: WeightedCircuit, factor: int = 2, *, noise: float = 0.1, seed: int = 0
) -> WeightedCircuit:
    """Makes several copies of every unit, and shares the weights of sums between the copies.

    Without noise no world changes its value; with noise the copies differ, so that learning can
    tell them apart (Dang, Liu and Van den Broeck, "Sparse probabilistic circuits via pruning and
    growing", NeurIPS 2022, section 4.2). Parameters keep their names, and tied ones stay tied; the
    number of weights grows by `factor` (inputs) and `factor ** 2` (sums), for all-pairs products
    by one more power for each factor. The root keeps one unit; indicators, which cannot learn, are
    not copied.

    Args:
        weighted: The circuit.
        factor: Copies of each unit, counting itself.
        noise: Standard deviation of what is added to the log-weights; the rows' sums stay.
        seed: Seed of the noise.

    Returns:
        The larger circuit.

    Raises:
        ParameterError: If the factor is not an integer of at least 1, or the noise is negative.

    Examples:
        >>> small = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> grown = pc.CircuitModel.of(pc.operators.grow(small.weighted(), factor=2, noise=0.0))
        >>> tuple(grown.probabilities()["transition"].shape)
        (6, 6)
        >>> row = torch.tensor([[0, 1, 1, 0]])
        >>> torch.allclose(small.log_likelihood(row), grown.log_likelihood(row))
        True
    """
    if not isinstance(factor, int) or factor < 1:
        raise ParameterError(f"factor must be an integer >= 1; found {factor!r}")
    if not noise >= 0:
        raise ParameterError(f"noise must be a number >= 0; found {noise}")
    return _Growth(weighted, factor, _Noise(noise, seed)).run()


@dataclass(frozen=True, eq=False)
class _Copies:
    """The copies of a node's units: unit k of the new node is a copy of unit `origin[k]`."""

    node: int
    origin: Tensor

    @property
    def key(self) -> Hashable:
        """Equal for equal origins."""
        return tuple(self.origin.tolist())

    def shares(self) -> Tensor:
        """(K,) logarithm of one copy's share of its original."""
        counts = torch.bincount(self.origin)
        return -counts[self.origin].double().log()


class _Noise:
    """Adds noise to tables, to each once, so that tied ones stay equal."""

    def __init__(self, spread: float, seed: int) -> None:
        self._spread = spread
        self._generator = torch.Generator().manual_seed(seed)
        self._known: dict[Hashable, Tensor] = {}

    def on(self, table: Tensor, key: Hashable) -> Tensor:
        """The table with noise, and with the rows' sums that it had."""
        if key not in self._known:
            self._known[key] = self._noisy(table)
        return self._known[key]

    def _noisy(self, table: Tensor) -> Tensor:
        if self._spread == 0.0:
            return table
        drawn = torch.randn(table.shape, generator=self._generator, dtype=table.dtype)
        changed = table + self._spread * drawn
        totals = table.logsumexp(1, keepdim=True)
        return torch.where(
            totals == -torch.inf, table, changed - changed.logsumexp(1, keepdim=True) + totals
        )


class _Growth:
    """Copies node after node."""

    def __init__(self, weighted: WeightedCircuit, factor: int, noise: _Noise) -> None:
        self._weighted = weighted
        self._factor = factor
        self._noise = noise
        self._assembler = Assembler(dtype_of(weighted))
        self._made: dict[AnyNode, _Copies] = {}

    def run(self) -> WeightedCircuit:
        """The grown circuit."""
        root = self._weighted.circuit.root
        for node in self._weighted.circuit.nodes:
            self._made[node] = self._copies(node, 1 if node is root else self._factor)
        return self._assembler.build(self._averaged(self._made[root], torch.zeros(1).long()).node)

    def _copies(self, node: AnyNode, factor: int) -> _Copies:
        parts = [self._made[child] for child in node.children]
        match node:
            case Input():
                return self._input(node, factor)
            case Product():
                return self._product(node, parts)
            case KroneckerProduct():
                return self._kronecker(node, parts)
            case Sum():
                return (
                    self._mixing(node, parts, factor)
                    if node.mixing
                    else self._dense(node, parts, factor)
                )

    def _input(self, node: Input, factor: int) -> _Copies:
        weight = weight_of(self._weighted, node)
        if weight is None:
            assert node.supports is not None, "an input has weights or supports"
            number = self._assembler.input(
                node.variable, node.num_categories, node.supports, name=node.name
            )
            return _Copies(number, torch.arange(node.num_units))
        origin = torch.arange(node.num_units).repeat(factor)
        grown = self._weight(weight, weight.table[origin], ("input", factor))
        return _Copies(
            self._assembler.input(node.variable, node.num_categories, grown, name=node.name), origin
        )

    def _product(self, node: Product, parts: Sequence[_Copies]) -> _Copies:
        largest = max(parts, key=lambda part: len(part.origin))
        aligned = [self._averaged(part, largest.origin) for part in parts]
        number = self._assembler.product([part.node for part in aligned], name=node.name)
        return _Copies(number, largest.origin)

    def _kronecker(self, node: KroneckerProduct, parts: Sequence[_Copies]) -> _Copies:
        origin = torch.zeros(1, dtype=torch.long)
        for child, part in zip(node.children, parts, strict=True):
            origin = (origin[:, None] * child.num_units + part.origin).flatten()
        return _Copies(
            self._assembler.kronecker([part.node for part in parts], name=node.name), origin
        )

    def _dense(self, node: Sum, parts: Sequence[_Copies], factor: int) -> _Copies:
        weight, table = weight_of(self._weighted, node), table_of(self._weighted, node)
        copied = any(
            len(part.origin) > c.num_units for c, part in zip(node.children, parts, strict=True)
        )
        factor = factor if weight else 1
        origin = torch.arange(node.num_units).repeat(factor)
        if weight or copied:
            blocks = table[origin].split([child.num_units for child in node.children], dim=1)
            shared = [
                block[:, part.origin] + part.shares().to(block)
                for block, part in zip(blocks, parts, strict=True)
            ]
            key = (factor, tuple(part.key for part in parts))
            grown = torch.cat(shared, dim=1)
            if weight:
                weight = self._weight(weight, grown, key)
            else:
                weight = sum_weight(grown, ("plain", node.num_units, key))
        number = self._assembler.sum(
            [part.node for part in parts], len(origin), weight, name=node.name
        )
        return _Copies(number, origin)

    def _mixing(self, node: Sum, parts: Sequence[_Copies], factor: int) -> _Copies:
        """Copies of one child are mixed with the copies of the same number of the others."""
        origin = torch.arange(node.num_units)
        if factor > 1:
            pairs = zip(node.children, parts, strict=True)
            own = [part.origin for child, part in pairs if child.num_units == node.num_units]
            origin = max((origin, *own), key=len)
        targets = [
            origin if child.num_units == node.num_units else torch.zeros(1, dtype=torch.long)
            for child in node.children
        ]
        aligned = [
            self._averaged(part, target) for part, target in zip(parts, targets, strict=True)
        ]
        weight = weight_of(self._weighted, node)
        if weight is not None:
            key = ("mixing", tuple(origin.tolist()))
            weight = self._weight(weight, weight.table[origin], key)
        number = self._assembler.sum(
            [part.node for part in aligned], len(origin), weight, mixing=True, name=node.name
        )
        return _Copies(number, origin)

    def _weight(self, weight: Weight, table: Tensor, how: Hashable) -> Weight:
        key = (weight.key, how)
        return Weight(self._noise.on(table, key), weight.name, key)

    def _averaged(self, part: _Copies, origin: Tensor) -> _Copies:
        """Copies in the wanted number: each the average of all copies of the same original."""
        if torch.equal(part.origin, origin):
            return part
        same = part.origin == origin[:, None]
        table = torch.where(same, part.shares(), -torch.inf).to(self._assembler.dtype)
        weight = sum_weight(table, ("average", part.key, tuple(origin.tolist())))
        return _Copies(self._assembler.sum([part.node], len(origin), weight), origin)
