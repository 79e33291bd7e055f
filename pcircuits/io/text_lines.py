"""The lines of a circuit's text, each a node or the weights of a parameter."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcircuits.errors import CircuitError, FormatError
from pcircuits.io.text_scanner import Scanner
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

HEADER = "pcircuits-text 1"


def read_lines(text: str, where: str) -> CircuitReader:
    """Reads all lines of a text; `where` says in messages what it is.

    Raises:
        FormatError: If a line is not of the form; names its number.
    """
    reader = CircuitReader()
    header = False
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if header:
            reader.add(Scanner(f"{where}:{number}", line.rstrip(), len(lines)))
        elif line.split() != HEADER.split():
            raise FormatError(f"{where}:{number}: expected {HEADER!r}; found {line!r}")
        header = True
    return reader


@dataclass
class CircuitReader:
    """What the lines so far have made.

    Attributes:
        nodes: Name -> node, in the order of the lines.
        log_weights: Name of a parameter -> its log-weights, float64.
    """

    nodes: dict[str, AnyNode] = field(default_factory=dict)
    log_weights: dict[str, Tensor] = field(default_factory=dict)

    def circuit(self, where: str) -> Circuit:
        """The circuit under the last node.

        Raises:
            FormatError: If there is none, or the nodes are no circuit.
        """
        if not self.nodes:
            raise FormatError(f"{where} has no nodes")
        try:
            return Circuit(next(reversed(self.nodes.values())))
        except CircuitError as error:
            raise FormatError(f"{where}: {error}") from error

    def add(self, line: Scanner) -> None:
        """Reads a line.

        Raises:
            FormatError: If it is not of the form.
        """
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

    def _node(self, line: Scanner, kind: str, name: str) -> AnyNode:
        if kind == "input":
            return _input(line, name)
        if kind not in ("sum", "product", "kronecker"):
            raise line.error(f"expected input, sum, product or kronecker; found {kind!r}")
        children = self._children(line)
        if kind == "sum":
            return _sum(line, name, children)
        return (Product if kind == "product" else KroneckerProduct)(*children, name=name)

    def _children(self, line: Scanner) -> list[AnyNode]:
        line.symbol("(")
        children: list[AnyNode] = []
        while not children or line.take(","):
            name = line.name("the name of a child")
            if name not in self.nodes:
                raise line.error(f"node {name!r} is not defined on a line before")
            children.append(self.nodes[name])
        line.symbol(")")
        return children

    def _add_weights(self, line: Scanner, *, is_log: bool) -> None:
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


def _input(line: Scanner, name: str) -> Input:
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


def _sum(line: Scanner, name: str, children: list[AnyNode]) -> Sum:
    options = _options(line, {"units", "mixing", "weighted", "parameter"})
    return Sum(
        *children,
        num_units=options.get("units", 1),
        mixing=options.get("mixing", False),
        weighted=options.get("weighted", True),
        parameter=options.get("parameter"),
        name=name,
    )


def _options(line: Scanner, known: set[str]) -> dict[str, Any]:
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


def _shared(line: Scanner) -> str | Part:
    name = line.name("the name of a parameter")
    if not line.take("["):
        return name
    start = line.integer("the start of a part")
    line.symbol("]")
    return Part(name, start)


def _supports(line: Scanner) -> tuple[tuple[int, ...], ...]:
    value = line.value("supports, a list of lists of categories")
    lists = isinstance(value, list) and all(isinstance(support, list) for support in value)
    if not lists or not all(type(category) is int for support in value for category in support):
        raise line.error("supports must be a list of lists of categories")
    return tuple(tuple(support) for support in value)


def _flag(line: Scanner, key: str) -> bool:
    word = line.word("true or false")
    if word not in ("true", "false"):
        raise line.error(f"{key} must be true or false; found {word!r}")
    return word == "true"
