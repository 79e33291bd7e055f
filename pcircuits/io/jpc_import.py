"""PyJuice's vectors of units as our nodes and parameters.

A vector in several pieces keeps its parameter: the pieces have parts of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pcircuits.errors import FormatError
from pcircuits.io.jpc_nodes import JpcNode
from pcircuits.io.jpc_pieces import PieceId, Pieces, cut, sorted_edges
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

Array = npt.NDArray[np.floating[Any]]
_PIECE = 1 << 18  # numbers
_CATEGORICAL = {"Categorical", "SoftEvidenceCategorical", "ExternProductCategorical"}
_INDICATORS = {"Indicator", "Literal"}


def import_nodes(nodes: Sequence[JpcNode], where: str, dtype: torch.dtype) -> WeightedCircuit:
    """Makes the circuit of a PyJuice file; its last node vector is the root.

    Args:
        nodes: The node vectors, each after its children.
        where: The file, for messages.
        dtype: Number type of the log-weights.

    Returns:
        The circuit and its log-weights. Parameters are named `input_I` and `sum_I` by
        the index I of the node vector that owns them.

    Raises:
        FormatError: If edges or numbers do not fit, or a distribution is not over categories.
        StructureError: If the circuit is not smooth or not decomposable, or lacks variables.
    """
    if nodes[-1].num_units != 1:
        raise FormatError(f"{where}: the last node is the root and has {nodes[-1].num_units} units")
    importer = _Importer(nodes, cut(nodes, where), where, dtype)
    for node in nodes:
        importer.add(node)
    return WeightedCircuit(Circuit(importer.made[len(nodes) - 1, 0]), importer.log_weights)


class _Importer:
    """Makes the pieces of one vector after the other, and lays out the parameters."""

    def __init__(
        self, nodes: Sequence[JpcNode], pieces: Sequence[Pieces], where: str, dtype: torch.dtype
    ) -> None:
        self._nodes = nodes
        self._pieces = pieces
        self._where = where
        self._dtype = dtype
        self._kept = _kept_pieces(nodes, pieces)
        self._parameters: dict[int, dict[int, str | Part]] = {}
        self.made: dict[PieceId, AnyNode] = {}
        self.log_weights: dict[str, torch.Tensor] = {}

    def add(self, node: JpcNode) -> None:
        """Makes the pieces of a vector that the root reaches; its children have theirs."""
        makers = {"Input": self._input, "Product": self._product, "Sum": self._sum}
        for piece, used in enumerate(self._pieces[node.place].used):
            if used:
                self.made[node.place, piece] = makers[node.kind](node, piece)

    def _title(self, node: JpcNode) -> str:
        return f"{self._where}: node {node.place} ({node.kind})"

    def _below(self, node: JpcNode, piece: int) -> list[AnyNode]:
        return [self.made[found] for found in self._pieces[node.place].below[piece]]

    def _product(self, node: JpcNode, piece: int) -> AnyNode:
        below = self._below(node, piece)
        if len(below) == 1:
            return below[0]
        return KroneckerProduct(*below) if self._pieces[node.place].crossed else Product(*below)

    def _sum(self, node: JpcNode, piece: int) -> AnyNode:
        if node.owner not in self._parameters:
            self._lay_out(node, self._sum_weights(node))
        return Sum(
            *self._below(node, piece),
            num_units=self._pieces[node.place].size,
            parameter=self._parameters[node.owner][piece],
        )

    def _input(self, node: JpcNode, piece: int) -> AnyNode:
        size = self._pieces[node.place].size
        kind = _distribution(node)
        if kind in _INDICATORS:
            values, categories = self._indicated(node, kind)
            supports = tuple((value,) for value in values[piece * size : (piece + 1) * size])
            return Input(
                node.variable, num_units=size, num_categories=categories, supports=supports
            )
        if node.owner not in self._parameters:
            table = self._table(self._nodes[node.owner], kind)
            self._lay_out(node, list(table.reshape(-1, size, table.shape[1])))
        return Input(
            node.variable,
            num_units=size,
            num_categories=self.log_weights[f"input_{node.owner}"].shape[1],
            parameter=self._parameters[node.owner][piece],
        )

    def _lay_out(self, node: JpcNode, weights: Sequence[Array]) -> None:
        """Makes the parameter of a vector out of its pieces' (units, inputs) probabilities."""
        name = f"{node.kind.lower()}_{node.owner}"
        kept = [piece for piece, used in enumerate(self._kept[node.owner]) if used]
        if len(weights) == 1:
            flat_root = node.kind == "Sum" and len(weights[0]) == 1
            self._parameters[node.owner] = {0: name}
            self.log_weights[name] = self._log(weights[0][0] if flat_root else weights[0])
            return
        parts, start = {}, 0
        for piece in kept:
            parts[piece] = Part(name, start)
            start += len(weights[piece]) if node.kind == "Input" else weights[piece].size
        rows = [weights[piece] for piece in kept]
        flat = [row.reshape(-1) for row in rows] if node.kind == "Sum" else rows
        self._parameters[node.owner] = dict(parts)
        self.log_weights[name] = self._log(np.concatenate(flat))

    def _sum_weights(self, node: JpcNode) -> list[Array]:
        """For every piece of a sum its (units, inputs) probabilities, inputs in order."""
        owner, below = self._nodes[node.owner], self._nodes[node.children[0]].block_size
        assert node.edges is not None, "sums have edges"
        shape = (node.edges.shape[1], node.block_size, below)
        blocks = self._probabilities(owner, shape)[sorted_edges(node.edges)]
        ends = np.cumsum(np.bincount(node.edges[0]))[:-1]
        rows = [
            block.transpose(1, 0, 2).reshape(node.block_size, -1)
            for block in np.split(blocks, ends)
        ]
        size = self._pieces[node.place].size
        if size > node.block_size:
            return list(np.concatenate(rows).reshape(node.num_units // size, size, -1))
        return [part for row in rows for part in np.split(row, node.block_size // size)]

    def _table(self, owner: JpcNode, kind: str) -> Array:
        """(units, categories) probabilities of an input."""
        if kind == "Bernoulli":
            ones = self._probabilities(owner, (owner.num_units, 1)).astype(np.float64)
            return np.concatenate([1 - ones, ones], axis=1)
        if kind not in _CATEGORICAL:
            raise FormatError(
                f"{self._title(owner)} has the distribution {kind}; read are "
                f"{', '.join(sorted({*_CATEGORICAL, *_INDICATORS, 'Bernoulli'}))}"
            )
        return self._probabilities(owner, (owner.num_units, self._setting(owner, "num_cats")))

    def _indicated(self, node: JpcNode, kind: str) -> tuple[list[int], int]:
        """The category of every unit, and the number of categories."""
        if kind == "Indicator":
            values, categories = list(range(node.num_units)), self._setting(node, "num_states")
        else:
            values, categories = [self._setting(node, "lit", smallest=0)] * node.num_units, 2
        if max(values) >= categories:
            raise FormatError(
                f"{self._title(node)} indicates category {max(values)} of {categories}"
            )
        return values, categories

    def _setting(self, node: JpcNode, key: str, *, smallest: int = 1) -> int:
        assert node.distribution is not None, "inputs have one"
        # An object is given by its constructor's argument or by its attributes.
        value = node.distribution.state.get(key, *node.distribution.arguments[:1])
        if type(value) is not int or value < smallest:
            raise FormatError(f"{self._title(node)} has the {key} {value!r}")
        return value

    def _probabilities(self, owner: JpcNode, shape: tuple[int, ...]) -> Array:
        """The numbers of the owner of a parameter, in the given shape."""
        if owner.parameters is None:
            raise FormatError(
                f"{self._title(owner)} has no parameters; it was saved before they were initialised"
            )
        if owner.parameters.size != math.prod(shape):
            raise FormatError(
                f"{self._title(owner)} has {owner.parameters.size} numbers; expected shape {shape}"
            )
        # A NaN is both the smallest and the largest, and neither test is true of it.
        smallest, largest = owner.parameters.min(initial=0), owner.parameters.max(initial=0)
        if not (smallest >= 0 and largest < np.inf):
            raise FormatError(f"{self._title(owner)} has parameters that are not probabilities")
        return owner.parameters.reshape(shape)

    def _log(self, probabilities: Array) -> torch.Tensor:
        """Logarithms, taken in float64 piece by piece and kept in the type asked for."""
        found = torch.empty(probabilities.shape, dtype=self._dtype)
        flat, numbers = found.view(-1), probabilities.reshape(-1)
        for start in range(0, len(numbers), _PIECE):
            piece = torch.tensor(numbers[start : start + _PIECE], dtype=torch.float64)
            flat[start : start + _PIECE] = piece.log()
        return found


def _kept_pieces(nodes: Sequence[JpcNode], pieces: Sequence[Pieces]) -> Mapping[int, bytearray]:
    """For every owner which pieces are used, its own or one that is tied to it."""
    kept: dict[int, bytearray] = {}
    for node, found in zip(nodes, pieces, strict=True):
        own = kept.setdefault(node.owner, bytearray(len(found.used)))
        for piece, used in enumerate(found.used):
            own[piece] |= used
    return kept


def _distribution(node: JpcNode) -> str:
    assert node.distribution is not None, "inputs have one"
    return node.distribution.name.path.rpartition(".")[2]
