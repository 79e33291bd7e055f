"""The slow oracle: a circuit evaluated node by node in float64, to compare fast executors with.

It reads the circuit itself and not the plan, so a mistake of the compiler cannot hide in it, and
its gradients are those of ordinary autograd, so a mistake of a written backward cannot either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pcircuits.errors import ParameterError
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import require_below_infinity
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum


def log_value(circuit: Circuit, parameters: Mapping[str, Tensor], evidence: Evidence) -> Tensor:
    """Log of the sum over all worlds of their weight under the circuit times their potentials.

    Every node is a vector of units and is evaluated once, after its children (Choi, Vergari and
    Van den Broeck, "Probabilistic Circuits", 2020, section 4). Nothing is normalised: with
    normalised weights this is log p(observed) or log Z, else the log of the unnormalised value.

    Args:
        circuit: The circuit.
        parameters: Name -> log-weights (natural logarithm) of the node's `parameter_shape`, or of
            that shape with the batch B in front for one set of weights an example.
        evidence: What is known of B examples; `check_evidence` is left to the caller.

    Returns:
        (B,) float64; `-inf` for impossible evidence, with gradient zero. Differentiable any number
        of times with respect to parameters and potentials.

    Raises:
        ParameterError: If a parameter is missing, of a wrong shape, NaN or +inf.
    """
    weights = {
        name: _batched(name, shape, parameters) for name, shape in circuit.parameter_shapes.items()
    }
    latent = dict(evidence.latent_log_potentials or {})
    values: dict[AnyNode, Tensor] = {}
    for node in circuit.nodes:
        value = _node_value(circuit, node, values, weights, evidence)
        name = circuit.node_names[node]
        values[node] = value + latent[name].double() if name in latent else value
    batch = max([evidence.batch_size, *(weight.shape[0] for weight in weights.values())])
    root = values[circuit.root][:, 0].expand(batch)
    # Products pass gradients on even from an impossible factor; an impossible root has none.
    return torch.where(root == -math.inf, -math.inf, root)


def _batched(name: str, shape: tuple[int, ...], parameters: Mapping[str, Tensor]) -> Tensor:
    """The parameter with a batch axis, (B or 1, *shape), in float64."""
    if name not in parameters:
        raise ParameterError(f"parameter {name!r} is missing; found {sorted(parameters)}")
    weight = parameters[name]
    require_below_infinity(name, weight)
    if tuple(weight.shape) == shape:
        return weight.double().unsqueeze(0)
    if tuple(weight.shape[1:]) == shape:
        return weight.double()
    raise ParameterError(
        f"parameter {name!r} has shape {tuple(weight.shape)}; expected {shape} or (B, *{shape})"
    )


def _node_value(
    circuit: Circuit,
    node: AnyNode,
    values: Mapping[AnyNode, Tensor],
    weights: Mapping[str, Tensor],
    evidence: Evidence,
) -> Tensor:
    """Log-values of a node's units, (B or 1, K)."""
    children = [values[child] for child in node.children]
    match node:
        case Input():
            return _input_value(node, _own_weight(circuit, node, weights), evidence)
        case Sum():
            return _sum_value(node, children, _own_weight(circuit, node, weights))
        case Product():
            value = children[0]
            for child in children[1:]:
                value = value + child
            return value
        case KroneckerProduct():
            value = children[0]
            for child in children[1:]:
                value = (value[:, :, None] + child[:, None, :]).flatten(1)
            return value


def _own_weight(circuit: Circuit, node: Input | Sum, weights: Mapping[str, Tensor]) -> Tensor:
    """(B or 1, *parameter_shape) log-weights of one node."""
    if isinstance(node, Input) and node.supports is not None:
        table = torch.full((1, *node.parameter_shape), -math.inf, dtype=torch.float64)
        for unit, support in enumerate(node.supports):
            table[0, unit, list(support)] = 0.0
        return table
    if isinstance(node, Sum) and not node.weighted:
        return torch.zeros(1, *node.parameter_shape, dtype=torch.float64)
    weight = weights[circuit.parameter_names[node]]
    if not isinstance(node.parameter, Part):
        return weight
    rows = node.num_units if isinstance(node, Input) else math.prod(node.parameter_shape)
    own = weight[:, node.parameter.start : node.parameter.start + rows]
    return own.reshape(-1, *node.parameter_shape)


def _input_value(node: Input, weight: Tensor, evidence: Evidence) -> Tensor:
    """(B, K); `weight` is (B or 1, K, V of this variable)."""
    soft = _soft_value(node, weight, evidence)
    observed = evidence.mask()
    if observed is None or evidence.values is None:
        return soft
    known = observed[:, node.variable, None]
    # Unobserved values may be anything, also no index at all.
    index = torch.where(known, evidence.values[:, node.variable, None].long(), 0)
    batch = max(len(index), len(weight))
    index = index[:, :, None].expand(batch, node.num_units, 1)
    hard = weight.expand(batch, -1, -1).gather(2, index)[:, :, 0]
    return torch.where(known, hard, soft)


def _soft_value(node: Input, weight: Tensor, evidence: Evidence) -> Tensor:
    """(B, K) of an unobserved variable: its categories summed out under their potentials."""
    if evidence.log_potentials is None:
        return _log_sum_exp(weight)
    potentials = evidence.log_potentials[:, node.variable].double()
    if evidence.categories is None:
        return _log_sum_exp(weight + potentials[:, None, : node.num_categories])
    terms = []
    for slot in range(potentials.shape[1]):
        category = evidence.categories[:, node.variable, slot].long()
        # A category that this variable does not have has probability zero.
        exists = (category < node.num_categories)[:, None]
        index = category.clamp(max=node.num_categories - 1)
        batch = max(len(index), len(weight))
        picked = weight.expand(batch, -1, -1)[torch.arange(batch), :, index.expand(batch)]
        term = picked + potentials[:, slot, None]
        terms.append(torch.where(exists, term, -math.inf))
    return _log_sum_exp(torch.stack(terms, dim=-1))


def _sum_value(node: Sum, children: list[Tensor], weight: Tensor) -> Tensor:
    """(B, K); `weight` is (B or 1, K, inputs), without the K for one unit."""
    if node.num_units == 1:
        weight = weight[:, None, :]
    batch = max(child.shape[0] for child in children)
    if node.mixing:
        units = [child.expand(batch, node.num_units) for child in children]
        return _log_sum_exp(weight + torch.stack(units, dim=-1))
    units = [child.expand(batch, -1) for child in children]
    return _log_sum_exp(weight + torch.cat(units, dim=-1)[:, None, :])


def _log_sum_exp(terms: Tensor) -> Tensor:
    """Log-sum-exp over the last axis; all `-inf` gives `-inf` with zero gradients of all orders."""
    shift = terms.detach().amax(dim=-1, keepdim=True)
    shift = torch.where(shift == -math.inf, 0.0, shift)
    total = (terms - shift).exp().sum(dim=-1)
    possible = total > 0
    logarithm = torch.where(possible, total, 1.0).log() + shift[..., 0]
    return torch.where(possible, logarithm, -math.inf)
