"""Log-likelihoods and the log-probability of evidence."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward, prepare_for
from pcircuits.execute.evidence import Evidence


def log_likelihood(
    plan: Plan,
    parameters: Parameters,
    values: Tensor,
    observed: Tensor | None = None,
    *,
    impl: str = "auto",
) -> Tensor:
    """Log-probability of the observed part of each row.

    Args:
        plan: The compiled circuit.
        parameters: Normalised log-weights by name.
        values: (B, L) integers.
        observed: (B, L) bool, True = observed; default all. Missing values are summed out.
        impl: Which implementation; see `forward`.

    Returns:
        (B,) log-probabilities in nats; -inf for impossible rows.

    Raises:
        EvidenceError: If values do not fit the circuit.
        BackendError: If the implementation does not apply.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.factorized(2, num_categories=2))
        >>> weights = {f"input_{i}": torch.tensor([[0.2, 0.8]]).log() for i in range(2)}
        >>> rows = torch.tensor([[1, 1], [1, 0]])
        >>> second_is_missing = torch.tensor([[True, False], [True, True]])
        >>> pc.queries.log_likelihood(plan, weights, rows, second_is_missing).exp()
        tensor([0.8000, 0.1600])
    """
    return forward(plan, parameters, Evidence(values, observed), impl=impl)


def log_evidence(
    plan: Plan, parameters: Parameters, evidence: Evidence, *, impl: str = "auto"
) -> Tensor:
    """Log Z: log of the sum over worlds of probability times potentials.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind.
        impl: Which implementation; see `forward`.

    Returns:
        (B,) log Z in nats; -inf for impossible evidence.

    Raises:
        EvidenceError: If the evidence does not fit the circuit.
        BackendError: If the implementation does not apply.

    Examples:
        A fair coin whose category 1 is given three times the weight: (1 + 3) / 2.

        >>> plan = pc.compile_circuit(pc.families.factorized(1, num_categories=2))
        >>> fair = {"input_0": torch.tensor([[0.5, 0.5]]).log()}
        >>> evidence = pc.Evidence(log_potentials=torch.tensor([[[1.0, 3.0]]]).log())
        >>> pc.queries.log_evidence(plan, fair, evidence).exp()
        tensor([2.])
    """
    return forward(plan, parameters, evidence, impl=impl)


def conditional_log_likelihood(
    plan: Plan, parameters: Parameters, values: Tensor, evidence: Evidence
) -> Tensor:
    """Log p(values | evidence): the unobserved variables' values given the evidence.

    Potentials count: they multiply the probability of every world, normalised by log Z.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        values: (B, L) integers, a value for every variable.
        evidence: Evidence of any kind about the same B examples.

    Returns:
        (B,) log-probabilities; -inf where values contradict an observed one or a potential.

    Raises:
        EvidenceError: If shapes do not fit or the evidence itself is impossible.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> wet = pc.Evidence(torch.tensor([[0, 1]]), torch.tensor([[False, True]]))
        >>> rain_and_wet = torch.tensor([[1, 1]])
        >>> log_probability = pc.queries.conditional_log_likelihood(
        ...     model.plan, model.log_parameters(), rain_and_wet, wet
        ... )
        >>> log_probability.exp().detach()
        tensor([0.5000], dtype=torch.float64)
    """
    mask = evidence.mask()
    prepared = prepare_for(plan, parameters, evidence)
    log_z = forward(plan, prepared, evidence)
    require_possible(log_z)
    complete = Evidence(values, latent_log_potentials=evidence.latent_log_potentials)
    log_joint = forward(plan, prepared, complete)
    if evidence.log_potentials is not None:
        taken = _potentials_of(evidence, values).to(log_joint.dtype)
        if mask is not None:
            taken = taken.masked_fill(mask, 0.0)
        log_joint = log_joint + taken.sum(-1)
    if mask is not None:
        assert evidence.values is not None
        contradicted = ((values != evidence.values) & mask).any(-1)
        log_joint = log_joint.masked_fill(contradicted, -torch.inf)
    return log_joint - log_z


def require_possible(log_z: Tensor) -> None:
    """Checks that conditional queries have something to condition on.

    Raises:
        EvidenceError: If some example's evidence has probability zero, or its log-value is NaN.
    """
    own = log_z.detach()
    if own.amin().item() > -torch.inf:
        return
    wrong = own.isnan().nonzero()[:, 0].tolist()
    if wrong:
        raise EvidenceError(
            f"the log-value of example {wrong[0]} (of {len(wrong)} such) is nan; expected "
            f"log-weights below +inf"
        )
    dead = (own == -torch.inf).nonzero()[:, 0].tolist()
    if dead:
        raise EvidenceError(
            f"the evidence of example {dead[0]} (of {len(dead)} such) has probability zero, so "
            f"nothing can be said given it"
        )


def _potentials_of(evidence: Evidence, values: Tensor) -> Tensor:
    """(B, L) log-potentials that the given values pick."""
    assert evidence.log_potentials is not None
    if evidence.categories is None:
        return evidence.log_potentials.gather(2, values.long()[..., None])[..., 0]
    match = evidence.categories == values[..., None]
    return evidence.log_potentials.masked_fill(~match, -torch.inf).logsumexp(-1)
