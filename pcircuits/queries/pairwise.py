"""Joint distributions of pairs of variables.

A variable is made independent of all others by fixing it, or by fixing which input unit makes it:
given either, the marginals of all variables are one backward pass, and the joint distribution is
the mixture of their products. The cheaper of the two is taken, so a variable of many categories
behind few latent units costs as many passes as there are units. Passes are batched to a memory
bound, over several variables where they are small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward
from pcircuits.execute.evidence import Evidence
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.marginals import marginals_and_log_value
from pcircuits.queries.posterior import BATCH_BYTES, Posterior, posterior, take_parameters
from pcircuits.structure.circuit import Circuit

Progress = Callable[[int, int], None]
"""Called with the passes done and the passes in all."""


@dataclass(frozen=True, eq=False)
class Separation:
    """One way of making a variable independent of the others.

    Attributes:
        probability: (B, R) posterior probability of each of R alternatives.
        marginals: (B, R, L, V) marginals of all variables given each; zero where impossible.
    """

    probability: Tensor
    marginals: Tensor

    def joint(self, first: int, others: Sequence[int]) -> Tensor:
        """(B, V, O, V) joint posterior of one variable with others."""
        weighted = self.probability[..., None] * self.marginals[:, :, first]
        joint = torch.einsum("brv,brow->bvow", weighted, self.marginals[:, :, list(others)])
        if first not in others:
            return joint
        # Two draws of the variable given the alternative would differ; it is one.
        itself = torch.tensor([other == first for other in others], device=joint.device)
        own = weighted.sum(1).diag_embed()[:, :, None]
        return torch.where(itself[:, None], own, joint)


def pairwise_marginals(
    plan: Plan,
    parameters: Parameters,
    evidence: Evidence | None,
    pairs: Sequence[tuple[int, int]],
    *,
    progress: Progress | None = None,
) -> Tensor:
    """P(X_i = a, X_j = b | evidence) for pairs of variables.

    Differentiable where parameters or potentials are; then the graph of all passes is kept, so
    call it under `torch.no_grad()` where no gradient is needed.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind; None for none.
        pairs: P pairs (i, j); i = j gives a diagonal matrix.
        progress: Called with (passes done, passes in all) after each batch of passes.

    Returns:
        (B, P, V, V), each matrix summing to 1, first axis i.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, or a variable is unknown.

    Examples:
        >>> days = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(days, pseudocount=0))
        >>> weights = model.log_parameters()
        >>> tables = pc.queries.pairwise_marginals(model.plan, weights, None, [(0, 1)])
        >>> tables.detach()[0, 0]  # rain by wet grass
        tensor([[0.5000, 0.2500],
                [0.0000, 0.2500]], dtype=torch.float64)
    """
    pairs = [(int(i), int(j)) for i, j in pairs]
    for pair in pairs:
        if not all(0 <= variable < plan.num_variables for variable in pair):
            raise EvidenceError(
                f"pair {pair} names a variable outside 0 .. {plan.num_variables - 1}"
            )
    given = posterior(plan, parameters, evidence)
    categories = plan.num_categories
    if not pairs:
        return given.log_potentials.new_zeros(given.batch_size, 0, categories, categories)
    found: dict[int, Tensor] = {}
    firsts = sorted({i for i, _ in pairs})
    for first, separation in separations(given, firsts, progress=progress):
        places = [p for p, (i, _) in enumerate(pairs) if i == first]
        joint = separation.joint(first, [pairs[place][1] for place in places])
        found.update(zip(places, joint.unbind(2), strict=True))
    return torch.stack([found[place] for place in range(len(pairs))], dim=1)


def separations(
    given: Posterior, variables: Sequence[int], *, progress: Progress | None = None
) -> Iterator[tuple[int, Separation]]:
    """Separates variables from the others, one after the other.

    Args:
        given: The circuit and its evidence.
        variables: The variables.
        progress: Called with (passes done, passes in all) after each batch of passes.

    Yields:
        Each variable and its separation.

    Raises:
        EvidenceError: If the evidence is impossible.
    """
    log_z = forward(given.plan, given.prepared, given.evidence())
    require_possible(log_z)
    units = _units(given.plan.circuit)
    counts = {i: min(len(_possible(given, i)), sum(units[i].values())) for i in variables}
    most, done = _rows_at_once(given), 0
    for group in _groups(counts, given.batch_size, most):
        parts = [_alternatives(given, variable, units[variable]) for variable in group]
        found, log_value = _evaluated(_joined(given, parts), most)
        sizes = [len(part.index) for part in parts]
        for variable, own, value in zip(
            group, found.split(sizes), log_value.split(sizes), strict=True
        ):
            shape = (given.batch_size, -1)
            weight = (value.view(shape) - log_z[:, None]).exp()
            yield variable, Separation(weight, own.view(*shape, *own.shape[1:]))
        done += sum(counts[variable] for variable in group)
        if progress is not None:
            progress(done, sum(counts.values()))


@dataclass(frozen=True, eq=False)
class _Alternatives:
    """Examples that hold a variable at each of its alternatives, all of an example together."""

    index: Tensor  # (N,) which example each is of
    log_potentials: Tensor  # (N, L, V)
    latent: Mapping[str, Tensor]  # node name -> (N, K)


def _alternatives(given: Posterior, variable: int, units: Mapping[str, int]) -> _Alternatives:
    categories = _possible(given, variable)
    number = min(len(categories), sum(units.values()))
    index = torch.arange(given.batch_size, device=categories.device).repeat_interleave(number)
    potentials = given.log_potentials[index]
    latent = {name: tensor[index] for name, tensor in given.latent.items()}
    if number == len(categories):
        kept = torch.zeros_like(potentials[:number, 0], dtype=torch.bool)
        kept = kept.scatter(1, categories[:, None], True).repeat(given.batch_size, 1)
        own = potentials[:, variable].masked_fill(~kept, -torch.inf)
        at = torch.tensor([variable], device=index.device)
        return _Alternatives(index, potentials.index_copy(1, at, own[:, None]), latent)
    start = 0
    for name, size in units.items():
        kept = torch.arange(start, start + size, device=index.device) == torch.arange(
            number, device=index.device
        )[:, None].repeat(given.batch_size, 1)
        own = latent.get(name, potentials.new_zeros(()).expand(kept.shape))
        latent[name] = own.masked_fill(~kept, -torch.inf)
        start += size
    return _Alternatives(index, potentials, latent)


def _possible(given: Posterior, variable: int) -> Tensor:
    """Categories that the evidence of some example allows."""
    return (given.log_potentials[:, variable] > -torch.inf).any(0).nonzero()[:, 0]


def _units(circuit: Circuit) -> dict[int, dict[str, int]]:
    """Variable -> its input nodes and their numbers of units."""
    units: dict[int, dict[str, int]] = {}
    for node in circuit.inputs:
        units.setdefault(node.variable, {})[circuit.node_names[node]] = node.num_units
    return units


def _rows_at_once(given: Posterior) -> int:
    entries = given.plan.num_variables * given.plan.num_categories
    # Values on the way up and flows on the way down; potentials, their gradient and the result.
    row = 2 * given.plan.cost().value_bytes + 4 * 4 * entries
    return max(1, BATCH_BYTES // row)


def _groups(counts: Mapping[int, int], batch_size: int, most: int) -> Iterator[list[int]]:
    """Variables whose examples together fit into one batch, at least one each time."""
    group: list[int] = []
    for variable, count in counts.items():
        rows = batch_size * (count + sum(counts[other] for other in group))
        if group and rows > most:
            yield group
            group = []
        group.append(variable)
    if group:
        yield group


def _joined(given: Posterior, parts: Sequence[_Alternatives]) -> Posterior:
    index = torch.cat([part.index for part in parts])
    sizes = {name: tensor.shape[1] for part in parts for name, tensor in part.latent.items()}
    zero = given.log_potentials.new_zeros(())
    latent = {
        name: torch.cat(
            [part.latent.get(name, zero.expand(len(part.index), size)) for part in parts]
        )
        for name, size in sizes.items()
    }
    potentials = torch.cat([part.log_potentials for part in parts])
    return Posterior(given.plan, take_parameters(given.prepared, index), potentials, latent)


def _evaluated(rows: Posterior, most: int) -> tuple[Tensor, Tensor]:
    """(N, L, V) marginals and (N,) log Z, at most so many examples at once."""
    index = torch.arange(rows.batch_size, device=rows.log_potentials.device)
    found = []
    for part in index.split(most):
        own = rows.take(part) if len(part) < rows.batch_size else rows
        found.append(marginals_and_log_value(own.plan, own.prepared, own.evidence()))
    return torch.cat([m for m, _ in found]), torch.cat([z for _, z in found])
