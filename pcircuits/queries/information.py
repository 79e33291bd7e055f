"""Exact dependencies between variables, and what to ask next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.chain_information import can_sweep, chain_information
from pcircuits.queries.conditional import (
    assignments,
    check_variables,
    joint_marginal,
    restrict,
)
from pcircuits.queries.decomposition import entropy_of
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.marginals import marginals, marginals_and_log_value
from pcircuits.queries.pairwise import Progress, Separation, separations
from pcircuits.queries.posterior import Posterior, posterior

# Entries of the pair tables that are laid out at once.
_TABLE_ENTRIES = 1 << 25


@dataclass(frozen=True, eq=False)
class MostInformative:
    """Which variable to observe next.

    Attributes:
        variable: (B,) the candidate that tells most about the targets; -1 where all candidates
            are observed already.
        information: (B, C) mutual information of each candidate and the targets given the
            evidence, in nats: by how much observing it is expected to lower their entropy.
        candidates: The C candidates.
        target_entropy: (B,) entropy of the targets given the evidence, in nats.

    Examples:
        Variable 1 repeats variable 0 and variable 2 is a coin of its own:

        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> best = model.most_informative(targets=0)
        >>> best.variable, best.candidates
        (tensor([1]), (1, 2))
        >>> best.information.detach().round(decimals=4).abs()  # nats
        tensor([[0.6931, 0.0000]], dtype=torch.float64)
    """

    variable: Tensor
    information: Tensor
    candidates: tuple[int, ...]
    target_entropy: Tensor


def mutual_information(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None = None,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Mutual information of every pair of variables given the evidence.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; default none.
        progress: Called with (passes done, passes in all) after each batch of passes.

    Returns:
        (B, L, L) in nats, symmetric, with the entropy of each variable on the diagonal; zero for
        observed variables. Differentiable where parameters or potentials are; then the graph of
        all passes is kept, so call it under `torch.no_grad()` where no gradient is needed.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> found = pc.queries.mutual_information(model.plan, model.log_parameters())
        >>> found.detach()[0].round(decimals=4).abs()
        tensor([[0.6931, 0.6931, 0.0000],
                [0.6931, 0.6931, 0.0000],
                [0.0000, 0.0000, 0.6931]], dtype=torch.float64)
    """
    given = posterior(plan, parameters, evidence)
    if can_sweep(given):
        found = chain_information(given)
        if progress is not None:
            progress(1, 1)
        return found
    single = marginals(plan, given.prepared, given.evidence())
    entropy = entropy_of(single, 1)
    length = plan.num_variables
    # A variable of one possible value tells nothing: its pairs need no pass.
    allowed = (given.log_potentials > -torch.inf).sum(2)
    uncertain = (allowed > 1).any(0).nonzero()[:, 0].tolist()
    rows = {i: torch.zeros_like(entropy) for i in range(length)}
    for i, separation in separations(given, uncertain[:-1], progress=progress):
        others = [j for j in uncertain if j > i]
        joint = _joint_entropies(separation, i, others)
        shared = (entropy[:, i, None] + entropy[:, others] - joint).clamp_min(0.0)
        at = torch.tensor(others, device=shared.device)
        rows[i] = rows[i].index_copy(1, at, shared)
    upper = torch.stack([rows[i] for i in range(length)], dim=1)
    return upper + upper.transpose(1, 2) + torch.diag_embed(entropy)


