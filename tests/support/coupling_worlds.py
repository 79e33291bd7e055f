"""Couplings by brute force: every world of a window is weighed in numpy, sweep by sweep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.settings import CouplingSettings
from tests.support.enumeration import Enumeration, enumerate_worlds, input_values


def coupled_worlds(
    settings: CouplingSettings,
    circuit: pc.Circuit,
    parameters: Mapping[str, Tensor],
    log_probs: Tensor,
    values: Tensor,
    observed: Tensor,
    latent: Mapping[str, Tensor] | None = None,
) -> Enumeration:
    """All worlds of a coupling, from its definition."""

    def weighed(potentials: Tensor | None, own: Mapping[str, Tensor] | None) -> Enumeration:
        evidence = pc.Evidence(values, observed, potentials, own)
        return enumerate_worlds(circuit, parameters, evidence)

    if settings.kind == "factorised":
        independent = pc.families.factorized(circuit.num_variables, circuit.num_categories)
        flat = {n: torch.zeros(s).double() for n, s in independent.parameter_shapes.items()}
        return enumerate_worlds(independent, flat, pc.Evidence(values, observed, log_probs))
    if settings.kind == "local":
        latent = _normalising(circuit, parameters, log_probs, values, observed, latent)
    potentials = log_probs
    if settings.kind == "copula":
        given = None
        for size in settings.step_sizes:
            predicted = torch.from_numpy(weighed(given, latent).leave_one_out()).log()
            potentials = (1 - size) * potentials + size * (log_probs - predicted)
            given = potentials
    return weighed(potentials, latent)


def _normalising(
    circuit: pc.Circuit,
    parameters: Mapping[str, Tensor],
    log_probs: Tensor,
    values: Tensor,
    observed: Tensor,
    latent: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """The latent potentials, and minus the log of every input unit's sum where it is masked."""
    found = dict(latent or {})
    evidence = pc.Evidence(values, observed, log_probs)
    variables = {
        name: node.variable
        for node, name in circuit.node_names.items()
        if isinstance(node, pc.Input)
    }
    for name, value in input_values(circuit, parameters, evidence).items():
        visible = observed[:, variables[name]].numpy()[:, None]
        own = torch.from_numpy(np.where(visible, 0.0, -np.log(value)))
        found[name] = found.get(name, torch.zeros_like(own)) + own
    return found
