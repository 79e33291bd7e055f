"""Our nodes as PyJuice's vectors of units.

PyJuice has three kinds of vectors: a product's children are sums or inputs, a sum's are products
or inputs. Products of products are therefore multiplied out, and a product of one child stands
between two sums. All vectors have blocks of one size, 1 where a pattern is finer than blocks.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

_LARGEST_BLOCK = 1024
_PROTOCOL = 4
_TOLERANCE = 1e-4
_CATEGORICAL = b"cpyjuice.nodes.distributions.categorical\nCategorical\n"

Edges = npt.NDArray[np.int64]


def export_nodes(weighted: WeightedCircuit) -> bytes:
    """The content of a PyJuice file.

    Raises:
        FormatError: If the circuit has sums without weights, indicators of several categories, or
            weights that are not normalised: PyJuice normalises what it loads.
    """
    exporter = _Exporter(weighted)
    for node in weighted.circuit.nodes:
        exporter.add(node)
    return pickle.dumps(exporter.entries_under(weighted.circuit.root), protocol=_PROTOCOL)


@dataclass(frozen=True)
class _Vector:
    """A node as PyJuice sees it: unit k multiplies unit `edges[k, j]` of vector `bases[j]`.

    Attributes:
        bases: Places of sums and inputs in the file.
        edges: (units, bases) unit of each.
    """

    bases: tuple[int, ...]
    edges: Edges


class _Exporter:
    """Collects the entries of the file, children first."""

    def __init__(self, weighted: WeightedCircuit) -> None:
        self._weighted = weighted
        self._names = weighted.circuit.node_names
        self._block = _block_size(weighted)
        self._vectors: dict[AnyNode, _Vector] = {}
        self._owners: dict[tuple[str, int], int] = {}
        self._products: dict[AnyNode, int] = {}
        self._entries: list[dict[str, Any]] = []

    def add(self, node: AnyNode) -> None:
        """Adds a node whose children are added."""
        match node:
            case Input():
                self._vectors[node] = self._base(self._input(node), node.num_units)
            case Sum():
                self._vectors[node] = self._base(self._sum(node), node.num_units)
            case Product() | KroneckerProduct():
                self._vectors[node] = _joined(node, [self._vectors[c] for c in node.children])

    def entries_under(self, root: AnyNode) -> list[dict[str, Any]]:
        """All entries; the last one is the root, which PyJuice expects to be a sum."""
        if not isinstance(root, Sum):
            one = np.ones((1, 1, 1), dtype=np.float32)
            self._add_sum([root], 1, np.zeros((2, 1), dtype=np.int64), 1, params=one)
        return self._entries

    def _base(self, place: int, num_units: int) -> _Vector:
        return _Vector((place,), np.arange(num_units)[:, None])

    def _append(self, kind: str, num_units: int, block: int, **entry: Any) -> int:
        sizes = {"num_node_blocks": num_units // block, "block_size": block}
        self._entries.append({"type": kind, **sizes, **entry})
        return len(self._entries) - 1

    def _input(self, node: Input) -> int:
        owner = self._owner(node)
        entry: dict[str, Any] = {"scope": [node.variable], "dist": _dist(node.num_categories)}
        if owner is None:
            table = _indicator_table(node, self._names) if node.supports else self._rows(node)
            entry["params"] = table.astype(np.float32).reshape(-1)
        else:
            entry["source_node"] = owner
        return self._own(node, self._append("Input", node.num_units, self._block, chs=(), **entry))

    def _sum(self, node: Sum) -> int:
        if not node.weighted:
            raise FormatError(
                f"sum {self._names[node]!r} has no weights; PyJuice normalises every sum"
            )
        block = 1 if node is self._weighted.circuit.root else self._block
        if node.mixing and node.num_units > 1:
            edges = _mixing_edges(node)
        else:
            blocks = (node.num_units // block, node.num_inputs // self._block)
            edges = np.indices(blocks).reshape(2, -1)
        owner = self._owner(node)
        entry = (
            {"params": self._blocks(self._rows(node), block)}
            if owner is None
            else {"source_node": owner}
        )
        place = self._add_sum(node.children, node.num_units, edges, block, **entry)
        return self._own(node, place)

    def _add_sum(
        self,
        children: Sequence[AnyNode],
        num_units: int,
        edges: Edges,
        block: int,
        **entry: Any,
    ) -> int:
        below = tuple(self._below_sum(child) for child in children)
        return self._append("Sum", num_units, block, chs=below, edge_ids=edges, **entry)

    def _blocks(self, rows: npt.NDArray[np.float64], block: int) -> npt.NDArray[np.float32]:
        """(units, inputs) probabilities as (edges, units of a block, inputs of a block)."""
        shape = (len(rows) // block, block, rows.shape[1] // self._block, self._block)
        params = rows.reshape(shape).transpose(0, 2, 1, 3).reshape(-1, block, self._block)
        return np.ascontiguousarray(params, dtype=np.float32)

    def _owner(self, node: Input | Sum) -> int | None:
        """Place of the node that has written the parameter; None if nobody has."""
        return self._owners.get(self._key(node)) if node.has_parameter else None

    def _own(self, node: Input | Sum, place: int) -> int:
        if node.has_parameter:
            self._owners.setdefault(self._key(node), place)
        return place

    def _key(self, node: Input | Sum) -> tuple[str, int]:
        name = self._weighted.circuit.parameter_names[node]
        return (name, node.parameter.start if isinstance(node.parameter, Part) else 0)

    def _below_sum(self, node: AnyNode) -> int:
        """Place of an input, or of a product that multiplies what the node multiplies."""
        vector = self._vectors[node]
        if isinstance(node, Input):
            return vector.bases[0]
        if node not in self._products:
            edges = vector.edges[:: self._block] // self._block
            self._products[node] = self._append(
                "Product",
                node.num_units,
                self._block,
                chs=vector.bases,
                edge_ids=np.ascontiguousarray(edges),
            )
        return self._products[node]

    def _rows(self, node: Input | Sum) -> npt.NDArray[np.float64]:
        """(units, inputs) probabilities of a node."""
        name = self._weighted.circuit.parameter_names[node]
        rows = _part(node, self._weighted.log_weights[name]).exp().double().cpu().numpy()
        sums = rows.sum(axis=-1)
        if not bool((np.abs(sums - 1) < _TOLERANCE).all()):
            row = int(np.abs(sums - 1).argmax())
            raise FormatError(
                f"row {row} of node {self._names[node]!r} sums to {sums[row]:g}; expected 1, since "
                f"PyJuice normalises what it loads"
            )
        return np.asarray(rows)


def _block_size(weighted: WeightedCircuit) -> int:
    """The largest power of two that divides all vectors, if nothing connects single units."""
    circuit = weighted.circuit
    for node in circuit.nodes:
        paired = isinstance(node, KroneckerProduct) and len(node.children) > 1
        if paired or (isinstance(node, Sum) and node.mixing and node.num_units > 1):
            return 1
    common = math.gcd(0, *(node.num_units for node in circuit.nodes if node is not circuit.root))
    return min(common & -common, _LARGEST_BLOCK) or 1


def _joined(node: Product | KroneckerProduct, children: Sequence[_Vector]) -> _Vector:
    bases = tuple(base for child in children for base in child.bases)
    if isinstance(node, Product):
        rows = [np.arange(node.num_units)] * len(children)
    else:
        shape = [len(child.edges) for child in children]
        rows = list(np.unravel_index(np.arange(node.num_units), shape))
    edges = [child.edges[row] for child, row in zip(children, rows, strict=True)]
    return _Vector(bases, np.concatenate(edges, axis=1))


def _mixing_edges(node: Sum) -> Edges:
    """(2, units * children): unit k sums unit k of every child, or a child's only one."""
    sizes = np.array([child.num_units for child in node.children])
    starts = np.cumsum(sizes) - sizes
    units = np.arange(node.num_units)[:, None]
    below = starts + np.where(sizes > 1, units, 0)
    return np.stack([np.broadcast_to(units, below.shape).reshape(-1), below.reshape(-1)])


