"""Circuits as JSON: a list of nodes, each after its children."""

from __future__ import annotations

from typing import Any

from pcircuits.errors import CircuitError, FormatError
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum

# Version 2 added indicators (`supports`), plain sums (`weighted`) and parts of parameters (`part`).
STRUCTURE_VERSION = 2
_READABLE = (1, 2)

_FIELDS = {
    "input": {"variable", "units", "categories", "supports", "parameter", "part", "name"},
    "product": {"children", "name"},
    "kronecker": {"children", "name"},
    "sum": {"children", "units", "mixing", "weighted", "parameter", "part", "name"},
}


def structure_to_json(circuit: Circuit) -> dict[str, Any]:
    """Describes a circuit by JSON values; names are written out, so they survive.

    Args:
        circuit: The circuit; it holds no weights.

    Returns:
        A dictionary that `json.dumps` writes; the keys are those of the file format.

    Examples:
        >>> description = pc.structure_to_json(pc.families.factorized(2, num_categories=3))
        >>> [node["kind"] for node in description["nodes"]]
        ['input', 'input', 'product']
    """
    place = {node: i for i, node in enumerate(circuit.nodes)}
    nodes = []
    for node in circuit.nodes:
        entry: dict[str, Any] = {"kind": _kind(node), "name": circuit.node_names[node]}
        if isinstance(node, Input):
            entry |= {
                "variable": node.variable,
                "units": node.num_units,
                "categories": node.num_categories,
            }
        else:
            entry["children"] = [place[child] for child in node.children]
        if isinstance(node, Sum):
            entry |= {"units": node.num_units, "mixing": node.mixing}
        if isinstance(node, (Input, Sum)):
            entry |= _parameter_fields(circuit, node)
        nodes.append(entry)
    return {"structure_version": STRUCTURE_VERSION, "nodes": nodes}


def _parameter_fields(circuit: Circuit, node: Input | Sum) -> dict[str, Any]:
    if isinstance(node, Input) and node.supports is not None:
        return {"supports": [list(support) for support in node.supports]}
    if isinstance(node, Sum) and not node.weighted:
        return {"weighted": False}
    fields: dict[str, Any] = {"parameter": circuit.parameter_names[node]}
    if isinstance(node.parameter, Part):
        fields["part"] = node.parameter.start
    return fields


def structure_from_json(description: object) -> Circuit:
    """Rebuilds a circuit from what `structure_to_json` wrote.

    Args:
        description: Dictionaries, lists, strings and numbers, as `json.loads` returns them.

    Returns:
        The circuit, with the names of its nodes and parameters.

    Raises:
        FormatError: If the description is not of this version or form, or its circuit not valid.

    Examples:
        >>> description = pc.structure_to_json(pc.families.factorized(2, num_categories=3))
        >>> pc.structure_from_json(description).num_variables
        2
    """
    if not isinstance(description, dict):
        raise FormatError(f"a structure must be an object; found {type(description).__name__}")
    version = description.get("structure_version")
    if version not in _READABLE:
        raise FormatError(f"structure_version must be one of {_READABLE}; found {version!r}")
    entries = description.get("nodes")
    if not isinstance(entries, list) or not entries:
        raise FormatError("a structure must have a list of nodes; found none")
    made: list[AnyNode] = []
    for place, entry in enumerate(entries):
        try:
            made.append(_node(entry, made, len(entries)))
        except CircuitError as error:
            raise FormatError(f"node {place}: {error}") from error
        except (KeyError, TypeError, IndexError) as error:
            raise FormatError(f"node {place} is not well formed: {error!r}") from error
    try:
        return Circuit(made[-1])
    except CircuitError as error:
        raise FormatError(str(error)) from error


def _kind(node: AnyNode) -> str:
    match node:
        case Input():
            return "input"
        case Product():
            return "product"
        case KroneckerProduct():
            return "kronecker"
        case Sum():
            return "sum"


def _node(entry: dict[str, Any], made: list[AnyNode], num_nodes: int) -> AnyNode:
    kind = entry["kind"]
    unknown = entry.keys() - _FIELDS.get(kind, set()) - {"kind"}
    if kind not in _FIELDS or unknown:
        raise FormatError(f"unknown kind {kind!r} or fields {sorted(unknown)}")
    name = entry["name"]
    if kind == "input":
        # Scopes are bit masks: an absurd index would cost memory before any other check.
        if not isinstance(entry["variable"], int) or entry["variable"] >= num_nodes:
            raise FormatError(f"variable {entry['variable']!r} in a file of {num_nodes} nodes")
        return Input(
            entry["variable"],
            num_units=entry["units"],
            num_categories=entry["categories"],
            supports=_supports(entry.get("supports")),
            parameter=_parameter(entry),
            name=name,
        )
    children = [_child(index, made) for index in entry["children"]]
    if kind == "product":
        return Product(*children, name=name)
    if kind == "kronecker":
        return KroneckerProduct(*children, name=name)
    return Sum(
        *children,
        num_units=entry["units"],
        mixing=bool(entry["mixing"]),
        weighted=bool(entry.get("weighted", True)),
        parameter=_parameter(entry),
        name=name,
    )


def _parameter(entry: dict[str, Any]) -> str | Part | None:
    if "part" in entry:
        return Part(entry["parameter"], entry["part"])
    parameter: str | None = entry.get("parameter")
    return parameter


def _supports(entry: object) -> tuple[tuple[int, ...], ...] | None:
    if entry is None:
        return None
    if not isinstance(entry, list) or not all(isinstance(support, list) for support in entry):
        raise FormatError(f"supports must be a list of lists of categories; found {entry!r}")
    return tuple(tuple(support) for support in entry)


def _child(index: object, made: list[AnyNode]) -> AnyNode:
    if not isinstance(index, int) or not 0 <= index < len(made):
        raise FormatError(f"child {index!r} must be one of the {len(made)} nodes before it")
    return made[index]
