"""Values that are wrong without a word elsewhere: clamps, epsilons, cancellation, low precision.

Each test names the kind of error. None is about one library: every one was seen in some.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pcircuits as pc
from tests.support.enumeration import enumerate_worlds
from tests.support.families import random_weights

CPU = ("reference", "eager", "fused")


def test_no_floor_below_log_likelihoods() -> None:
    """A log-sum-exp that is clamped: 784 uniform variables at -708, and gradients of zero."""
    plan = pc.compile_circuit(pc.families.mixture(784, 3, 256))
    weights = {name: torch.zeros(shape) for name, shape in plan.parameter_shapes.items()}
    uniform = {
        name: pc.normalise_parameter(plan, name, log).requires_grad_()
        for name, log in weights.items()
    }
    values = torch.arange(784).remainder(256)[None]
    for impl in CPU:
        found = pc.forward(plan, uniform, pc.Evidence(values), impl=impl)
        torch.testing.assert_close(found.double().item(), -784 * math.log(256), rtol=1e-6, atol=0)
        flows = torch.autograd.grad(found, list(uniform.values()))
        inputs = sum(float(flow.sum()) for flow in flows) - 1  # the root's counts add up to one
        assert inputs == pytest.approx(784, rel=1e-5)


@pytest.mark.parametrize("impl", CPU)
def test_probability_zero_is_minus_infinity(impl: str) -> None:
    """An epsilon inside the logarithm: data of probability zero at -110.5."""
    plan, parameters = _no_way_to_zero()
    for values in ([[0, 1, 1]], [[1, 0, 1]]):
        own = {name: log.clone().requires_grad_() for name, log in parameters.items()}
        if impl == "fused" and _fused_refuses(plan, parameters):
            pytest.skip("linear space refuses weights that are zero")
        value = pc.forward(plan, own, pc.Evidence(torch.tensor(values)), impl=impl)
        assert value.item() == -math.inf
        flows = torch.autograd.grad(value, list(own.values()))
        assert all(bool((flow == 0).all()) for flow in flows)


def _no_way_to_zero() -> tuple[pc.Plan, dict[str, torch.Tensor]]:
    """Category 0 is impossible."""
    plan = pc.compile_circuit(pc.families.hmm(3, 2, 2))
    parameters = random_weights(plan.circuit)
    parameters["emission"] = torch.tensor([[-math.inf, 0.0], [-math.inf, 0.0]]).double()
    return plan, parameters


def _fused_refuses(plan: pc.Plan, parameters: dict[str, torch.Tensor]) -> bool:
    try:
        pc.choose_implementation(plan, parameters, pc.Evidence(), impl="fused")
    except pc.errors.BackendError:
        return True
    return False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_child_of_weight_zero_does_no_harm(dtype: torch.dtype) -> None:
    """The maximum taken over terms whose weight is zero: -111.2 in place of -171.1."""
    good = [pc.Input(i, num_units=1, num_categories=2, parameter="rare") for i in range(30)]
    bad = [pc.Input(i, num_units=1, num_categories=2, parameter="usual") for i in range(30)]
    root = pc.Sum(pc.Product(*bad), pc.Product(*good), num_units=1, parameter="root")
    plan = pc.compile_circuit(pc.Circuit(root))
    rare = math.exp(-171.1 / 30)
    parameters = {
        "rare": torch.tensor([[rare, 1 - rare]], dtype=dtype).log(),
        "usual": torch.tensor([[0.999, 0.001]], dtype=dtype).log(),
        "root": torch.tensor([0.0, 1.0], dtype=dtype).log(),
    }
    parameters = {n: p.reshape(plan.parameter_shapes[n]) for n, p in parameters.items()}
    for impl in ("reference", "eager", "auto"):
        evidence = pc.Evidence(torch.zeros(1, 30, dtype=torch.long))
        found = pc.forward(plan, parameters, evidence, impl=impl)
        assert found.item() == pytest.approx(-171.1, rel=1e-5)


def test_exact_zeros_have_finite_gradients() -> None:
    """A logarithm of zero whose gradient is NaN or infinite, and then is every weight."""
    model = pc.CircuitModel(pc.families.hmm(4, 3, 3), seed=0)
    tables = model.probabilities()
    tables["transition"] = torch.eye(3)
    tables["emission"] = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 1]])
    model.set_probabilities(tables)
    values = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 0], [2, 2, 2, 2]])
    value = model.log_likelihood(values)
    assert value[1] == -math.inf and bool(value[[0, 2]].isfinite().all())
    value[[0, 2]].sum().backward()
    for weight in model.parameters():
        assert weight.grad is not None and bool(weight.grad.isfinite().all())


@pytest.mark.parametrize("seed", range(10))
def test_the_most_probable_assignment_says_how_sure_it_is(seed: int) -> None:
    """A greedy or latent maximum given as the most probable assignment: right on a third.

    On 100 circuits of 4 variables and 3 units, in tens: the default says which answers are exact
    and bounds the others; branch and bound is always exact.
    """
    right = 0
    for number in range(10):
        circuit = pc.families.hmm(4, 3, 3)
        plan, parameters = (
            pc.compile_circuit(circuit),
            random_weights(circuit, seed=seed * 10 + number),
        )
        best = enumerate_worlds(circuit, parameters, pc.Evidence()).weights.max()
        sure = pc.queries.map(plan, parameters, method="branch_and_bound")
        assert bool(sure.exact.all())
        assert sure.log_probability.item() == pytest.approx(math.log(best), abs=1e-9)
        found = pc.queries.map(plan, parameters)
        assert found.log_probability.item() <= math.log(best) + 1e-9
        assert found.upper_bound.item() >= math.log(best) - 1e-9
        hit = found.log_probability.item() == pytest.approx(math.log(best), abs=1e-9)
        assert hit or not bool(found.exact.all())
        right += hit
    assert right >= 9  # of ten; peers: three to six


def test_float32_is_the_default_and_lower_precision_is_refused() -> None:
    """bfloat16 by default, and errors of a hundredth that say nothing."""
    model = pc.CircuitModel(pc.families.hmm(4, 2, 3))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    for dtype in (torch.bfloat16, torch.float16):
        halved = {name: log.to(dtype) for name, log in model.log_parameters().items()}
        with pytest.raises(pc.errors.ParameterError, match="must be float32 or float64"):
            pc.forward(model.plan, halved, pc.Evidence())


@pytest.mark.parametrize("length", [32, 128])
def test_float32_is_unbiased_at_a_thousand_states(length: int) -> None:
    """Low precision that is biased: 1e-3 to 5e-3 nats at 1,024 states."""
    model = pc.CircuitModel(pc.families.hmm(length, 256, 64), seed=0)
    values = torch.randint(64, (8, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        double = {name: log.double() for name, log in model.log_parameters().items()}
        exact = pc.forward(model.plan, double, pc.Evidence(values))
        found = model.log_likelihood(values)
    error = (found.double() - exact).numpy()
    assert np.abs(error).max() < 2e-4
