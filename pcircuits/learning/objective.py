"""What learning raises: the log-likelihood of rows, or of some variables given the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.execute.api import Parameters, forward
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import prepare
from pcircuits.learning.rows import Rows, rows_of
from pcircuits.queries.likelihood import require_possible
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum


class Learnable(Protocol):
    """A plan with parameters that can be read and replaced, such as `CircuitModel`."""

    @property
    def plan(self) -> Plan:
        """The compiled circuit."""

    def log_parameters(self) -> Mapping[str, Tensor]:
        """Name -> normalised log-weights."""

    def set_log_parameters(self, log_weights: Mapping[str, Tensor]) -> None:
        """Replaces log-weights."""


def check_has_parameters(plan: Plan) -> None:
    """Checks that there is something to learn.

    Raises:
        ParameterError: If the circuit has no parameters.
    """
    if not plan.parameter_shapes:
        raise ParameterError(
            f"{plan.circuit!r} has no parameters to learn: all of its inputs are indicators and "
            f"all of its sums plain"
        )


def log_objective(
    plan: Plan, parameters: Parameters, evidence: Evidence, targets: Sequence[int] = ()
) -> Tensor:
    """Log-likelihood of rows, or log p(targets | the rest of the evidence).

    Args:
        plan: The compiled circuit.
        parameters: Normalised log-weights by name.
        evidence: Evidence about B examples.
        targets: Variables whose evidence is to be predicted from that of the others; none: all
            evidence counts.

    Returns:
        (B,) nats, differentiable. Circuits with sums or inputs without weights are normalised as
        a whole, by their value without evidence.

    Raises:
        EvidenceError: If the evidence does not fit, or what is conditioned on is impossible.
    """
    value = forward(plan, parameters, evidence)
    if targets:
        given = forward(plan, parameters, without(evidence, targets))
        require_possible(given)
        return value - given
    constant = constant_log_total(plan.circuit)
    if constant is None:
        return value - forward(plan, parameters, Evidence())
    return value - constant if constant else value


@lru_cache(maxsize=16)
def constant_log_total(circuit: Circuit) -> float | None:
    """Log of the circuit's value without evidence, if it is the same under all normalised weights.

    It is 0 where every input and sum has weights. Without some of them it is still constant if
    every weighted sum's children have one total; else what learning climbs has to be divided by a
    total that depends on the weights.

    Args:
        circuit: The circuit.

    Returns:
        The logarithm, or None if it depends on the weights.
    """
    if all(node.has_parameter for node in circuit.nodes if isinstance(node, (Input, Sum))):
        return 0.0
    totals: dict[AnyNode, np.ndarray] = {}  # log-totals of each node's units
    for node in circuit.nodes:
        total = _log_totals(node, [totals[child] for child in node.children])
        if total is None:
            return None
        totals[node] = total
    return float(totals[circuit.root][0])


def _log_totals(node: AnyNode, below: list[np.ndarray]) -> np.ndarray | None:
    match node:
        case Input():
            supports = node.supports or ((0,),) * node.num_units
            return np.log([len(support) for support in supports])
        case Product():
            product: np.ndarray = np.stack(below).sum(0)
            return product
        case KroneckerProduct():
            found = below[0]
            for other in below[1:]:
                found = (found[:, None] + other).ravel()
            return found
    parts = [np.broadcast_to(part, node.num_units) for part in below] if node.mixing else below
    terms = np.stack(parts, 1) if node.mixing else np.concatenate(parts)[None]  # (K or 1, C)
    if not node.weighted:
        return np.broadcast_to(np.logaddexp.reduce(terms, axis=1), node.num_units)
    if np.ptp(terms, axis=1).max() > 1e-9:
        return None
    return np.broadcast_to(terms[:, 0], node.num_units)


def without(evidence: Evidence, variables: Sequence[int]) -> Evidence:
    """Evidence with some variables missing.

    Raises:
        EvidenceError: If potentials are given for listed categories only, since all others then
            are impossible and the variables cannot be missing.
    """
    if evidence.categories is not None:
        raise EvidenceError("targets need log_potentials of all categories; found `categories`")
    at = list(variables)
    observed, potentials = evidence.mask(), evidence.log_potentials
    if observed is not None:
        observed = observed.clone()
        observed[:, at] = False
    if potentials is not None:
        potentials = potentials.clone()
        potentials[:, at] = 0.0
    return Evidence(evidence.values, observed, potentials, evidence.latent_log_potentials)


def checked_targets(plan: Plan, targets: Sequence[int]) -> tuple[int, ...]:
    """Checks target variables.

    Raises:
        EvidenceError: If one is not a variable of the circuit or is named twice.
    """
    wrong = [t for t in targets if not isinstance(t, int) or not 0 <= t < plan.num_variables]
    if wrong or len(set(targets)) < len(targets):
        raise EvidenceError(
            f"targets must be different variables of 0 .. {plan.num_variables - 1}; "
            f"found {list(targets)}"
        )
    return tuple(targets)


@torch.no_grad()
def mean_log_likelihood(
    model: Learnable,
    data: Tensor | Evidence,
    *,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
    targets: Sequence[int] = (),
    chunk_size: int = 512,
) -> float:
    """Mean log-likelihood of rows in nats a row.

    Args:
        model: A model such as `CircuitModel`.
        data: (N, L) integers, or evidence of any kind about N examples.
        observed: (N, L) bool, True = observed; default all.
        weights: (N,) how often each row counts; default once.
        targets: Variables to be predicted from the others; see `log_objective`.
        chunk_size: Rows evaluated at once.

    Returns:
        The weighted mean; -inf if a row is impossible.

    Raises:
        EvidenceError: If data does not fit the circuit.

    Examples:
        >>> coin = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> coin.set_probabilities({"input_0": torch.tensor([[0.5, 0.5]])})
        >>> round(pc.mean_log_likelihood(coin, torch.tensor([[0], [1], [1]])), 4)  # ln(1/2)
        -0.6931
    """
    rows = rows_of(model.plan, data, observed, weights)
    checked = checked_targets(model.plan, targets)
    total = total_objective(model.plan, model.log_parameters(), rows, checked, chunk_size)
    return total / rows.total_weight


@torch.no_grad()
def total_objective(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    rows: Rows,
    targets: Sequence[int] = (),
    chunk_size: int = 512,
) -> float:
    """Weighted sum of the objective over rows, evaluated `chunk_size` rows at a time."""
    prepared = prepare(plan, parameters)
    parts = rows.chunks(chunk_size)
    return sum(p.sum(log_objective(plan, prepared, p.evidence, targets)) for p in parts)
