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
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcircuits.errors import CircuitError, FormatError
from pcircuits.io.text_lines import HEADER, read_lines
from pcircuits.io.text_scanner import WORD
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

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
    lines = [HEADER]
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
    return read_lines(text, where).circuit(where)


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
    reader = read_lines(text, where)
    circuit = reader.circuit(where)
    try:
        return WeightedCircuit(circuit, reader.log_weights)
    except CircuitError as error:
        raise FormatError(f"{where}: {error}") from error


def _quoted(name: str) -> str:
    return name if WORD.fullmatch(name) else json.dumps(name)


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