def _joint_entropies(separation: Separation, first: int, others: list[int]) -> Tensor:
    """(B, O) entropy of a variable together with each of others, some tables at a time."""
    batch, _, _, categories = separation.marginals.shape
    at_once = max(1, _TABLE_ENTRIES // (batch * categories**2))
    found = []
    for start in range(0, len(others), at_once):
        joint = separation.joint(first, others[start : start + at_once])
        found.append(entropy_of(joint.transpose(1, 2), 2))
    return torch.cat(found, dim=1)


def conditional_mutual_information(
    plan: Plan,
    parameters: Parameters,
    first: Sequence[int],
    second: Sequence[int],
    given: Sequence[int] = (),
    evidence: Evidence | None = None,
) -> Tensor:
    """I(first; second | given, evidence) of sets of variables, averaged over the given ones.

    It is H(first, given) + H(second, given) - H(first, second, given) - H(given), from the joint
    table of all of them: exact, and exponential in their number.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        first: Variables, at least one.
        second: Other variables, at least one.
        given: Variables that are conditioned on in addition to the evidence.
        evidence: Evidence of any kind; default none.

    Returns:
        (B,) in nats, not negative. Differentiable where parameters or potentials are.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, or the variables are not
            different ones of the circuit, or too many for a table.

    Examples:
        Variable 2 is the parity of two coins: it tells of one only when the other is known.

        >>> moves = [{0: 0, 1: 1}, {0: 1, 1: 0}]
        >>> even = pc.families.automaton(moves, accepting={0}, length=3, num_categories=2)
        >>> parity, _ = pc.operators.normalise(pc.WeightedCircuit(even, {}))
        >>> plan = pc.compile_circuit(parity.circuit)
        >>> for given in ([], [1]):
        ...     print(pc.queries.conditional_mutual_information(
        ...         plan, parity.log_weights, [0], [2], given
        ...     ).round(decimals=4).abs())  # ln 2 = 0.6931
        tensor([0.], dtype=torch.float64)
        tensor([0.6931], dtype=torch.float64)
    """
    if not first or not second:
        raise EvidenceError(f"expected variables on both sides; found {first!r} and {second!r}")
    names = [*first, *second, *given]
    table = joint_marginal(plan, parameters, evidence, names)
    middle = 1 + len(first)
    left, right = tuple(range(1, middle)), tuple(range(middle, middle + len(second)))
    with_first, with_second = table.sum(right), table.sum(left)
    alone = table.sum((*left, *right))
    found = (
        entropy_of(with_first, with_first.ndim - 1)
        + entropy_of(with_second, with_second.ndim - 1)
        - entropy_of(table, table.ndim - 1)
        - entropy_of(alone, alone.ndim - 1)
    )
    return found.clamp_min(0.0)


def most_informative(
    plan: Plan,
    parameters: Parameters,
    targets: int | Sequence[int],
    evidence: Evidence | None = None,
    candidates: Sequence[int] | None = None,
) -> MostInformative:
    """Finds the variable whose value, once known, tells most about the targets.

    The score is the expected information: the mutual information of candidate and targets given
    the evidence. All candidates are scored by one pass for each value of the targets.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        targets: The variable or variables of interest, together.
        evidence: What is known already, of any kind; default nothing.
        candidates: Variables that could be observed; default all but the targets.

    Returns:
        The best candidate of each example and all scores.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, variables are unknown, a
            candidate is a target, or the targets are too many for a table.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> found = pc.queries.most_informative(model.plan, model.log_parameters(), targets=0)
        >>> found.variable, found.target_entropy.detach()  # it tells all of ln 2 nats
        (tensor([1]), tensor([0.6931], dtype=torch.float64))
    """
    names = check_variables(plan, [targets] if isinstance(targets, int) else targets)
    others = [i for i in range(plan.num_variables) if i not in names]
    asked = others if candidates is None else [int(i) for i in candidates]
    if not asked or not set(asked) <= set(others):
        raise EvidenceError(
            f"expected candidates among {others}, which are no targets; found {asked}"
        )
    given = posterior(plan, parameters, evidence)
    probability, single = _given_targets(given, names)
    mixed = probability[..., None, None] * single[:, :, asked]
    target_entropy = entropy_of(probability, 1)
    shared = (
        target_entropy[:, None] + entropy_of(mixed.sum(1), 1) - entropy_of(mixed.transpose(1, 2), 2)
    )
    information = shared.clamp_min(0.0)
    mask = None if evidence is None else evidence.mask()
    known = torch.zeros_like(information, dtype=torch.bool) if mask is None else mask[:, asked]
    score = information.detach().masked_fill(known, -1.0)
    best = torch.tensor(asked, device=score.device)[score.argmax(1)]
    return MostInformative(
        best.masked_fill(known.all(1), -1), information, tuple(asked), target_entropy
    )


def _given_targets(given: Posterior, names: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(B, N) probabilities of the targets' values and (B, N, L, V) marginals given each."""
    logs, singles = [], []
    for values in assignments(given.plan, names, given.log_potentials.device):
        rows, log = restrict(given, names, values)
        single, log_z = marginals_and_log_value(given.plan, rows.prepared, rows.evidence())
        logs.append(log_z.view(given.batch_size, -1) + log)
        singles.append(single.view(given.batch_size, len(values), *single.shape[1:]))
    joined = torch.cat(logs, dim=1)
    require_possible(joined.amax(1))
    return joined.softmax(1), torch.cat(singles, dim=1)
