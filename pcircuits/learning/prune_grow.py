"""Pruning of units and weights that data hardly uses.

After Dang, Liu and Van den Broeck, "Sparse probabilistic circuits via pruning and growing", NeurIPS
2022 (arXiv 2211.12551). Learning alternates: prune, grow by noisy copies of units
(`operators.grow`), and some epochs of EM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Plan
from pcircuits.errors import ParameterError
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import prepare
from pcircuits.learning.flows import flows
from pcircuits.learning.rows import Rows, rows_of
from pcircuits.learning.units import Groups, own_weights, reindex, tie_key, unit_groups
from pcircuits.parameters import (
    WeightedCircuit,
    normalise_parameter,
    row_maxima,
    row_totals,
)
from pcircuits.structure.nodes import AnyNode, KroneckerProduct, Sum


@dataclass(frozen=True, eq=False)
class Pruned:
    """What pruning left.

    Attributes:
        weighted: The smaller circuit with normalised log-weights.
        num_removed: Units, or weights, that were removed.
        bound: The rows' mean log-likelihood falls by at most so many nats: minus the mean log of
            the probability, given a row, that it is explained without what was removed (equation 3
            of the paper bounds it by flows; here it is evaluated). Less is lost, since the
            remaining weights are normalised again.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=4, num_categories=2))
        >>> rows = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
        >>> pruned = pc.prune_units(model.weighted(), rows, fraction=0.5)
        >>> pruned.num_removed
        2
        >>> loss = pc.mean_log_likelihood(model, rows) - pc.mean_log_likelihood(
        ...     pc.CircuitModel.of(pruned.weighted), rows
        ... )
        >>> loss <= pruned.bound
        True
    """

    weighted: WeightedCircuit
    num_removed: int
    bound: float


def prune_units(
    weighted: WeightedCircuit,
    data: Tensor | Evidence,
    *,
    fraction: float,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    chunk_size: int = 512,
) -> Pruned:
    """Leaves out the units that explain the least of the data.

    A unit's flow is how often the rows are expected to choose it. Nodes that work unit by unit
    (a product and its children, tied nodes) lose the same units; every node keeps at least one.

    Args:
        weighted: A circuit of dense sums, with log-weights whose rows are normalised.
        data: (N, L) integers, or evidence of any kind about N examples.
        fraction: Share of the units that may be left out which are, in [0, 1).
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        chunk_size: Rows evaluated at once.

    Returns:
        The smaller circuit and what it costs at most.

    Raises:
        EvidenceError: If data does not fit or a row has probability zero.
        ParameterError: If log-weights are not normalised.
        ValueError: If the fraction is out of range.

    Examples:
        Two of four components explain no row:

        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=4, num_categories=2))
        >>> rows = torch.tensor([[0, 0], [1, 1]]).repeat(10, 1)
        >>> history = pc.fit_em(model, rows, epochs=20, progress=False)
        >>> pruned = pc.prune_units(model.weighted(), rows, fraction=0.5)
        >>> tuple(pruned.weighted.log_weights["weights"].shape)
        (2,)
    """
    _check_fraction(fraction)
    plan = _checked_plan(weighted)
    rows, groups = rows_of(plan, data, observed, weights), unit_groups(weighted.circuit)
    counts = _total_flows(plan, weighted.log_weights, rows, chunk_size)
    use = _unit_flows(weighted, groups, counts)
    least = _least(use, fraction)
    masked, removed = _masked(plan, weighted, groups, least)
    kept = {g: np.setdiff1d(np.arange(groups.sizes[g]), units) for g, units in removed.items()}
    bound = _log_loss(plan, weighted.log_weights, masked, rows, chunk_size)
    smaller = reindex(WeightedCircuit(weighted.circuit, masked), groups, kept)
    number = sum(len(units) for units in removed.values())
    return Pruned(_normalised(smaller), number, bound)


def prune_weights(
    weighted: WeightedCircuit,
    data: Tensor | Evidence,
    *,
    fraction: float,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    chunk_size: int = 512,
) -> Pruned:
    """Sets the sums' weights that explain the least of the data to exactly zero.

    The structure stays as it is; an operator that drops edges of weight zero makes circuits of
    single nodes smaller after it. Every distribution keeps its most used weight.

    Args:
        weighted: A circuit with log-weights whose rows are normalised.
        data: (N, L) integers, or evidence of any kind about N examples.
        fraction: Share of the sums' non-zero weights that become zero, in [0, 1).
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        chunk_size: Rows evaluated at once.

    Returns:
        The same circuit with other weights and what that costs at most.

    Raises:
        EvidenceError: If data does not fit or a row has probability zero.
        ParameterError: If log-weights are not normalised.
        ValueError: If the fraction is out of range.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=8, num_categories=2))
        >>> rows = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]])
        >>> pruned = pc.prune_weights(model.weighted(), rows, fraction=0.5)
        >>> pruned.num_removed  # of 8 + 8 * 8 weights
        36
    """
    _check_fraction(fraction)
    plan = _checked_plan(weighted)
    rows = rows_of(plan, data, observed, weights)
    counts = _total_flows(plan, weighted.log_weights, rows, chunk_size)
    dropped = _least_weights(plan, weighted, counts, fraction)
    masked = {
        name: log.masked_fill(dropped[name], -torch.inf) if name in dropped else log
        for name, log in weighted.log_weights.items()
    }
    bound = _log_loss(plan, weighted.log_weights, masked, rows, chunk_size)
    number = sum(int(drop.sum()) for drop in dropped.values())
    return Pruned(_normalised(WeightedCircuit(weighted.circuit, masked)), number, bound)


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise ValueError(f"expected a fraction in [0, 1); found {fraction}")


def _checked_plan(weighted: WeightedCircuit) -> Plan:
    plan = compile_circuit(weighted.circuit)
    for name, log in weighted.log_weights.items():
        off = (row_totals(plan, name, log.exp()) - 1).abs().max()
        if not bool(off < 1e-3):
            raise ParameterError(
                f"parameter {name!r} has a row whose weights sum to 1 +- {float(off):.3g}; "
                f"expected normalised log-weights"
            )
    return plan


def _total_flows(
    plan: Plan, log_weights: Mapping[str, Tensor], rows: Rows, chunk_size: int
) -> dict[str, Tensor]:
    total = {name: torch.zeros_like(log) for name, log in log_weights.items()}
    for part in rows.chunks(chunk_size):
        counts, _ = flows(plan, log_weights, part.evidence, weights=part.weights)
        total = {name: total[name] + count for name, count in counts.items()}
    return total


def _unit_flows(
    weighted: WeightedCircuit, groups: Groups, counts: Mapping[str, Tensor]
) -> dict[int, np.ndarray]:
    """Free group -> (K,) how often its units are chosen by the sums above it."""
    found = {group: np.zeros(groups.sizes[group]) for group in groups.free}
    seen: set[object] = set()
    for node in weighted.circuit.nodes:
        if not isinstance(node, Sum) or node.mixing or not node.weighted:
            continue
        key = tie_key(weighted.circuit, node)
        if key in seen:
            continue  # the counts of a shared parameter are those of all its nodes together
        seen.add(key)
        columns = own_weights(weighted.circuit, node, counts).sum(0).double().cpu().numpy()
        for group, use in _by_group(node, groups, columns):
            if group in found:
                found[group] += use
    return found


def _by_group(node: Sum, groups: Groups, columns: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Splits numbers of a dense sum's columns by the groups that they are units of."""
    parts = []
    ends = np.cumsum([child.num_units for child in node.children])
    pieces = zip(node.children, np.split(columns, ends[:-1]), strict=True)
    stack = list(pieces)
    while stack:
        child, own = stack.pop()
        if not isinstance(child, KroneckerProduct):
            parts.append((groups.of[child], own))
            continue
        shaped = own.reshape([below.num_units for below in child.children])
        for axis, below in enumerate(child.children):
            others = tuple(i for i in range(shaped.ndim) if i != axis)
            stack.append((below, shaped.sum(others)))
    return parts


