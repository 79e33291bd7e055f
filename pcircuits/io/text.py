"""Circuits as text to read and to write by hand, one node a line.

pcircuits-text 1
# whether it rains, whether the grass is wet
rain = input 0 units=2 categories=2 supports=[[0], [1]]
wet = input 1 units=2 categories=2
both = product(rain, wet)
root = sum(both)
weights wet = [[0.9, 0.1], [0.2, 0.8]]
weights root = [0.7, 0.3]
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcircuits.errors import CircuitError, FormatError
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

_HEADER = "pcircuits-text"
_VERSION = 1
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_INTEGER = re.compile(r"[0-9]{1,18}")
_SPACE = re.compile(r"[ \t]*")
_JSON = json.JSONDecoder()
_LARGEST_LOG = 700.0  # beyond it exp() would lose a log-weight


def to_text(circuit: Circuit | WeightedCircuit) -> str:
    """Writes a circuit as text, with its weights if it has any.

    Args:
        circuit: The circuit, or one with its weights (meant for small ones).

    Returns:
        A line of its own for every node, children first and the root last, then one for every
        parameter that has weights. Names that are not words stand in quotes.

    Examples:
        >>> fair = {"input_0": torch.tensor([[0.5, 0.5]]).log()}
        >>> coin = pc.WeightedCircuit(pc.families.factorized(1, num_categories=2), fair)
        >>> print(pc.to_text(coin))
        pcircuits-text 1
        input_0 = input 0 categories=2
        root = product(input_0)
        weights input_0 = [[0.5, 0.5]]
    """
    weighted = circuit if isinstance(circuit, WeightedCircuit) else None
    structure = weighted.circuit if weighted else circuit
    assert isinstance(structure, Circuit), "the union has two members"
    lines = [f"{_HEADER} {_VERSION}"]
    names = {node: _quoted(name) for node, name in structure.node_names.items()}
    for node in structure.nodes:
        lines.append(f"{names[node]} = {_described(structure, node, names)}")
    for name, tensor in (weighted.log_weights if weighted else {}).items():
        lines.append(_weights_line(name, tensor))
    return "\n".join(lines) + "\n"


def from_text(text: str, *, where: str = "text") -> Circuit:
    """Reads a circuit from text, without its weights; see `weighted_from_text`.

    Args:
        text: The text, in the form that `weighted_from_text` describes.
        where: What it is, for messages.

    Returns:
        The circuit.

    Raises:
        FormatError: If a line is not of that form; names its number.

    Examples:
        >>> circuit = pc.from_text('''pcircuits-text 1
        ... x = input 0 units=2 categories=3
        ... root = sum(x)
        ... ''')
        >>> circuit.num_variables, circuit.num_categories
        (1, 3)
    """
    return _read(text, where).circuit(where)


def weighted_from_text(text: str, *, where: str = "text") -> WeightedCircuit:
    """Reads a circuit and its weights from text.

    The first line is `pcircuits-text 1`; lines that begin with `#` are comments. A node is

        NAME = input VARIABLE units=K categories=V [supports=[[...], ...]] [parameter=P]
        NAME = product(CHILD, ...)   or   NAME = kronecker(CHILD, ...)
        NAME = sum(CHILD, ...) units=K [mixing=true] [weighted=false] [parameter=P]

    with children on lines before, and the root last. `units` may be left out if 1, `parameter` if
    it is the node's own; `parameter=P[12]` is the part of P from 12 on (`pcircuits.Part`). Weights
    are `weights P = [...]`, numbers >= 0 in the parameter's shape, or `log_weights P = [...]`.

    Args:
        text: The text.
        where: What it is, for messages.

    Returns:
        The circuit and its log-weights in float64; they need not be normalised.

    Raises:
        FormatError: If a line is not of that form, or weights are missing; names the line.

    Examples:
        >>> weighted = pc.weighted_from_text('''pcircuits-text 1
        ... rain = input 0 units=2 categories=2 supports=[[0], [1]]
        ... wet = input 1 units=2 categories=2
        ... both = product(rain, wet)
        ... root = sum(both)
        ... weights wet = [[0.9, 0.1], [0.2, 0.8]]
        ... weights root = [0.7, 0.3]
        ... ''')
        >>> model = pc.CircuitModel.of(weighted)
        >>> model.log_likelihood(torch.tensor([[1, 1]])).exp().detach()  # 0.3 * 0.8
        tensor([0.2400], dtype=torch.float64)
    """
    reader = _read(text, where)
    circuit = reader.circuit(where)
    try:
        return WeightedCircuit(circuit, reader.log_weights)
    except CircuitError as error:
        raise FormatError(f"{where}: {error}") from error


def _quoted(name: str) -> str:
    return name if _WORD.fullmatch(name) else json.dumps(name)


def _described(circuit: Circuit, node: AnyNode, names: Mapping[AnyNode, str]) -> str:
    below = ", ".join(names[child] for child in node.children)
    match node:
        case Input():
            text = f"input {node.variable}{_units(node)} categories={node.num_categories}"
            if node.supports is not None:
                return f"{text} supports={json.dumps(node.supports)}"
            return text + _parameter(circuit, node)
        case Product():
            return f"product({below})"
        case KroneckerProduct():
            return f"kronecker({below})"
        case Sum():
            mixing = " mixing=true" if node.mixing else ""
            weights = _parameter(circuit, node) if node.weighted else " weighted=false"
            return f"sum({below}){_units(node)}{mixing}{weights}"


def _units(node: AnyNode) -> str:
    return f" units={node.num_units}" if node.num_units > 1 else ""


def _parameter(circuit: Circuit, node: Input | Sum) -> str:
    name = circuit.parameter_names[node]
    if isinstance(node.parameter, Part):
        return f" parameter={_quoted(name)}[{node.parameter.start}]"
    return "" if name == circuit.node_names[node] else f" parameter={_quoted(name)}"


def _weights_line(name: str, tensor: Tensor) -> str:
    logs = tensor.detach().double()
    finite = logs[torch.isfinite(logs)]
    is_log = bool((finite.abs() > _LARGEST_LOG).any())
    values = (logs if is_log else logs.exp()).tolist()
    # A digit less than the type holds: 0.1 and not 0.10000000000000002.
    digits = 15 if tensor.dtype == torch.float64 else 8
    key = "log_weights" if is_log else "weights"
    return f"{key} {_quoted(name)} = {json.dumps(_rounded(values, digits))}"


def _rounded(values: Any, digits: int) -> Any:
    if isinstance(values, list):
        return [_rounded(value, digits) for value in values]
    return float(f"{values:.{digits}g}")


class _Scanner:
    """Reads one line from left to right."""

    def __init__(self, where: str, text: str, most: int) -> None:
        self.most = most  # variables; scopes are bit masks, and each variable has a line
        self._where = where
        self._text = text
        self._place = 0
        self._skip_space()

    def error(self, text: str) -> FormatError:
        return FormatError(f"{self._where}: {text}")

    def expected(self, what: str) -> FormatError:
        found = self._text[self._place : self._place + 40]
        return self.error(f"expected {what}; found {found!r}" if found else f"expected {what}")

    def at_end(self) -> bool:
        return self._place == len(self._text)

    def take(self, symbol: str) -> bool:
        """Whether the symbol comes next; if so it is passed."""
        if not self._text.startswith(symbol, self._place):
            return False
        self._pass(self._place + len(symbol))
        return True

    def symbol(self, symbol: str) -> None:
        if not self.take(symbol):
            raise self.expected(repr(symbol))

    def word(self, what: str) -> str:
        match = _WORD.match(self._text, self._place)
        if not match:
            raise self.expected(what)
        self._pass(match.end())
        return match.group()

    def name(self, what: str) -> str:
        """A word, or any text in quotes."""
        if not self._text.startswith('"', self._place):
            return self.word(what)
        value = self.value(what)
        assert isinstance(value, str), "it begins with a quote"
        return value

    def integer(self, what: str) -> int:
        match = _INTEGER.match(self._text, self._place)
        if not match:
            raise self.expected(what)
        self._pass(match.end())
        return int(match.group())

    def value(self, what: str) -> Any:
        """A JSON value."""
        try:
            value, end = _JSON.raw_decode(self._text, self._place)
        except (ValueError, RecursionError) as error:
            raise self.expected(what) from error
        self._pass(end)
        return value

    def _pass(self, place: int) -> None:
        self._place = place
        self._skip_space()

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._place)
        assert match is not None, "it matches nothing too"
        self._place = match.end()


@dataclass
class _Reader:
    """What the lines so far have made."""

    nodes: dict[str, AnyNode] = field(default_factory=dict)
    log_weights: dict[str, Tensor] = field(default_factory=dict)

    def circuit(self, where: str) -> Circuit:
        if not self.nodes:
            raise FormatError(f"{where} has no nodes")
        try:
            return Circuit(next(reversed(self.nodes.values())))
        except CircuitError as error:
            raise FormatError(f"{where}: {error}") from error

    def add(self, line: _Scanner) -> None:
        """Reads a line."""
        name = line.name("the name of a node")
        if name in ("weights", "log_weights") and not line.take("="):
            self._add_weights(line, is_log=name == "log_weights")
            return
        if name not in ("weights", "log_weights"):
            line.symbol("=")
        if name in self.nodes:
            raise line.error(f"node {name!r} is there already")
        kind = line.word("input, sum, product or kronecker")
        try:
            self.nodes[name] = self._node(line, kind, name)
        except FormatError:
            raise
        except CircuitError as error:
            raise line.error(str(error)) from error
        if not line.at_end():
            raise line.expected("the end of the line")

    def _node(self, line: _Scanner, kind: str, name: str) -> AnyNode:
        if kind == "input":
            return _input(line, name)
        if kind not in ("sum", "product", "kronecker"):
            raise line.error(f"expected input, sum, product or kronecker; found {kind!r}")
        children = self._children(line)
        if kind == "sum":
            return _sum(line, name, children)
        return (Product if kind == "product" else KroneckerProduct)(*children, name=name)

    def _children(self, line: _Scanner) -> list[AnyNode]:
        line.symbol("(")
        children: list[AnyNode] = []
        while not children or line.take(","):
            name = line.name("the name of a child")
            if name not in self.nodes:
                raise line.error(f"node {name!r} is not defined on a line before")
            children.append(self.nodes[name])
        line.symbol(")")
        return children

    def _add_weights(self, line: _Scanner, *, is_log: bool) -> None:
        name = line.name("the name of a parameter")
        line.symbol("=")
        if name in self.log_weights:
            raise line.error(f"parameter {name!r} has weights already")
        value = line.value("weights, a list of numbers or of lists of numbers")
        try:
            weights = torch.tensor(value, dtype=torch.float64)
        except (ValueError, TypeError, RuntimeError) as error:
            raise line.error(f"parameter {name!r}: {error}") from error
        if not bool((weights < math.inf).all()) or (not is_log and bool((weights < 0).any())):
            raise line.error(f"parameter {name!r} has a weight that is negative or not finite")
        self.log_weights[name] = weights if is_log else weights.log()
        if not line.at_end():
            raise line.expected("the end of the line")


def _read(text: str, where: str) -> _Reader:
    reader = _Reader()
    header = False
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if header:
            reader.add(_Scanner(f"{where}:{number}", line.rstrip(), len(lines)))
        elif line.split() != [_HEADER, str(_VERSION)]:
            raise FormatError(f"{where}:{number}: expected '{_HEADER} {_VERSION}'; found {line!r}")
        header = True
    return reader


def _input(line: _Scanner, name: str) -> Input:
    variable = line.integer("a variable")
    if variable >= line.most:
        raise line.error(
            f"variable {variable} is too large; {line.most} lines have at most as many variables"
        )
    options = _options(line, {"units", "categories", "supports", "parameter"})
    if "categories" not in options:
        raise line.error("expected categories=..., the number of categories")
    return Input(
        variable,
        num_units=options.get("units", 1),
        num_categories=options["categories"],
        supports=options.get("supports"),
        parameter=options.get("parameter"),
        name=name,
    )


def _sum(line: _Scanner, name: str, children: list[AnyNode]) -> Sum:
    options = _options(line, {"units", "mixing", "weighted", "parameter"})
    return Sum(
        *children,
        num_units=options.get("units", 1),
        mixing=options.get("mixing", False),
        weighted=options.get("weighted", True),
        parameter=options.get("parameter"),
        name=name,
    )


def _options(line: _Scanner, known: set[str]) -> dict[str, Any]:
    """The `key=value` after a node, each once."""
    options: dict[str, Any] = {}
    while not line.at_end():
        key = line.word(f"one of {sorted(known)}")
        if key not in known or key in options:
            raise line.error(f"expected one of {sorted(known)}, each once; found {key!r}")
        line.symbol("=")
        match key:
            case "units" | "categories":
                options[key] = line.integer(f"{key}, a number")
            case "parameter":
                options[key] = _shared(line)
            case "supports":
                options[key] = _supports(line)
            case _:
                options[key] = _flag(line, key)
    return options


def _shared(line: _Scanner) -> str | Part:
    name = line.name("the name of a parameter")
    if not line.take("["):
        return name
    start = line.integer("the start of a part")
    line.symbol("]")
    return Part(name, start)


def _supports(line: _Scanner) -> tuple[tuple[int, ...], ...]:
    value = line.value("supports, a list of lists of categories")
    lists = isinstance(value, list) and all(isinstance(support, list) for support in value)
    if not lists or not all(type(category) is int for support in value for category in support):
        raise line.error("supports must be a list of lists of categories")
    return tuple(tuple(support) for support in value)


def _flag(line: _Scanner, key: str) -> bool:
    word = line.word("true or false")
    if word not in ("true", "false"):
        raise line.error(f"{key} must be true or false; found {word!r}")
    return word == "true"
