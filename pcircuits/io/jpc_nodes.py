"""What a PyJuice file says: its list of node vectors, checked and typed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pcircuits.errors import FormatError, shown
from pcircuits.files import BoundedFile
from pcircuits.io.plain_pickle import Instance, read_plain_pickle

Array = npt.NDArray[Any]
_DISTRIBUTIONS = "pyjuice.nodes.distributions."
# Names of these three numbers in files of 2.x, 1.x and the first versions.
_SIZE_KEYS = (("num_node_blocks", "block_size"), ("num_node_groups", "group_size"))


@dataclass(frozen=True)
class JpcNode:
    """One vector of units: blocks of equal size, all of one kind.

    A file's `zero_param_mask` is left out: PyJuice evaluates the stored numbers whatever it says.

    Attributes:
        place: Index in the file.
        kind: "Input", "Product" or "Sum".
        num_blocks: Number of blocks.
        block_size: Units of a block.
        children: Indices of the children, all smaller than `place`.
        edges: Of a product (blocks or units, children): the child's block or unit that each of its
            own multiplies; of a sum (2, edges): blocks of its own and of the children's, counted
            through. None of an input.
        parameters: Probabilities as the file has them, flat; None if another node owns them.
        variable: Variable of an input, else -1.
        distribution: Class and attributes of an input's distribution; None of others.
        owner: Index of the node that owns the parameters, its own index if nobody else does.
    """

    place: int
    kind: str
    num_blocks: int
    block_size: int
    children: tuple[int, ...]
    edges: Array | None
    parameters: Array | None
    variable: int
    distribution: Instance | None
    owner: int

    @property
    def num_units(self) -> int:
        """Number of units."""
        return self.num_blocks * self.block_size


def read_nodes(file: BoundedFile, where: str) -> list[JpcNode]:
    """Reads the list of node vectors of a file.

    Raises:
        FormatError: If it is not such a list, or names a global that it does not need.
    """
    entries = read_plain_pickle(file, where)
    if not isinstance(entries, list) or not entries:
        raise FormatError(f"{where} must hold a list of nodes; found {type(entries).__name__}")
    claims, nodes = _Claims(file.size), list[JpcNode]()
    for place, entry in enumerate(entries):
        title = f"{where}: node {place}"
        try:
            nodes.append(_Reader(title, entry, place, len(entries), claims).node())
        except KeyError as error:
            raise FormatError(f"{title} lacks {error}") from error
    owners = _owners(nodes)
    return [
        _with_owner(node, nodes[owner], where) for node, owner in zip(nodes, owners, strict=True)
    ]


class _Claims:
    """What a file's nodes may claim together: a multiple of its bytes.

    Values of a pickle may be shared by many nodes, so that a small file speaks of a large circuit;
    no file that PyJuice writes does.

    Args:
        num_bytes: Size of the file.
    """

    def __init__(self, num_bytes: int) -> None:
        self._limit = 4 * num_bytes + 1000
        self._taken: dict[str, int] = {}
        self._arrays: dict[int, tuple[Array, Array]] = {}

    def take(self, number: int, what: str, title: str) -> None:
        """Counts what a node has of something.

        Raises:
            FormatError: If it is more than a file of this size can have.
        """
        self._taken[what] = self._taken.get(what, 0) + number
        if self._taken[what] > self._limit:
            raise FormatError(f"{title} claims more {what} than its file has room for")

    def edges(self, array: Array) -> Array:
        """An array of edges as int64, converted once however often it is shared."""
        if id(array) not in self._arrays:
            self._arrays[id(array)] = (array, array.astype(np.int64, copy=False))
        return self._arrays[id(array)][1]


class _Reader:
    """Reads one entry; every value is checked before it is used."""

    def __init__(
        self, title: str, entry: Any, place: int, num_entries: int, claims: _Claims
    ) -> None:
        if not isinstance(entry, dict):
            raise FormatError(f"{title} must be a dictionary; found {type(entry).__name__}")
        self._title = title
        self._entry = entry
        self._place = place
        self._num_entries = num_entries
        self._claims = claims

    def node(self) -> JpcNode:
        kind = self._entry["type"]
        if not isinstance(kind, str) or kind not in ("Input", "Product", "Sum"):
            raise self._error(f"is of type {shown(kind)}; expected Input, Product or Sum")
        if "external_params" in self._entry:
            raise self._error("takes parameters per sample, which a file does not hold")
        num_blocks, block_size = self._sizes()
        return JpcNode(
            self._place,
            kind,
            num_blocks,
            block_size,
            self._children(kind),
            None if kind == "Input" else self._edges(),
            self._parameters(),
            self._variable() if kind == "Input" else -1,
            self._distribution() if kind == "Input" else None,
            self._index("source_node", self._num_entries),
        )

    def _error(self, text: str) -> FormatError:
        return FormatError(f"{self._title} {text}")

    def _sizes(self) -> tuple[int, int]:
        for names in _SIZE_KEYS:
            if names[0] in self._entry:
                found = self._entry[names[0]], self._entry[names[1]]
                break
        else:
            found = self._entry["num_nodes"], 1
        if not all(type(size) is int and size >= 1 for size in found):
            raise self._error(f"has {shown(found[0])} blocks of {shown(found[1])} units")
        # Every unit has numbers or edges: a larger claim would cost memory before it is refuted.
        self._claims.take(found[0] * found[1], "units", self._title)
        return found

    def _children(self, kind: str) -> tuple[int, ...]:
        children = self._entry["chs"]
        if not isinstance(children, (tuple, list)):
            raise self._error(f"has {shown(children)} as children; expected a tuple of indices")
        self._claims.take(len(children), "children", self._title)
        for child in children:
            if type(child) is not int or not 0 <= child < self._place:
                raise self._error(f"has child {shown(child)}; expected one of the nodes before it")
        if bool(children) == (kind == "Input"):
            raise self._error(f"is of type {kind} and has {len(children)} children")
        return tuple(children)

    def _index(self, key: str, end: int) -> int:
        value = self._entry.get(key, self._place)
        if type(value) is not int or not 0 <= value < end:
            raise self._error(f"has {key} {shown(value)}; expected one of {end} nodes")
        return value

    def _array(self, key: str, kinds: str) -> Array:
        value = self._entry[key]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            raise self._error(f"has a {key} that is no array of the kind {kinds!r}")
        return value

    def _parameters(self) -> Array | None:
        if self._entry.get("params") is None:
            return None
        found = self._array("params", "f").reshape(-1)
        self._claims.take(found.size, "parameters", self._title)
        return found

    def _edges(self) -> Array:
        found = self._claims.edges(self._array("edge_ids", "iu"))
        self._claims.take(found.size, "edges", self._title)
        return found

    def _variable(self) -> int:
        scope = self._entry["scope"]
        if not isinstance(scope, (list, tuple)) or len(scope) != 1 or type(scope[0]) is not int:
            raise self._error(f"has {shown(scope)} as scope; expected one variable")
        # Scopes are bit masks: an absurd index would cost memory before any other check.
        if not 0 <= scope[0] < self._num_entries:
            raise self._error(f"has variable {scope[0]} in a file of {self._num_entries} nodes")
        return scope[0]

    def _distribution(self) -> Instance:
        data = self._entry["dist"]
        if not isinstance(data, (bytes, bytearray)):
            raise self._error("has a dist that is not bytes")
        self._claims.take(len(data), "bytes of distributions", self._title)
        value = read_plain_pickle(
            bytes(data), f"{self._title}: dist", lambda path: path.startswith(_DISTRIBUTIONS)
        )
        if not isinstance(value, Instance):
            raise self._error("has a dist that is not a distribution")
        return value


def _owners(nodes: list[JpcNode]) -> list[int]:
    """For every node the one at the end of its chain of `source_node`; of a circle any."""
    found: dict[int, int] = {}
    for node in nodes:
        path, place = dict[int, None](), node.place
        while place not in found and place not in path:
            path[place] = None
            place = nodes[place].owner
        found.update(dict.fromkeys(path, found.get(place, place)))
    return [found[node.place] for node in nodes]


def _with_owner(node: JpcNode, owner: JpcNode, where: str) -> JpcNode:
    """The node with the owner of its parameters, if both look the same."""
    same = (
        owner.owner == owner.place
        and _tie_key(owner) == _tie_key(node)
        and (node.kind != "Sum" or np.array_equal(_edges(owner), _edges(node)))
    )
    if not same:
        raise FormatError(
            f"{where}: node {node.place} ({node.kind}) is tied to node {owner.place} "
            f"({owner.kind}), which differs in kind, size, edges or distribution"
        )
    return replace(node, owner=owner.place)


def _tie_key(node: JpcNode) -> tuple[object, ...]:
    name = node.distribution.name if node.distribution else None
    return node.kind, node.num_blocks, node.block_size, name


def _edges(node: JpcNode) -> Array:
    assert node.edges is not None, "only inputs have no edges"
    return node.edges
