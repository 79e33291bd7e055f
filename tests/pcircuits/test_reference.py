"""The slow oracle against enumeration of all worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import pcircuits as pc
from pcircuits.errors import ParameterError
from pcircuits.execute.reference import log_value
from tests.support.enumeration import enumerate_worlds
from tests.support.evidence import Case, cases


@given(cases())
@settings(max_examples=100)
def test_value_equals_the_sum_over_worlds(case: Case) -> None:
    expected = enumerate_worlds(case.circuit, case.parameters, case.evidence).log_partition()

    found = log_value(case.circuit, case.parameters, case.evidence)

    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)


@given(cases(zeros=True))
def test_gradients_are_never_nan_and_zero_where_impossible(case: Case) -> None:
    parameters = {name: t.clone().requires_grad_() for name, t in case.parameters.items()}

    value = log_value(case.circuit, parameters, case.evidence)
    gradients = torch.autograd.grad(value.sum(), list(parameters.values()))

    assert not any(gradient.isnan().any() for gradient in gradients)
    if bool((value == -math.inf).all()):
        assert not any(gradient.any() for gradient in gradients)


def test_a_hand_computed_mixture() -> None:
    circuit = pc.families.mixture(2, num_components=2, num_categories=2)
    probabilities = {
        "weights": [0.25, 0.75],
        "input_0": [[0.5, 0.5], [0.1, 0.9]],
        "input_1": [[1.0, 0.0], [0.3, 0.7]],
    }
    parameters = {name: torch.tensor(p).log() for name, p in probabilities.items()}

    found = log_value(circuit, parameters, pc.Evidence(torch.tensor([[0, 1], [1, 0]])))

    expected = [0.75 * 0.1 * 0.7, 0.25 * 0.5 * 1.0 + 0.75 * 0.9 * 0.3]
    assert found.exp().tolist() == pytest.approx(expected, rel=1e-6)


def test_parameters_are_checked() -> None:
    circuit = pc.families.mixture(1, num_components=2, num_categories=3)

    with pytest.raises(ParameterError, match="'input_0' is missing"):
        log_value(circuit, {"weights": torch.zeros(2)}, pc.Evidence())
    with pytest.raises(ParameterError, match=r"'weights' has shape \(3,\); expected \(2,\)"):
        log_value(circuit, {"weights": torch.zeros(3), "input_0": torch.zeros(2, 3)}, pc.Evidence())