def _least(use: Mapping[int, np.ndarray], fraction: float) -> dict[int, np.ndarray]:
    """Group -> units to leave out: those of least use, but never a group's most used one."""
    best = {(group, int(u.argmax())) for group, u in use.items()}
    spare = [(flow, g, i) for g, u in use.items() for i, flow in enumerate(u) if (g, i) not in best]
    number = int(fraction * sum(len(u) for u in use.values()))
    found: dict[int, list[int]] = {group: [] for group in use}
    for _, group, unit in sorted(spare)[:number]:
        found[group].append(unit)
    return {group: np.array(sorted(units), dtype=np.int64) for group, units in found.items()}


def _masked(
    plan: Plan, weighted: WeightedCircuit, groups: Groups, removed: Mapping[int, np.ndarray]
) -> tuple[dict[str, Tensor], Mapping[int, np.ndarray]]:
    """Log-weights under which removed units are never chosen, and the units removed in the end.

    Fewer are removed where a distribution would be left without any weight.
    """
    while True:
        masked = {name: log.clone() for name, log in weighted.log_weights.items()}
        for node in weighted.circuit.nodes:
            if isinstance(node, Sum) and not node.mixing and node.weighted:
                drop = torch.as_tensor(_dropped_columns(node, groups, removed))
                own_weights(weighted.circuit, node, masked)[:, drop] = -torch.inf
        emptied = [n for n in masked if bool((row_maxima(plan, n, masked[n]) == -torch.inf).any())]
        if not emptied:
            return masked, removed
        removed = _spared(weighted, groups, removed, masked)


