"""Text formats of the Juice libraries (`LogicCircuits.jl`, `ProbabilisticCircuits.jl`)."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from pcircuits.errors import CircuitError, FormatError
from pcircuits.io.lines import Line, LineNodes, read_lines
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Product, Sum

_MOST_CATEGORIES = 10_000_000
_MOST_PADDING = 10_000_000


def read_spn(path: str | Path) -> WeightedCircuit:
    r"""Reads a `.spn` file, the dialect of Libra's arithmetic circuits that Juice reads.

    The first line is the variables' numbers of categories, `(2 2 3)`; then one node a line, named
    by its place from 0: `v variable category`, `* child*` or `+ (child log-weight)*`; `EOF` ends
    it and the last node is the root. Variables and categories count from 0.

    Args:
        path: The file.

    Returns:
        The circuit and its log-weights.

    Raises:
        FormatError: If a line is not of that form; names the line.

    Examples:
        >>> from pathlib import Path
        >>> lines = ["(2)", "v 0 0", "v 0 1", "+ 0 -1.3862944 1 -0.2876821", "EOF"]
        >>> _ = Path("coin.spn").write_text("\n".join(lines))
        >>> model = pc.CircuitModel.of(pc.read_spn("coin.spn"))
        >>> model.log_likelihood(torch.tensor([[0], [1]])).exp().detach()
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    lines = read_lines(path, comment="#")
    nodes, sizes = LineNodes(path), list[int]()
    for line in lines:
        if not sizes:
            sizes = _domains(line)
        elif line.words[0] == "EOF":
            break
        else:
            node = _spn_node(line, nodes, sizes)
            nodes.define(line, len(nodes.made), node)
    return nodes.build(nodes.made[len(nodes.made) - 1] if nodes.made else None)


def _domains(line: Line) -> list[int]:
    text = " ".join(line.words)
    if not (text.startswith("(") and text.endswith(")")):
        raise line.error(f"expected the numbers of categories, '(2 2 ...)'; found {text[:80]!r}")
    inner = Line(line.where, text[1:-1].split())
    return [
        inner.integer(place, "a number of categories", smallest=1)
        for place in range(max(1, len(inner.words)))
    ]


def _spn_node(line: Line, nodes: LineNodes, sizes: list[int]) -> int:
    match line.words[0]:
        case "v":
            line.expect(3, "v variable category")
            variable = line.variable(1, first=0)
            category = line.integer(2, "a category")
            if variable >= len(sizes) or category >= sizes[variable]:
                raise line.error(f"the first line has no category {category} of {variable}")
            return nodes.builder.add_indicator(variable, (category,), sizes[variable])
        case "*":
            children = [nodes.child(line, key) for key in line.integers(1, "children")]
            return nodes.product(line, children)
        case "+":
            return _weighted_sum(line, nodes, 1)
    raise line.error(f"expected 'v', '*', '+' or 'EOF'; found {line.words[0]!r}")


def _weighted_sum(line: Line, nodes: LineNodes, start: int) -> int:
    """A sum whose children and log-weights alternate from a place on."""
    places = range(start, len(line.words), 2)
    children = [nodes.child(line, line.integer(place, "a child")) for place in places]
    weights = [line.number(place + 1, "a log-weight") for place in places]
    return nodes.sum(line, children, weights)


