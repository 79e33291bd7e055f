"""Probabilistic sentential decision diagrams in the UCLA text format."""

from __future__ import annotations

import math
from pathlib import Path

from pcircuits.io.lines import Line, LineNodes, read_lines
from pcircuits.io.vtree import NumberedVtree, read_vtree
from pcircuits.parameters import WeightedCircuit


def read_psdd(path: str | Path, vtree: str | Path | None = None) -> WeightedCircuit:
    r"""Reads a `.psdd` file (Kisa et al., "Probabilistic sentential decision diagrams", KR 2014).

    Lines are `psdd COUNT`, `L id vtree literal`, `T id vtree variable logp` (of true; some tools
    write those of false and of true) and `D id vtree n (prime sub logp)*n`, children before
    parents; the last one is the root. Variables count from 1 there and from 0 here; category 1 is
    true.

    Args:
        path: The file.
        vtree: The `.vtree` file it belongs to; if given, every node is checked against it.

    Returns:
        The circuit, smooth, deterministic and structured-decomposable, and its log-weights.

    Raises:
        FormatError: If a line is not of that form or does not follow the vtree; names the line.

    Examples:
        The first is true with probability 0.4; then so is the second, else with probability 0.5:

        >>> from pathlib import Path
        >>> lines = ["psdd 5", "L 0 0 1", "L 1 0 -1", "L 2 2 2", "T 3 2 2 -0.6931472"]
        >>> lines += ["D 4 1 2 0 2 -0.9162907 1 3 -0.5108256"]
        >>> _ = Path("two.psdd").write_text("\n".join(lines))
        >>> model = pc.CircuitModel.of(pc.read_psdd("two.psdd"))
        >>> model.marginals(pc.Evidence()).detach()[0, 1]  # 0.6 * 0.5, 0.4 + 0.6 * 0.5
        tensor([0.3000, 0.7000], dtype=torch.float64)
    """
    reader = _Reader(LineNodes(path), read_vtree(vtree) if vtree is not None else None)
    root = None
    for line in read_lines(path):
        if line.words[0] != "psdd":
            root = reader.add(line)
    return reader.nodes.build(root)


class _Reader:
    """Makes one node after the other."""

    def __init__(self, nodes: LineNodes, vtree: NumberedVtree | None) -> None:
        self.nodes = nodes
        self._vtree = vtree

    def add(self, line: Line) -> int:
        """The node of a line."""
        makers = {"L": self._literal, "T": self._top, "D": self._decision}
        if line.words[0] not in makers:
            raise line.error(f"expected 'psdd', 'L', 'T' or 'D'; found {line.words[0]!r}")
        line.expect(4, "kind id vtree ...", more=True)
        node = makers[line.words[0]](line)
        self._check_below(line, node, line.integer(2, "the number of a vtree node"))
        self.nodes.define(line, line.integer(1, "the number of a node"), node)
        return node

    def _literal(self, line: Line) -> int:
        line.expect(4, "L id vtree literal")
        return self.nodes.literal(*line.literal(3))

    def _top(self, line: Line) -> int:
        line.expect(5, "T id vtree variable logp", more=True)
        line.expect(min(len(line.words), 6), "T id vtree variable logp [logp]")
        true = line.number(len(line.words) - 1, "a log-probability")
        if true > 0:
            raise line.error(f"{true} is not the logarithm of a probability")
        both = len(line.words) == 6
        false = line.number(4, "a log-probability") if both else _log_complement(true)
        return self.nodes.builder.add_input(line.variable(3), [false, true])

    def _decision(self, line: Line) -> int:
        number = line.integer(3, "a number of elements", smallest=1)
        line.expect(4 + 3 * number, f"D id vtree {number} and {number} times prime, sub, logp")
        products, log_weights = [], []
        for place in range(4, len(line.words), 3):
            keys = [line.integer(place + i, "the number of a node") for i in (0, 1)]
            pair = [self.nodes.child(line, key) for key in keys]
            self._check_sides(line, pair)
            products.append(self.nodes.product(line, pair))
            log_weights.append(line.number(place + 2, "a log-probability"))
        return self.nodes.sum(line, products, log_weights)

    def _check_below(self, line: Line, node: int, place: int) -> None:
        if self._vtree is None:
            return
        if place not in self._vtree.scopes:
            raise line.error(f"the vtree has no node {place}")
        if self.nodes.builder.scope(node) != self._vtree.scopes[place]:
            raise line.error(f"its variables are not those of node {place} of the vtree")

    def _check_sides(self, line: Line, pair: list[int]) -> None:
        if self._vtree is None:
            return
        sides = self._vtree.children.get(line.integer(2, "the number of a vtree node"))
        if sides is None:
            raise line.error("a decision must belong to an inner node of the vtree")
        for child, side in zip(pair, sides, strict=True):
            if self.nodes.builder.scope(child) != self._vtree.scopes[side]:
                raise line.error(f"a child's variables are not those of node {side} of the vtree")


def _log_complement(log_probability: float) -> float:
    """Logarithm of 1 - p."""
    if log_probability == 0:
        return -math.inf
    return math.log(-math.expm1(log_probability))
