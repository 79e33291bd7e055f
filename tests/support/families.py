"""What every family is checked for: exact queries, normalisation, and structural properties."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from tests.support.enumeration import enumerate_worlds
from tests.support.evidence import random_potentials

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def random_weights(circuit: pc.Circuit, *, seed: int = 0) -> dict[str, Tensor]:
    """Normalised float64 log-weights, far from uniform."""
    plan = pc.compile_circuit(circuit)
    return pc.random_parameters(plan, seed=seed, spread=2.0, dtype=torch.float64)


def all_worlds(circuit: pc.Circuit) -> Tensor:
    """(W, L) every assignment of categories."""
    return torch.tensor(list(itertools.product(*map(range, circuit.categories))))


def world_probabilities(circuit: pc.Circuit, parameters: dict[str, Tensor]) -> np.ndarray:
    """(W,) probability of every world by the default executor."""
    plan = pc.compile_circuit(circuit)
    return pc.forward(plan, parameters, pc.Evidence(all_worlds(circuit))).exp().numpy()


def assert_exact_family(circuit: pc.Circuit, *, seed: int = 0) -> pc.Properties:
    """Worlds, log Z and marginals equal enumeration; the circuit is smooth, decomposable, one.

    Args:
        circuit: A circuit of few worlds.
        seed: Of parameters and evidence.

    Returns:
        The properties, for what else a family promises.
    """
    plan, parameters = pc.compile_circuit(circuit), random_weights(circuit, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shape = (2, circuit.num_variables, circuit.num_categories)
    evidence = pc.Evidence(log_potentials=random_potentials(shape, generator, zeros=False))
    worlds = enumerate_worlds(circuit, parameters, evidence)
    probabilities = world_probabilities(circuit, parameters)
    np.testing.assert_allclose(probabilities, worlds.weights[0], **EXACT)
    np.testing.assert_allclose(probabilities.sum(), 1.0, **EXACT)
    nothing = pc.Evidence(log_potentials=torch.zeros(1, *shape[1:], dtype=torch.float64))
    log_partition = pc.queries.log_evidence(plan, parameters, nothing)
    np.testing.assert_allclose(log_partition.numpy(), [0.0], atol=1e-12)
    log_z = pc.queries.log_evidence(plan, parameters, evidence)
    np.testing.assert_allclose(log_z.numpy(), worlds.log_partition(), **EXACT)
    single = pc.queries.marginals(plan, parameters, evidence)
    np.testing.assert_allclose(single.numpy(), worlds.marginals(), **EXACT)
    properties = pc.validate(circuit)
    assert properties.smooth and properties.decomposable
    return properties
