"""Posterior marginals of latent units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.api import Parameters, forward, prepare_for
from pcircuits.execute.choice import choose
from pcircuits.execute.evidence import Evidence, check_evidence
from pcircuits.execute.inputs import joint_batch_size
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.queries.likelihood import require_possible


def latent_marginals(
    plan: Plan, parameters: Parameters, evidence: Evidence, nodes: Sequence[str]
) -> dict[str, Tensor]:
    """Probability, given the evidence, that each unit of a node takes part in the world's cause.

    For an HMM and nodes `state_t` this is the posterior of the hidden state at position t.

    Args:
        plan: The compiled circuit.
        parameters: Log-weights by name.
        evidence: Evidence of any kind.
        nodes: Names of nodes.

    Returns:
        Node name -> (B, K). Rows sum to 1 for nodes that every world passes through.

    Raises:
        EvidenceError: If the evidence does not fit or is impossible, or a node is unknown.

    Examples:
        Two coins, one of them of two heads: which one has shown two heads?

        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> coins = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
        >>> tables = {"weights": torch.tensor([0.5, 0.5]), "input_0": coins, "input_1": coins}
        >>> model.set_probabilities(tables)
        >>> heads = pc.Evidence(torch.tensor([[1, 1]]))
        >>> pc.queries.latent_marginals(model.plan, model.log_parameters(), heads, ["components"])
        {'components': tensor([[0.2000, 0.8000]])}
    """
    check_evidence(plan, evidence)
    prepared = prepare_for(plan, parameters, evidence).detach()
    places = _places(plan, nodes)
    if not nodes:
        return {}
    if _are_inputs(plan, places) and choose(plan, prepared, evidence).implementation == "fused":
        return _input_posteriors(plan, prepared, evidence, places)
    with torch.enable_grad():
        probes = _latent_probes(plan, prepared, nodes, joint_batch_size(prepared, evidence))
        given = dict(evidence.latent_log_potentials or {})
        for names, probe in probes:
            for name, own in zip(names, probe.unbind(), strict=True):
                given[name] = own + given[name].detach() if name in given else own
        log_z = forward(plan, prepared, replace(evidence, latent_log_potentials=given))
        require_possible(log_z)
        found = torch.autograd.grad(log_z.sum(), [probe for _, probe in probes])
    by_name = {
        name: own
        for (names, _), gradient in zip(probes, found, strict=True)
        for name, own in zip(names, gradient.unbind(), strict=True)
    }
    return {name: by_name[name] for name in nodes}


def _places(plan: Plan, nodes: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Name -> layer and fold."""
    places = plan.places
    try:
        return {name: places[name] for name in nodes}
    except KeyError as error:
        (name,) = error.args
        raise EvidenceError(
            f"the circuit has no node {name!r}; it has {list(places)[:8]}"
        ) from error


def _are_inputs(plan: Plan, places: Mapping[str, tuple[int, int]]) -> bool:
    layers = {layer for layer, _ in places.values()}
    return all(isinstance(plan.layers[layer], InputLayer) for layer in layers)


def _input_posteriors(
    plan: Plan,
    prepared: PreparedParameters,
    evidence: Evidence,
    places: Mapping[str, tuple[int, int]],
) -> dict[str, Tensor]:
    # Imported where it is used: numba takes a second to import.
    from pcircuits.execute.fused.evaluation import input_posteriors

    log_z, is_possible, found = input_posteriors(plan, prepared, evidence, list(places.values()))
    if not is_possible:
        require_possible(log_z)
    return dict(zip(places, found, strict=True))


def _latent_probes(
    plan: Plan, prepared: PreparedParameters, nodes: Sequence[str], batch_size: int
) -> list[tuple[list[str], Tensor]]:
    """Names of the nodes of a layer, and zero potentials (n, B, K) of them all."""
    by_layer: dict[int, list[str]] = {}
    for name in dict.fromkeys(nodes):
        by_layer.setdefault(plan.places[name][0], []).append(name)
    like = next(iter(prepared.weights.values())).log
    return [
        (names, like.new_zeros((len(names), batch_size, plan.layers[i].num_units)).requires_grad_())
        for i, names in by_layer.items()
    ]