def _indicator_table(node: Input, names: dict[AnyNode, str]) -> npt.NDArray[np.float64]:
    table = np.zeros((node.num_units, node.num_categories))
    for unit, support in enumerate(node.supports or ()):
        if len(support) != 1:
            raise FormatError(
                f"unit {unit} of input {names[node]!r} is 1 on {len(support)} categories; PyJuice "
                f"has distributions only, so expected one"
            )
        table[unit, support[0]] = 1
    return table


def _part(node: Input | Sum, tensor: Tensor) -> Tensor:
    """(units, inputs) log-weights of a node out of the parameter that it has a part of."""
    width = node.parameter_shape[-1]
    if isinstance(node.parameter, Part):
        length = node.num_units * (width if isinstance(node, Sum) else 1)
        tensor = tensor[node.parameter.start : node.parameter.start + length]
    return tensor.detach().reshape(-1, width)


def _dist(num_categories: int) -> bytes:
    """The pickle of PyJuice's `Categorical`, written by hand: its class cannot be asked here.

    Protocol 2: the class by name, an empty tuple of arguments, a new object, its attributes.
    """
    state = {"post_fw_fns": [], "post_bp_fns": [], "sampling_fns": [], "num_cats": num_categories}
    attributes = pickle.dumps(state, protocol=2)
    return attributes[:2] + _CATEGORICAL + b")\x81" + attributes[2:-1] + b"b."
