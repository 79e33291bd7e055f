"""Posteriors by the queries of the library, and the same as gradients of the reference."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import Case

Results = dict[str, Tensor]


def posteriors(plan: pc.Plan, case: Case, impl: str, seed: int) -> Results:
    """Marginals, leave-one-out predictions, and posteriors of some latent units.

    Args:
        plan: The compiled circuit.
        case: The case. Examples whose evidence is impossible, or leaves some variable no value,
            are left out.
        impl: "reference", or "auto" for the queries.
        seed: Decides the latent units.
    """
    case = _possible(case)
    if case is None:
        return {}
    parameters, evidence = case.parameters, case.evidence
    nodes = list(plan.places)[seed % 3 :: 3]
    if impl == "reference":
        return _reference(plan, case, nodes)
    with torch.no_grad():
        single = pc.queries.marginals(plan, parameters, evidence)
        others = pc.queries.leave_one_out(plan, parameters, evidence)
    latent = pc.queries.latent_marginals(plan, parameters, evidence, nodes) if nodes else {}
    return {"marginals": single, "leave one out": others, **latent}


def _possible(case: Case) -> Case | None:
    """The examples whose evidence about all but one variable is possible, whichever that is."""
    batch = max([case.evidence.batch_size, *_batches(case)])
    possible = torch.ones(batch, dtype=torch.bool)
    for left_out in (None, *range(case.circuit.num_variables)):
        evidence = _without(_dense(case), left_out)
        possible &= _reference_value(case, evidence) > -torch.inf
    kept = possible.nonzero()[:, 0].tolist()
    return case.rows(kept) if kept else None


def _batches(case: Case) -> list[int]:
    shapes = case.circuit.parameter_shapes
    return [len(t) for name, t in case.parameters.items() if t.ndim > len(shapes[name])]


def _reference_value(case: Case, evidence: pc.Evidence) -> Tensor:
    plan = pc.compile_circuit(case.circuit)
    return pc.forward(plan, case.parameters, evidence, impl="reference")


def _dense(case: Case) -> pc.Evidence:
    """Evidence with values, a mask and potentials of all categories, in float64."""
    evidence, circuit = case.evidence, case.circuit
    batch = max([evidence.batch_size, *_batches(case)])
    shape = (batch, circuit.num_variables)
    values, observed = evidence.values, evidence.mask()
    if values is None or observed is None:
        values, observed = torch.zeros(shape, dtype=torch.long), torch.zeros(shape).bool()
    potentials = evidence.log_potentials
    if potentials is None:
        potentials = torch.zeros(*shape, circuit.num_categories)
    potentials = potentials.double()
    if evidence.categories is not None:
        full = torch.full((*shape, circuit.num_categories), -torch.inf, dtype=torch.float64)
        for slot in range(potentials.shape[-1]):
            at = evidence.categories[..., slot, None]
            added = torch.logaddexp(full.gather(2, at), potentials[..., slot, None])
            full = full.scatter(2, at, added)
        potentials = full
    return pc.Evidence(values, observed, potentials, evidence.latent_log_potentials)


def _without(evidence: pc.Evidence, variable: int | None) -> pc.Evidence:
    """Evidence about all the other variables; all of it for None."""
    if variable is None:
        return evidence
    assert evidence.observed is not None and evidence.log_potentials is not None
    observed, potentials = evidence.observed.clone(), evidence.log_potentials.clone()
    observed[:, variable], potentials[:, variable] = False, 0.0
    return replace(evidence, observed=observed, log_potentials=potentials)


def _reference(plan: pc.Plan, case: Case, nodes: list[str]) -> Results:
    dense = _dense(case)
    others = [_marginals(case, _without(dense, i))[:, i] for i in range(plan.num_variables)]
    assert dense.observed is not None and dense.values is not None
    known = torch.where(dense.observed, dense.values, 0).long()
    one_hot = torch.nn.functional.one_hot(known, plan.num_categories).double()
    single = torch.where(dense.observed[..., None], one_hot, _marginals(case, dense))
    given = dict(dense.latent_log_potentials or {})
    probes = {}
    for name in nodes:
        units = plan.layers[plan.places[name][0]].num_units
        probes[name] = torch.zeros(len(known), units, dtype=torch.float64).requires_grad_()
        given[name] = probes[name] + given[name] if name in given else probes[name]
    value = _reference_value(case, replace(dense, latent_log_potentials=given))
    latent = torch.autograd.grad(value.sum(), list(probes.values())) if probes else ()
    found = {"marginals": single, "leave one out": torch.stack(others, 1)}
    return {**found, **dict(zip(probes, latent, strict=True))}


def _marginals(case: Case, evidence: pc.Evidence) -> Tensor:
    """(B, L, V) gradient of the reference for the log-potentials; zero where observed."""
    assert evidence.log_potentials is not None
    probe = torch.zeros_like(evidence.log_potentials).requires_grad_()
    shifted = replace(evidence, log_potentials=evidence.log_potentials + probe)
    value = _reference_value(case, shifted)
    (found,) = torch.autograd.grad(value.sum(), probe)
    return found
