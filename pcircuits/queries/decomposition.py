"""Entropy of a circuit's variables together with its latent choices, which is exact in all."""

from __future__ import annotations

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer
from pcircuits.execute.inputs import latent_potentials, leaf_values
from pcircuits.execute.layers import evaluate
from pcircuits.execute.prepare import require_numbers
from pcircuits.execute.weights import Weights
from pcircuits.queries.likelihood import require_possible
from pcircuits.queries.posterior import Posterior

# Terms of input distributions that are laid out at once.
_TERMS = 1 << 24


def entropy_of(probabilities: Tensor, num_axes: int) -> Tensor:
    """Entropy in nats over the last axes; its gradient is finite also at probability zero."""
    positive = probabilities > 0
    terms = -probabilities * torch.where(positive, probabilities, 1.0).log()
    return terms.flatten(-num_axes).sum(-1) if num_axes else terms


def latent_decomposition(given: Posterior) -> tuple[Tensor, Tensor, Tensor]:
    """H(z), H(x | z) and log Z, (B,) each, for the latent choices z of units.

    H(z) is log Z less the expected log-weight of a choice. Expected log-weights are the inner
    product of flows and log-weights: the derivative of log Z when all of them are scaled. That
    derivative is taken for every example at once by differentiating the sum of the flows, weighted
    by a factor for each example, with respect to the factors.
    """
    graph = torch.is_grad_enabled() and any(t.requires_grad for t in _tensors(given))
    offsets = latent_potentials(given.plan, given.prepared, given.evidence())
    leaves = leaf_values(given.plan, given.prepared, given.evidence(), offsets)
    spread = _input_entropies(given)
    with torch.enable_grad():
        leaves = {i: _probe(value, graph) for i, value in leaves.items()}
        inner = {i: _probe(value, graph) for i, value in offsets.items() if i not in leaves}
        made = {
            id(w): type(w)(_probe(w.log, graph))
            for i, w in given.prepared.weights.items()
            if i not in leaves
        }
        weights = {i: made[id(w)] for i, w in given.prepared.weights.items() if i not in leaves}
        values = evaluate(given.plan, leaves, inner, weights, keep_all=False)
        log_z = values[len(given.plan.layers) - 1][0, :, 0]
        require_numbers(given.prepared, log_z)
        require_possible(log_z)
        tensors = [*leaves.values(), *inner.values(), *(w.log for w in made.values())]
        factor = torch.ones_like(log_z, requires_grad=True)
        flows = torch.autograd.grad(log_z, tensors, factor, create_graph=True)
        total = torch.stack([(f * _finite(t)).sum() for f, t in zip(flows, tensors, strict=True)])
        (expected,) = torch.autograd.grad(total.sum(), factor, create_graph=graph)
    given_z = torch.stack(
        [(flow * spread[i]).sum((0, 2)) for i, flow in zip(leaves, flows, strict=False)]
    ).sum(0)
    found = (log_z - expected, given_z, log_z)
    return found if graph else (found[0].detach(), found[1].detach(), found[2].detach())


def _tensors(given: Posterior) -> list[Tensor]:
    logs = [w.log for w in given.prepared.weights.values()]
    return [*logs, given.log_potentials, *given.latent.values()]


def _probe(tensor: Tensor, graph: bool) -> Tensor:
    """The tensor as something that can be differentiated for, in its own graph if there is one."""
    return tensor + 0.0 if graph and tensor.requires_grad else tensor.detach().requires_grad_()


def _finite(tensor: Tensor) -> Tensor:
    """Log-weights whose flow is zero, whatever it would be multiplied by, as zero."""
    return tensor.masked_fill(tensor == -torch.inf, 0.0)


def _input_entropies(given: Posterior) -> dict[int, Tensor]:
    """Input layer -> (F, B, K) entropy of each unit's categories under the evidence."""
    found = {}
    for i in given.plan.input_layers:
        layer, own = given.plan.layers[i], given.prepared.weights[i]
        assert isinstance(layer, InputLayer) and isinstance(own, Weights)
        variables = torch.as_tensor(layer.variables, device=own.log.device)
        factors = given.log_potentials[:, variables, : layer.num_categories].transpose(0, 1)
        rows = max(1, _TERMS // max(1, factors.numel()))
        parts = [_unit_entropy(factors[:, :, None] + log) for log in own.log.split(rows, dim=2)]
        found[i] = torch.cat(parts, dim=-1)
    return found


def _unit_entropy(terms: Tensor) -> Tensor:
    """Entropy of the last axis of log-weights; zero where all are -inf."""
    impossible = (terms == -torch.inf).all(-1, keepdim=True)
    return entropy_of(terms.masked_fill(impossible, 0.0).softmax(-1), 1).masked_fill(
        impossible[..., 0], 0.0
    )
