"""The copula keeps marginals, and couplings that should be the same are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

import codd
import pcircuits as pc
from tests.support.circuits import random_log_weights
from tests.support.evidence import random_values
from tests.support.properties import Trial, over_circuits

SWEEPS = (1.0, *[0.5] * 60)


def _window(trial: Trial, visible: float) -> tuple[Tensor, Tensor, Tensor]:
    """A denoiser's output on two windows, their tokens and which are visible."""
    log_probs = trial.normal(2, trial.length, trial.circuit.num_categories).log_softmax(-1)
    values = random_values(trial.circuit, 2, trial.generator)
    return log_probs, values, torch.as_tensor(trial.dice.random(values.shape) < visible)


@over_circuits("the copula keeps the marginals at convergence", tolerance=1e-6, few=8)
def test_the_copula_keeps_marginals(trial: Trial) -> None:
    """Of circuits of positive weights, by enumeration of the worlds under its potentials."""
    trial.applies(len(set(trial.circuit.categories)) == 1)
    trial = trial.of(replace(trial.case, parameters=_positive(trial), evidence=pc.Evidence()))
    trial.applies((trial.worlds.bare > 0).all())
    log_probs, values, observed = _window(trial, 0.3)
    settings = codd.CouplingSettings("copula", SWEEPS)
    joint = codd.couple(settings, trial.plan, trial.case.parameters, log_probs, values, observed)
    worlds = torch.as_tensor(trial.worlds.worlds)
    law = torch.stack([joint.log_prob(world.expand(2, -1)) for world in worlds], 1).exp()
    agree = ((worlds[None] == values[:, None]) | ~observed[:, None]).all(-1)
    law = (law * agree).numpy()
    trial.compare(law.sum(1), [1.0, 1.0])
    for variable in range(trial.length):
        one_hot = trial.worlds.worlds[:, variable, None] == np.arange(log_probs.shape[2])
        free = (~observed[:, variable]).numpy()
        trial.compare((law @ one_hot)[free], log_probs[free, variable].exp())
    trial.compare(joint.marginal_error, [0.0, 0.0])


@over_circuits("couplings coincide where the circuit factorises", few=8)
def test_couplings_of_a_factorised_circuit(trial: Trial) -> None:
    """Sums whose terms are all alike: the copula is the factorised output, local is the product.

    With uniform tokens all four are the same.
    """
    trial.applies(len(set(trial.circuit.categories)) == 1)
    uniform = bool(trial.dice.integers(2))
    parameters = _alike(trial, uniform)
    size = trial.circuit.num_categories
    log_probs, values, observed = _window(trial, 0.3)
    found = {
        kind: codd.couple(
            codd.CouplingSettings(kind), trial.plan, parameters, log_probs, values, observed
        )
        for kind in codd.COUPLINGS
    }
    same = [("factorised", "copula"), ("product", "local")]
    same += [("factorised", "product")] * uniform
    for one, other in same:
        trial.compare(found[other].marginals(), found[one].marginals())
        for _ in range(3):
            tokens = torch.as_tensor(trial.dice.integers(size, size=values.shape))
            tokens = torch.where(observed, values, tokens)
            trial.compare(found[other].log_prob(tokens), found[one].log_prob(tokens))
    trial.compare(found["copula"].mutual_information().triu(1), torch.zeros(2, *[trial.length] * 2))


def _positive(trial: Trial) -> dict[str, Tensor]:
    """Normalised weights, none of them zero."""
    shapes = trial.circuit.parameter_shapes
    drawn = {
        name: random_log_weights(shape, trial.generator, zeros=False, normalized=False)
        for name, shape in shapes.items()
    }
    return {n: pc.normalise_parameter(trial.plan, n, own) for n, own in drawn.items()}


def _alike(trial: Trial, uniform: bool) -> dict[str, Tensor]:
    """Inputs that have the same distribution in every unit of a circuit, or the uniform one.

    Raises:
        NotApplicable: If indicators say otherwise, or sums without weights count.
    """
    nodes = trial.circuit.nodes
    trial.applies(not any(isinstance(n, pc.Input) and n.supports is not None for n in nodes))
    trial.applies(not any(isinstance(n, pc.Sum) and not n.weighted for n in nodes))
    found = _positive(trial)
    row = trial.normal(trial.circuit.num_categories).log_softmax(-1) * (not uniform)
    tables = {trial.circuit.parameter_names[n] for n in nodes if isinstance(n, pc.Input)}
    flat = {name: row.log_softmax(-1).expand(found[name].shape).clone() for name in tables}
    return found | flat