def _dropped_columns(node: Sum, groups: Groups, removed: Mapping[int, np.ndarray]) -> np.ndarray:
    """(C,) bool: the columns of a dense sum that stand for a removed unit."""

    def gone(child: AnyNode) -> np.ndarray:
        if isinstance(child, KroneckerProduct):
            found = np.zeros(1, dtype=np.bool_)
            for below in child.children:
                found = (found[:, None] | gone(below)).ravel()
            return found
        units = np.zeros(child.num_units, dtype=np.bool_)
        if groups.of[child] in removed:
            units[removed[groups.of[child]]] = True
        return units

    return np.concatenate([gone(child) for child in node.children])


def _spared(
    weighted: WeightedCircuit,
    groups: Groups,
    removed: Mapping[int, np.ndarray],
    masked: Mapping[str, Tensor],
) -> dict[int, np.ndarray]:
    """The removed units without those that rows with no weight left need most."""
    left = dict(removed)
    for node in weighted.circuit.nodes:
        if not isinstance(node, Sum) or node.mixing or not node.weighted:
            continue
        empty = (own_weights(weighted.circuit, node, masked) == -torch.inf).all(1)
        if not bool(empty.any()):
            continue
        own = own_weights(weighted.circuit, node, weighted.log_weights)[empty]
        needed = np.zeros(own.shape[1])
        needed[own.argmax(1).cpu().numpy()] = 1.0
        for group, use in _by_group(node, groups, needed):
            if group in left:
                left[group] = np.setdiff1d(left[group], use.nonzero()[0])
    return left


def _least_weights(
    plan: Plan, weighted: WeightedCircuit, counts: Mapping[str, Tensor], fraction: float
) -> dict[str, Tensor]:
    """Name of a sum's parameter -> bool of its shape: the weights that become zero."""
    owners = weighted.circuit.parameter_owners
    names = [name for name, nodes in owners.items() if isinstance(nodes[0], Sum)]
    score = {}
    alive = 0
    for name in names:
        # The weight itself decides among those that no row uses.
        rank = counts[name].double() + 1e-9 * weighted.log_weights[name].double().exp()
        zero = weighted.log_weights[name] == -torch.inf
        alive += int((~zero).sum())
        best = rank == row_maxima(plan, name, rank)
        score[name] = rank.masked_fill(zero | best, torch.inf)
    flat = torch.cat([score[name].flatten() for name in names])
    order = flat.argsort(stable=True)[: int(fraction * alive)]
    drop = torch.zeros_like(flat, dtype=torch.bool)
    drop[order] = flat[order] < torch.inf
    pieces = drop.split([score[name].numel() for name in names])
    return {name: piece.view_as(score[name]) for name, piece in zip(names, pieces, strict=True)}


@torch.no_grad()
def _log_loss(
    plan: Plan,
    before: Mapping[str, Tensor],
    masked: Mapping[str, Tensor],
    rows: Rows,
    chunk_size: int,
) -> float:
    """Minus the mean log-probability, given a row, that nothing masked takes part in it."""
    old, new = prepare(plan, before), prepare(plan, masked)
    total = 0.0
    for part in rows.chunks(chunk_size):
        value = forward(plan, new, part.evidence) - forward(plan, old, part.evidence)
        total += part.sum(value)
    return -total / rows.total_weight


def _normalised(weighted: WeightedCircuit) -> WeightedCircuit:
    plan = compile_circuit(weighted.circuit)
    log_weights = weighted.log_weights
    found = {name: normalise_parameter(plan, name, log) for name, log in log_weights.items()}
    return WeightedCircuit(weighted.circuit, found)