def read_juice_jpc(path: str | Path) -> WeightedCircuit:
    r"""Reads Juice's own text format, which shares the ending `.jpc` with PyJuice's.

    Lines are `jpc COUNT`, `L id vtree literal`, `I id vtree variable category`,
    `C id vtree variable log-weight*`, `P id vtree n child*n` and
    `S id vtree n (child log-weight)*n`, children before parents; the last one is the root.
    Variables count from 1 there and from 0 here, categories from 0.

    Args:
        path: The file.

    Returns:
        The circuit and its log-weights.

    Raises:
        FormatError: If a line is not of that form; names the line.

    Examples:
        A mixture of both values of one variable:

        >>> from pathlib import Path
        >>> lines = ["jpc 3", "I 0 0 1 0", "I 1 0 1 1", "S 2 0 2 0 -0.6931472 1 -0.6931472"]
        >>> _ = Path("coin.jpc").write_text("\n".join(lines))
        >>> model = pc.CircuitModel.of(pc.read_juice_jpc("coin.jpc"))
        >>> model.log_likelihood(torch.tensor([[0], [1]])).exp().detach()
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    lines = [line for line in read_lines(path) if line.words[0] != "jpc"]
    sizes: dict[int, int] = {}
    for line in lines:
        if line.words[0] in "LIC":
            variable, size = _size(line)
            if size > _MOST_CATEGORIES:
                raise line.error(f"expected at most {_MOST_CATEGORIES} categories; found {size}")
            sizes[variable] = max(sizes.get(variable, 1), size)
    _check_padding(lines, sizes)
    nodes = LineNodes(path)
    root = None
    for line in lines:
        root = _juice_node(line, nodes, sizes)
        nodes.define(line, line.integer(1, "the number of a node"), root)
    return nodes.build(root)


def _check_padding(lines: list[Line], sizes: dict[int, int]) -> None:
    """Rows with fewer numbers than their variable has categories are filled up: within reason."""
    rows = [line for line in lines if line.words[0] == "C"]
    padding = sum(sizes[line.variable(3)] - (len(line.words) - 4) for line in rows)
    if padding > _MOST_PADDING:
        raise rows[0].error(f"rows lack {padding} numbers of their variables' categories")


def _size(line: Line) -> tuple[int, int]:
    """The variable of an input, and how many categories it must have."""
    if line.words[0] == "L":
        line.expect(4, "L id vtree literal")
        return line.literal(3)[0], 2
    if line.words[0] == "I":
        line.expect(5, "I id vtree variable category")
        return line.variable(3), line.integer(4, "a category") + 1
    line.expect(5, "C id vtree variable log-weights", more=True)
    return line.variable(3), len(line.words) - 4


def _juice_node(line: Line, nodes: LineNodes, sizes: dict[int, int]) -> int:
    match line.words[0]:
        case "L":
            variable, positive = line.literal(3)
            return nodes.builder.add_indicator(variable, (int(positive),), sizes[variable])
        case "I":
            variable = line.variable(3)
            category = line.integer(4, "a category")
            return nodes.builder.add_indicator(variable, (category,), sizes[variable])
        case "C":
            places = range(4, len(line.words))
            weights = [line.number(place, "a log-weight") for place in places]
            weights += [-math.inf] * (sizes[line.variable(3)] - len(weights))
            return nodes.builder.add_input(line.variable(3), weights)
        case "P":
            number = line.integer(3, "a number of children", smallest=1)
            line.expect(4 + number, f"P id vtree {number} and {number} children")
            return nodes.product(line, [nodes.child(line, k) for k in line.integers(4, "children")])
        case "S":
            number = line.integer(3, "a number of children", smallest=1)
            line.expect(4 + 2 * number, f"S id vtree {number} and {number} children with weights")
            return _weighted_sum(line, nodes, 4)
    raise line.error(f"expected 'jpc', 'L', 'I', 'C', 'P' or 'S'; found {line.words[0]!r}")


def read_clt(path: str | Path) -> WeightedCircuit:
    r"""Reads a Chow–Liu tree over binary variables, the `.clt` files of Juice's model zoo.

    The first line is the number of variables, the second the number of roots; then for every root
    `variable p(1)` and for every other variable `variable parent p(1 | 1) p(1 | 0)`. Variables
    count from 1 there and from 0 here.

    Args:
        path: The file.

    Returns:
        The circuit (deterministic) and its log-weights: `prior_V` (2,) of a root V and
        `conditional_V` (2, 2) of another variable, row j = p(V = . | parent = j).

    Raises:
        FormatError: If a line is not of that form, or the edges make no forest; names the line.

    Examples:
        Two variables; the second is 1 with probability 0.9 if the first is, else 0.2:

        >>> from pathlib import Path
        >>> _ = Path("two.clt").write_text("2\n1\n1 0.5\n2 1 0.9 0.2\n")
        >>> model = pc.CircuitModel.of(pc.read_clt("two.clt"))
        >>> model.log_likelihood(torch.tensor([[1, 1], [0, 1]])).exp().detach()
        tensor([0.4500, 0.1000], dtype=torch.float64)
    """
    lines = list(read_lines(path))
    if len(lines) < 3:
        raise FormatError(f"{path} must have at least three lines; found {len(lines)}")
    length = lines[0].variable(0) + 1
    num_roots = lines[1].integer(0, "the number of roots", smallest=1)
    if len(lines) != 2 + length:
        raise FormatError(
            f"{path} has {len(lines) - 2} lines of {length} variables; expected one each"
        )
    tree = _Tree(length)
    for place, line in enumerate(lines[2:]):
        tree.add(line, is_root=place < num_roots)
    return tree.build(str(path))


class _Tree:
    """A forest of binary variables and its probabilities."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._parents: dict[int, int | None] = {}
        self._log_weights: dict[str, torch.Tensor] = {}

    def add(self, line: Line, *, is_root: bool) -> None:
        """Adds a variable."""
        form = "variable p(1)" if is_root else "variable parent p(1 | 1) p(1 | 0)"
        line.expect(2 if is_root else 4, form)
        variable = self._variable(line, 0)
        if variable in self._parents:
            raise line.error(f"variable {variable + 1} is there already")
        self._parents[variable] = None if is_root else self._variable(line, 1)
        ones = [_probability(line, place) for place in ([1] if is_root else [3, 2])]
        table = torch.tensor([[1 - one, one] for one in ones], dtype=torch.float64).log()
        name = f"prior_{variable}" if is_root else f"conditional_{variable}"
        self._log_weights[name] = table[0] if is_root else table

    def build(self, path: str) -> WeightedCircuit:
        """The circuit: a vector of two units for the two values of every variable."""
        below: dict[int, list[AnyNode]] = {variable: [] for variable in range(self._length)}
        roots: list[AnyNode] = []
        for variable in self._children_first(path):
            value = Input(variable, num_units=2, num_categories=2, supports=((0,), (1,)))
            factors = below.pop(variable)
            node = Product(value, *factors) if factors else value
            parent = self._parents[variable]
            if parent is None:
                roots.append(Sum(node, num_units=1, parameter=f"prior_{variable}"))
            else:
                below[parent].append(Sum(node, num_units=2, parameter=f"conditional_{variable}"))
        root = roots[0] if len(roots) == 1 else Product(*roots)
        try:
            return WeightedCircuit(Circuit(root), self._log_weights)
        except CircuitError as error:
            raise FormatError(f"{path}: {error}") from error

    def _variable(self, line: Line, place: int) -> int:
        variable = line.variable(place)
        if variable >= self._length:
            raise line.error(f"variable {variable + 1} is more than {self._length}")
        return variable

    def _children_first(self, path: str) -> list[int]:
        waiting = dict.fromkeys(range(self._length), 0)
        for parent in self._parents.values():
            if parent is not None:
                waiting[parent] += 1
        ready = [variable for variable, number in waiting.items() if not number]
        for variable in ready:  # grows while it is read
            parent = self._parents[variable]
            if parent is not None:
                waiting[parent] -= 1
                if not waiting[parent]:
                    ready.append(parent)
        if len(ready) < self._length:
            raise FormatError(f"{path}: the edges make a circle, expected a forest")
        return ready


def _probability(line: Line, place: int) -> float:
    value = line.number(place, "a probability")
    if not 0 <= value <= 1:
        raise line.error(f"{value} is not a probability")
    return value
