"""The same models in plain PyTorch, as a user would write them who knows PyTorch and no circuits.

They take the very tensors that `pc.forward` takes. In float64 they are what results are checked
against.
Shapes: B batch, L length, V categories, K units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import embedding

import pcircuits as pc


def log_matmul(x: Tensor, weights: Tensor) -> Tensor:
    """log(exp(x) @ weights) with the rows' maxima taken out; `weights` in linear space."""
    top = x.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
    return ((x - top).exp() @ weights).log() + top


def hmm_log_likelihood(log_parameters: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """Forward algorithm of a homogeneous hidden Markov model.

    Args:
        log_parameters: `initial` (K,), `transition` (K, K), `emission` (K, V).
        values: (B, L) integers.

    Returns:
        (B,) log-likelihoods.
    """
    emitted = embedding(values.T, log_parameters["emission"].T)  # (L, B, K)
    return chain_log_value(log_parameters, emitted)


def chain_log_value(log_parameters: Mapping[str, Tensor], emitted: Tensor) -> Tensor:
    """Forward algorithm in log space, from (L, B, K) log-likelihoods of the states."""
    transition = log_parameters["transition"].exp()
    state = log_parameters["initial"] + emitted[0]
    for step in emitted[1:]:
        state = log_matmul(state, transition) + step
    return state.logsumexp(-1)


def scaled_chain_log_value(log_parameters: Mapping[str, Tensor], emitted: Tensor) -> Tensor:
    """As `chain_log_value`, in linear space: every step is divided by its sum.

    Faster, and wrong where a step's terms underflow.
    """
    transition = log_parameters["transition"].exp()
    top = emitted.detach().amax(-1, keepdim=True)
    weights = (emitted - top).exp()
    state = log_parameters["initial"].exp() * weights[0]
    totals = [state.sum(-1, keepdim=True)]
    for step in weights[1:]:
        state = (state / totals[-1]) @ transition * step
        totals.append(state.sum(-1, keepdim=True))
    return (torch.stack(totals).log() + top).sum((0, 2))


def soft_emissions(emission: Tensor, log_potentials: Tensor) -> Tensor:
    """(L, B, K) log-likelihoods of the states under potentials (B, L, V); `emission` (V, K)."""
    return log_matmul(log_potentials.transpose(0, 1), emission.exp())


def listed_emissions(emission: Tensor, log_potentials: Tensor, categories: Tensor) -> Tensor:
    """As `soft_emissions`, where potentials (B, L, k) speak of the listed categories alone."""
    top = log_potentials.amax(-1, keepdim=True)
    table = embedding(categories, emission).exp()  # (B, L, k, K)
    total = ((log_potentials - top).exp()[:, :, None, :] @ table)[:, :, 0]
    return (total.log() + top).transpose(0, 1)


def stacked_tree(log_parameters: Mapping[str, Tensor], length: int) -> list[Tensor]:
    """A binary tree's parameters, one tensor a level.

    Args:
        log_parameters: `input_0` ... (K, V), `sum_LEVEL_PLACE` (K, C) and `root` (C,).
        length: Number of variables, a power of two.

    Returns:
        Inputs (L, K, V), sums (L / 2, K, C), (L / 4, K, C), ..., root (C,), where C is K, or K * K
        for products of all pairs.
    """
    levels = [torch.stack([log_parameters[f"input_{i}"] for i in range(length)])]
    width, level = length // 2, 1
    while width > 1:
        levels.append(torch.stack([log_parameters[f"sum_{level}_{i}"] for i in range(width)]))
        width, level = width // 2, level + 1
    return [*levels, log_parameters["root"]]


def unstacked_tree(levels: list[Tensor]) -> dict[str, Tensor]:
    """What `stacked_tree` was given."""
    inputs, *sums, root = levels
    found = {f"input_{i}": table for i, table in enumerate(inputs)}
    for level, weights in enumerate(sums, 1):
        found |= {f"sum_{level}_{i}": table for i, table in enumerate(weights)}
    return found | {"root": root}


def tree_log_likelihood(levels: list[Tensor], values: Tensor, *, pairs: bool = False) -> Tensor:
    """Balanced binary tree, one batched product a level.

    Args:
        levels: What `stacked_tree` returns.
        values: (B, L) integers.
        pairs: Whether products are of all pairs of units; else elementwise.

    Returns:
        (B,) log-likelihoods.
    """
    inputs, *sums, root = levels
    length, units, categories = inputs.shape
    table = inputs.transpose(1, 2).reshape(length * categories, units)
    first = torch.arange(length, device=values.device)[:, None] * categories
    state = embedding(values.T + first, table)  # (L, B, K)
    multiply = _pairs if pairs else torch.add
    for weights in sums:
        products = multiply(state[::2], state[1::2])
        state = log_matmul(products, weights.exp().transpose(1, 2))
    return (multiply(state[:1], state[1:])[0] + root).logsumexp(-1)


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    """(..., K * K) sums of all pairs, the left one's unit first."""
    return (left[..., :, None] + right[..., None, :]).flatten(-2)


def hmm_log_partition(log_parameters: Mapping[str, Tensor], log_potentials: Tensor) -> Tensor:
    """Log Z of a hidden Markov model under log-potentials, term by term in log space.

    It holds states times categories for every position, so it is for small sizes only.

    Args:
        log_parameters: `initial` (K,), `transition` (K, K), `emission` (K, V).
        log_potentials: (B, L, V).

    Returns:
        (B,) log Z.
    """
    terms = log_parameters["emission"] + log_potentials[:, :, None, :]  # (B, L, K, V)
    emitted = terms.logsumexp(-1)
    state = log_parameters["initial"] + emitted[:, 0]
    for t in range(1, emitted.shape[1]):
        steps = state[:, :, None] + log_parameters["transition"]
        state = steps.logsumexp(1) + emitted[:, t]
    return state.logsumexp(-1)


def circuit_log_value(
    circuit: pc.Circuit,
    log_parameters: Mapping[str, Tensor],
    evidence: pc.Evidence,
    probes: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Any circuit, node by node: a table look-up, an addition or a matrix product each.

    Args:
        circuit: The circuit.
        log_parameters: Name -> log-weights, without a batch.
        evidence: Values of all variables, or potentials of all.
        probes: Input name -> (B, K) tensor to add to its values, so that gradients can be taken.

    Returns:
        (B,) log-values.
    """
    linear = {name: log.exp() for name, log in log_parameters.items()}
    values: dict[pc.Input | pc.Sum | pc.Product | pc.KroneckerProduct, Tensor] = {}
    for node in circuit.nodes:
        below = [values[child] for child in node.children]
        match node:
            case pc.Input():
                table = own_numbers(circuit, node, log_parameters)
                values[node] = _input_value(table, node.variable, evidence)
                name = circuit.node_names[node]
                if probes is not None and name in probes:
                    values[node] = values[node] + probes[name]
            case pc.Sum():
                weights = own_numbers(circuit, node, linear).reshape(node.num_units, -1)
                values[node] = log_matmul(torch.cat(below, -1), weights.T)
            case pc.KroneckerProduct():
                values[node] = reduce(_pairs, below)
            case _:
                values[node] = reduce(torch.add, below)
    return values[circuit.root][:, 0]


def own_numbers(
    circuit: pc.Circuit, node: pc.Input | pc.Sum, tensors: Mapping[str, Tensor]
) -> Tensor:
    """A node's own numbers, of its `parameter_shape`."""
    tensor = tensors[circuit.parameter_names[node]]
    if not isinstance(node.parameter, pc.Part):
        return tensor
    rows = node.num_units if isinstance(node, pc.Input) else math.prod(node.parameter_shape)
    return tensor[node.parameter.start :][:rows].reshape(node.parameter_shape)


def _input_value(table: Tensor, variable: int, evidence: pc.Evidence) -> Tensor:
    """(B, K) from a table (K, V)."""
    potentials = evidence.log_potentials
    if potentials is None:
        assert evidence.values is not None
        return embedding(evidence.values[:, variable], table.T)
    if evidence.categories is None:
        return log_matmul(potentials[:, variable, : table.shape[1]], table.T.exp())
    listed = slice(variable, variable + 1)
    return listed_emissions(table.T, potentials[:, listed], evidence.categories[:, listed])[0]
