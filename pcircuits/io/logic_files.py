"""Compiled Boolean formulas: d-DNNF files of c2d, dsharp and d4, and SDD files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pcircuits.errors import CircuitError, FormatError
from pcircuits.io.lines import Line, read_lines
from pcircuits.io.vtree import read_vtree
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.logic import And, Formula, Literal, Or, logic

# Variables need no line of their own: those that are left open are added, each with its scope.
_MOST_VARIABLES = 50_000


def read_nnf(path: str | Path, num_variables: int | None = None) -> Circuit:
    r"""Reads a formula in (deterministic) decomposable negation normal form.

    Two formats are told apart by the first line. c2d's: `nnf nodes edges variables`, then one node
    a line, named by its place from 0: `L literal`, `A n child*n` or `O variable n child*n`, the
    last one the root. d4's: nodes `o id 0`, `a id 0`, `t id 0`, `f id 0` and edges
    `parent child literal* 0`, node 1 the root. Variables count from 1 there and from 0 here.

    Args:
        path: The file.
        num_variables: Number of variables L. Default: the first line's, else (in d4's files, which
            do not say it) the largest one that occurs.

    Returns:
        The circuit, without parameters, made smooth: 1 on the models and 0 elsewhere if the
        formula is deterministic; category 1 is true.

    Raises:
        FormatError: If a line is not of that form, or the formula is always false.

    Examples:
        c2d's file of "the first or the second, not both":

        >>> from pathlib import Path
        >>> lines = ["nnf 7 6 2", "L 1", "L -2", "A 2 0 1", "L -1", "L 2", "A 2 3 4", "O 1 2 2 5"]
        >>> _ = Path("xor.nnf").write_text("\n".join(lines))
        >>> model = pc.CircuitModel(pc.read_nnf("xor.nnf"))
        >>> model.log_evidence(pc.Evidence()).exp().round()  # models
        tensor([2.], dtype=torch.float64)
    """
    lines = list(read_lines(path, most=_MOST_VARIABLES))
    if not lines:
        raise FormatError(f"{path} has no nodes")
    if lines[0].words[0] == "nnf":
        lines[0].expect(4, "nnf nodes edges variables")
        stated = lines[0].variable(3, first=0)
        return _circuit(path, _c2d_root(path, lines[1:]), num_variables or stated or None)
    return _circuit(path, _d4_root(path, lines), num_variables)


def read_sdd(path: str | Path, vtree: str | Path | None = None) -> Circuit:
    r"""Reads a sentential decision diagram of the SDD package.

    Lines are `sdd COUNT`, `F id`, `T id`, `L id vtree literal` and
    `D id vtree n (prime sub)*n`, children before parents; the last one is the root.

    Args:
        path: The file.
        vtree: The `.vtree` file it belongs to: says which variables there are. Default: those up
            to the largest one that occurs.

    Returns:
        The circuit, deterministic and without parameters, made smooth; category 1 is true.

    Raises:
        FormatError: If a line is not of that form, or the formula is always false.

    Examples:
        "Both": variables 1 and 2 are the leaves 0 and 2 of the tree of variables.

        >>> from pathlib import Path
        >>> lines = ["sdd 5", "L 0 0 1", "L 1 2 2", "L 2 0 -1", "F 3", "D 4 1 2 0 1 2 3"]
        >>> _ = Path("both.sdd").write_text("\n".join(lines))
        >>> circuit = pc.read_sdd("both.sdd")
        >>> worlds = torch.tensor([[1, 1], [1, 0]])
        >>> pc.CircuitModel(circuit).log_likelihood(worlds).exp()
        tensor([1., 0.], dtype=torch.float64)
    """
    formulas: dict[int, Formula] = {}
    root: Formula | None = None
    for line in read_lines(path, most=_MOST_VARIABLES):
        if line.words[0] == "sdd":
            continue
        key = line.integer(1, "the number of a node")
        if key in formulas:
            raise line.error(f"node {key} is there already")
        root = formulas[key] = _sdd_formula(line, formulas)
    if root is None:
        raise FormatError(f"{path} has no nodes")
    return _circuit(path, root, read_vtree(vtree).num_variables if vtree is not None else None)


def _circuit(path: str | Path, root: Formula, num_variables: int | None) -> Circuit:
    try:
        return logic(root, num_variables)
    except CircuitError as error:
        raise FormatError(f"{path}: {error}") from error


def _c2d_root(path: str | Path, lines: Sequence[Line]) -> Formula:
    formulas: dict[int, Formula] = {}
    for line in lines:
        match line.words[0]:
            case "L":
                line.expect(2, "L literal")
                formula: Formula = Literal(*line.literal(1))
            case "A":
                formula = And(*_operands(line, 1, formulas))
            case "O":
                formula = Or(*_operands(line, 2, formulas))
            case _:
                raise line.error(f"expected 'L', 'A' or 'O'; found {line.words[0]!r}")
        formulas[len(formulas)] = formula
    if not formulas:
        raise FormatError(f"{path} has no nodes")
    return formulas[len(formulas) - 1]


def _operands(line: Line, place: int, formulas: Mapping[int, Formula]) -> list[Formula]:
    number = line.integer(place, "a number of children")
    line.expect(place + 1 + number, f"{line.words[0]} ... {number} and {number} children")
    return [_known(line, key, formulas) for key in line.integers(place + 1, "children")]


def _known(line: Line, key: int, formulas: Mapping[int, Formula]) -> Formula:
    if key not in formulas:
        raise line.error(f"node {key} is not defined on a line before")
    return formulas[key]


def _sdd_formula(line: Line, formulas: Mapping[int, Formula]) -> Formula:
    match line.words[0]:
        case "F":
            line.expect(2, "F id")
            return Or()
        case "T":
            line.expect(2, "T id")
            return And()
        case "L":
            line.expect(4, "L id vtree literal")
            return Literal(*line.literal(3))
        case "D":
            number = line.integer(3, "a number of elements", smallest=1)
            line.expect(4 + 2 * number, f"D id vtree {number} and {number} times prime, sub")
            found = [_known(line, key, formulas) for key in line.integers(4, "children")]
            return Or(*(And(*pair) for pair in zip(found[::2], found[1::2], strict=True)))
    raise line.error(f"expected 'sdd', 'F', 'T', 'L' or 'D'; found {line.words[0]!r}")


def _d4_root(path: str | Path, lines: Sequence[Line]) -> Formula:
    """Edges may stand before or after the nodes that they connect."""
    kinds: dict[int, str] = {}
    edges: dict[int, list[tuple[Line, int]]] = {}
    for line in lines:
        if line.words[-1] != "0":
            raise line.error("expected a line that ends in 0")
        if line.words[0] in ("o", "a", "t", "f"):
            key = line.integer(1, "the number of a node", smallest=1)
            if key in kinds:
                raise line.error(f"node {key} is there already")
            kinds[key] = line.words[0]
        else:
            parent = line.integer(0, "a kind of node or the number of a parent", smallest=1)
            child = line.integer(1, "the number of a child", smallest=1)
            edges.setdefault(parent, []).append((line, child))
    if 1 not in kinds:
        raise FormatError(f"{path} has no node 1, which is the root")
    formulas: dict[int, Formula] = {}
    for key in _below_first(path, kinds, edges):
        parts = [_edge_formula(line, formulas[child]) for line, child in edges.get(key, ())]
        constant = And() if kinds[key] == "t" else Or()
        formulas[key] = (
            constant if kinds[key] in "tf" else (Or if kinds[key] == "o" else And)(*parts)
        )
    return formulas[1]


def _edge_formula(line: Line, below: Formula) -> Formula:
    """What is below an edge, with the literals that stand on it."""
    literals = [Literal(*line.literal(place)) for place in range(2, len(line.words) - 1)]
    return And(*literals, below) if literals else below


def _below_first(
    path: str | Path, kinds: Mapping[int, str], edges: Mapping[int, Sequence[tuple[Line, int]]]
) -> list[int]:
    """What the root reaches, children first."""
    order: list[int] = []
    state: dict[int, int] = {}  # 1 while its children are waited for, then 2
    stack = [1]
    while stack:
        key = stack[-1]
        if state.get(key) is None:
            state[key] = 1
            for line, child in edges.get(key, ()):
                if child not in kinds:
                    raise line.error(f"node {child} is not defined")
                if state.get(child) == 1:
                    raise line.error(f"the edge from {key} to {child} closes a circle")
                if child not in state:
                    stack.append(child)
            continue
        stack.pop()
        if state[key] == 1:
            state[key] = 2
            order.append(key)
    return order
