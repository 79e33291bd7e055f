"""A circuit under evidence with everything about its variables in one form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.api import Parameters, forward, prepare_for
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.prepare import PreparedParameters

# Bytes of circuit values, and of what is made of them, that one batch of a query may take.
BATCH_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Posterior:
    """p(x | evidence) up to its normalisation, for B examples.

    Attributes:
        plan: The compiled circuit.
        prepared: Its parameters.
        log_potentials: (B, L, V) factors of the categories: zero at an observed variable's value
            and -inf elsewhere, -inf at categories that a variable does not have.
        latent: Node name -> (B, K) latent log-potentials.
    """

    plan: Plan
    prepared: PreparedParameters
    log_potentials: Tensor
    latent: Mapping[str, Tensor]

    @property
    def batch_size(self) -> int:
        """Number of examples B."""
        return self.log_potentials.shape[0]

    def evidence(self) -> Evidence:
        """The same as evidence that `forward` takes."""
        return Evidence(
            log_potentials=self.log_potentials, latent_log_potentials=self.latent or None
        )

    def take(self, index: Tensor) -> Posterior:
        """The examples at `index` (N,), repeated as often as they occur there."""
        return replace(
            self,
            prepared=take_parameters(self.prepared, index),
            log_potentials=self.log_potentials[index],
            latent={name: tensor[index] for name, tensor in self.latent.items()},
        )

    def double(self) -> Posterior:
        """The same in float64; gradients flow through."""
        made = {id(w): type(w)(w.log.double()) for w in self.prepared.weights.values()}
        weights = {i: made[id(w)] for i, w in self.prepared.weights.items()}
        return replace(
            self,
            prepared=replace(self.prepared, weights=weights, dtype=torch.float64),
            log_potentials=self.log_potentials.double(),
            latent={name: tensor.double() for name, tensor in self.latent.items()},
        )

    def log_weight(self, values: Tensor) -> Tensor:
        """(B,) log of the weight of whole assignments (B, L), the evidence's factors included."""
        return self._log_weight_at(torch.arange(len(values), device=values.device), values)

    def log_weights(self, values: Tensor) -> Tensor:
        """(B, N) as `log_weight`, of N assignments (B, N, L) an example, to a memory bound."""
        batch, _, length = values.shape
        at_once = max(1, BATCH_BYTES // (batch * (self.plan.cost().value_bytes + 8 * length)))
        found = []
        for part in values.split(at_once, dim=1):
            index = torch.arange(batch, device=values.device).repeat_interleave(part.shape[1])
            flat = part.reshape(-1, length)
            found.append(self._log_weight_at(index, flat).view(batch, -1))
        return torch.cat(found, dim=1)

    def _log_weight_at(self, index: Tensor, values: Tensor) -> Tensor:
        """(N,) log-weights of assignments (N, L) of the examples at `index`."""
        latent = {name: tensor[index] for name, tensor in self.latent.items()}
        complete = Evidence(values, latent_log_potentials=latent or None)
        variables = torch.arange(values.shape[1], device=values.device)
        factors = self.log_potentials[index[:, None], variables, values]
        return forward(self.plan, take_parameters(self.prepared, index), complete) + factors.sum(-1)


def posterior(plan: Plan, parameters: Parameters, evidence: Evidence | None) -> Posterior:
    """Lays evidence of any kind out for one plan.

    Raises:
        EvidenceError: If the evidence does not fit the plan.
        ParameterError: If the parameters do not.
    """
    evidence = evidence or Evidence()
    check_evidence(plan, evidence)
    prepared = prepare_for(plan, parameters, evidence)
    batch_size = joint_batch_size(prepared, evidence)
    latent = evidence.latent_log_potentials or {}
    return Posterior(
        plan,
        prepared,
        dense_log_potentials(plan, prepared, evidence),
        {n: t.to(prepared.dtype).expand(batch_size, -1) for n, t in latent.items()},
    )


def dense_log_potentials(plan: Plan, prepared: PreparedParameters, evidence: Evidence) -> Tensor:
    """(B, L, V) log-factors that evidence of any kind puts on the categories."""
    log = next(iter(prepared.weights.values())).log
    shape = (joint_batch_size(prepared, evidence), plan.num_variables, plan.num_categories)
    if evidence.log_potentials is None:
        dense = log.new_zeros(shape)
    elif evidence.categories is None:
        dense = evidence.log_potentials.to(log.dtype).expand(shape)
    else:
        dense = _listed(evidence.log_potentials.to(log.dtype), evidence.categories.long(), shape)
    mask = evidence.mask()
    if mask is not None:
        assert evidence.values is not None
        at = torch.where(mask, evidence.values, 0).long()
        hard = torch.full_like(dense, -torch.inf).scatter(2, at.expand(shape[:2])[..., None], 0.0)
        dense = torch.where(mask[..., None], hard, dense)
    sizes = torch.tensor(plan.circuit.categories, device=log.device)
    missing = torch.arange(shape[2], device=log.device) >= sizes[:, None]
    return dense.masked_fill(missing, -torch.inf)


def _listed(potentials: Tensor, categories: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Log of the sum of the factors listed for each category."""
    floor = torch.finfo(potentials.dtype).min
    empty = potentials.new_full(shape, floor)
    top = empty.scatter_reduce(2, categories, potentials.detach(), "amax")
    share = (potentials - top.gather(2, categories)).exp()
    total = potentials.new_zeros(shape).scatter_add(2, categories, share)
    dead = total == 0
    return (torch.where(dead, 1.0, total).log() + top).masked_fill(dead, -torch.inf)


def take_parameters(prepared: PreparedParameters, index: Tensor) -> PreparedParameters:
    """Parameters of the examples at `index` (N,); itself where all examples share them."""
    if prepared.batch_size in (None, 1):
        return prepared
    made = {
        id(w): w if w.log.shape[1] == 1 else type(w)(w.log[:, index])
        for w in prepared.weights.values()
    }
    weights = {i: made[id(w)] for i, w in prepared.weights.items()}
    return PreparedParameters(prepared.plan, weights, len(index), prepared.dtype)
