"""Answers that are not exact say between which numbers the exact one lies."""

from __future__ import annotations

import numpy as np
import torch

import codd
import pcircuits as pc
from tests.support.coupling_worlds import coupled_worlds
from tests.support.evidence import random_values
from tests.support.properties import Trial, over_circuits

SLACK = 1e-9


@over_circuits("MAP is at least what it says and at most its bound", few=8)
def test_map_brackets_the_largest(trial: Trial) -> None:
    """Every method, also where its search is cut short."""
    best = np.log(trial.worlds.weights.max(1))
    for method, limits in (
        ("max_product", {}),
        ("local_search", {"max_steps": 1}),
        ("branch_and_bound", {"node_limit": int(trial.dice.choice([1, 2, 5, 10_000]))}),
    ):
        found = pc.queries.map(*trial.given, method=method, generator=trial.generator, **limits)
        lower, upper = found.log_probability.numpy(), found.upper_bound.numpy()
        places = trial.worlds.place(found.values)
        trial.compare(lower, np.log(trial.worlds.weights[np.arange(trial.batch), places]))
        trial.holds((lower <= best + SLACK).all() and (upper >= best - SLACK).all(), method)
        exact = found.exact.numpy()
        trial.compare(lower[exact], best[exact])
        trial.compare(upper[exact], best[exact])


@over_circuits("bounds on the entropy bracket it", few=8)
def test_entropy_bounds(trial: Trial) -> None:
    posterior = trial.worlds.posterior
    exact = -(posterior * np.log(np.where(posterior > 0, posterior, 1.0))).sum(1)
    for pairwise in (False, True):
        found = pc.queries.entropy(
            *trial.given, pairwise=pairwise, num_samples=200, generator=trial.generator
        )
        lower, upper = found.lower_bound.numpy(), found.upper_bound.numpy()
        trial.holds((lower <= exact + SLACK).all() and (upper >= exact - SLACK).all())
        trial.compare(lower[found.exact.numpy()], exact[found.exact.numpy()])


@over_circuits("truncated evidence brackets log Z", few=8)
def test_truncated_evidence(trial: Trial) -> None:
    """Listed categories give a lower bound; with what is left out spread over all, an upper one."""
    trial.applies(len(set(trial.circuit.categories)) == 1)
    size = trial.circuit.num_categories
    log = trial.normal(trial.batch, trial.length, size)
    k = int(trial.dice.integers(1, size + 1))
    top, categories = log.topk(k, dim=-1)
    plan, parameters, _ = trial.given
    exact = pc.queries.log_evidence(plan, parameters, pc.Evidence(log_potentials=log))
    listed = pc.Evidence(log_potentials=top, categories=categories)
    rest = log.scatter(2, categories, -torch.inf).amax(-1, keepdim=True)
    above = pc.Evidence(log_potentials=torch.maximum(log, rest))
    for name in trial.implementations():
        lower = pc.forward(plan, parameters, listed, impl=name)
        upper = pc.forward(plan, parameters, above, impl=name)
        trial.holds((lower <= exact + SLACK).all() and (exact <= upper + SLACK).all(), name)
        if k == size:
            trial.compare(lower, exact)


@over_circuits("what lists leave out of a coupling is bounded", few=8)
def test_omitted_mass(trial: Trial) -> None:
    """Against the same coupling of all tokens, by enumeration."""
    trial.applies(len(set(trial.circuit.categories)) == 1)
    trial = trial.shared()
    trial.applies(all(bool(log.isfinite().all()) for log in trial.case.parameters.values()))
    trial.applies(not any(getattr(node, "supports", None) for node in trial.circuit.nodes))
    size = trial.circuit.num_categories
    log_probs = (2 * trial.normal(2, trial.length, size)).log_softmax(-1)
    values = random_values(trial.circuit, 2, trial.generator)
    observed = torch.as_tensor(trial.dice.random(values.shape) < 0.3)
    worlds = trial.worlds.worlds
    k = int(trial.dice.integers(1, size + 1))
    for kind in ("product", "local"):
        settings = codd.CouplingSettings(kind, top_k=k)
        own = (log_probs, values, observed)
        every = coupled_worlds(settings, trial.circuit, trial.case.parameters, *own)
        trial.applies((every.totals() > 0).all())
        joint = codd.couple(settings, trial.plan, trial.case.parameters, *own)
        unlisted = log_probs.argsort(-1, descending=True)[..., k:]
        missing = (unlisted[:, None] == torch.as_tensor(worlds)[None, :, :, None]).any(-1)
        missing &= ~observed[:, None]
        mass = (every.world_probabilities() * missing.any(-1).numpy()).sum(1)
        bound = joint.omitted_mass.numpy()
        trial.holds((bound >= mass - SLACK).all(), f"{kind}: {bound} < {mass}")
        trial.holds((bound <= 1 + SLACK).all())
