"""Passes over a chain: kernels and plain PyTorch against the queries in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from tests.support.poison import poisoned_memory
from tests.support.waiting import WaitedForDevice, WithoutWaiting

pytest.importorskip("triton")
if not torch.cuda.is_available():
    import tests.support.triton_interpreter  # noqa: F401  (rounds products as a device does)

BATCH, LENGTH, UNITS, CATEGORIES, LISTED = 3, 4, 7, 45, 11
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPLEMENTATIONS = ("torch", "triton")
LARGEST = 30.0


@contextmanager
def checked() -> Iterator[None]:
    """Memory is poisoned and nothing may ask the device for a value."""
    with poisoned_memory(), WithoutWaiting():
        yield


def model(*, homogeneous: bool = True, hard: bool = False) -> tuple[pc.Plan, dict[str, Tensor]]:
    """A chain; `hard` has forbidden steps, impossible emissions and log-weights 150 nats apart."""
    random = torch.Generator().manual_seed(0)
    plan = pc.compile_circuit(pc.families.hmm(LENGTH, UNITS, CATEGORIES, homogeneous=homogeneous))
    found = {}
    for name, shape in plan.parameter_shapes.items():
        log = 2 * torch.randn(shape, generator=random)
        if hard:
            log = log.masked_fill(torch.rand(shape, generator=random) < 0.4, -torch.inf)
            log = log - 150.0 * (torch.rand(shape, generator=random) < 0.4)
            log[..., 0] = 0.0
        found[name] = log.log_softmax(-1).to(DEVICE)
    return plan, found


def window(*, listed: bool, latent: bool = False) -> pc.queries.ChainWindow:
    random = torch.Generator().manual_seed(1)
    potentials = torch.randn(BATCH, LENGTH, CATEGORIES, generator=random).log_softmax(-1)
    potentials[:, :, 7] = -torch.inf
    names = None
    if listed:
        order = torch.rand(potentials.shape, generator=random)
        order[..., 0] = -1.0  # the category that every state allows is listed
        names = order.argsort(-1)[..., :LISTED].contiguous()
        potentials = potentials.gather(2, names)
        names = names.to(DEVICE)
    observed = torch.rand(BATCH, LENGTH, generator=random) < 0.3
    values = torch.randint(CATEGORIES, (BATCH, LENGTH), generator=random)
    values = torch.where(observed, 0, values)
    states = torch.randn(BATCH, LENGTH, UNITS, generator=random).to(DEVICE) if latent else None
    return pc.queries.ChainWindow(
        potentials.to(DEVICE), values.to(DEVICE), observed.to(DEVICE), names, None, states
    )


def evidence(own: pc.queries.ChainWindow) -> pc.Evidence:
    latent = None
    if own.latent is not None:
        latent = {f"state_{t}": own.latent[:, t].double() for t in range(LENGTH)}
    return pc.Evidence(
        own.values, own.observed, own.log_potentials.double(), latent, own.categories
    )


def test_the_check_for_waiting_sees_it() -> None:
    plan, parameters = model()
    with pytest.raises(WaitedForDevice), WithoutWaiting():
        pc.forward(plan, parameters, evidence(window(listed=False)))
    with pytest.raises(WaitedForDevice), WithoutWaiting():
        torch.ones(3).sum().item()


CASES = {
    "plain": ({}, {"listed": False}),
    "latent": ({}, {"listed": False, "latent": True}),
    "listed": ({}, {"listed": True, "latent": True}),
    "inhomogeneous": ({"homogeneous": False}, {"listed": False}),
    "inhomogeneous, listed": ({"homogeneous": False}, {"listed": True}),
    "hard": ({"hard": True}, {"listed": False}),
    "hard, listed": ({"hard": True}, {"listed": True}),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_passes_are_the_queries(case: str, impl: str) -> None:
    circuit, known = CASES[case]
    plan, parameters = model(**circuit)
    own = window(**known)
    passes = pc.queries.chain_passes(plan, parameters, impl=impl)
    with checked():
        messages = passes.messages(own)
        marginals = passes.marginals(own, messages)
        target = own.log_potentials
        moved = passes.moved(own, messages, target, 0.5, LARGEST)
    exact = {name: tensor.double() for name, tensor in parameters.items()}
    given = evidence(own)
    value = pc.forward(plan, exact, given)
    assert (value > -torch.inf).all()
    torch.testing.assert_close(messages.log_value.double(), value, rtol=1e-5, atol=1e-5)
    expected = pc.queries.marginals(plan, exact, given)
    prediction = pc.queries.log_leave_one_out(plan, exact, given)
    if own.categories is not None:
        expected = expected.gather(2, own.categories)
        prediction = prediction.gather(2, own.categories)
    torch.testing.assert_close(marginals.double(), expected, rtol=0, atol=1e-5)
    ruled_out = target == -torch.inf
    finite = target.double().masked_fill(ruled_out, 0.0)
    step = 0.5 * finite + 0.5 * (finite - prediction).clamp(max=LARGEST)
    step = step.masked_fill(ruled_out, -torch.inf)
    torch.testing.assert_close(moved.double(), step, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_missing_and_unused_potentials(impl: str) -> None:
    plan, parameters = model()
    own = window(listed=False)
    missing = torch.zeros_like(own.observed)
    missing[:, -1] = True
    observed = own.observed & ~missing
    passes = pc.queries.chain_passes(plan, parameters, impl=impl)
    exact = {name: tensor.double() for name, tensor in parameters.items()}
    given = pc.queries.ChainWindow(own.log_potentials, own.values, observed, missing=missing)
    with checked():
        messages = passes.messages(given)
        marginals = passes.marginals(given, messages)
        alone = passes.messages(given, soft=False).log_value
    zero = own.log_potentials.double().masked_fill(missing[..., None], 0.0)
    value = pc.forward(plan, exact, pc.Evidence(own.values, observed, zero))
    torch.testing.assert_close(messages.log_value.double(), value, rtol=1e-5, atol=1e-5)
    assert (marginals[missing] == 0).all()
    torch.testing.assert_close(
        marginals[~missing].sum(-1), torch.ones_like(marginals[~missing][:, 0])
    )
    value = pc.forward(plan, exact, pc.Evidence(own.values, observed))
    torch.testing.assert_close(alone.double(), value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_impossible_evidence_is_minus_infinity_and_never_nan(impl: str) -> None:
    plan, parameters = model()
    parameters["emission"][:, 3] = -torch.inf
    own = window(listed=False)
    values, observed = own.values.clone(), own.observed.clone()
    values[1, 2], observed[1, 2] = 3, True
    given = pc.queries.ChainWindow(own.log_potentials, values, observed)
    passes = pc.queries.chain_passes(plan, parameters, impl=impl)
    uniforms = torch.rand(BATCH, 1, LENGTH, 2, device=DEVICE)
    with checked():
        messages = passes.messages(given)
        found = [
            passes.marginals(given, messages),
            passes.moved(given, messages, own.log_potentials, 1.0, LARGEST),
            passes.sample(given, messages, uniforms),
        ]
    assert (messages.log_value == -torch.inf).tolist() == [False, True, False]
    assert not any(tensor.isnan().any() for tensor in found)
    assert ((found[2] >= 0) & (found[2] < CATEGORIES)).all()


def test_one_variable() -> None:
    plan = pc.compile_circuit(pc.families.hmm(1, UNITS, CATEGORIES))
    parameters = {
        name: torch.randn(shape, device=DEVICE).log_softmax(-1)
        for name, shape in plan.parameter_shapes.items()
    }
    potentials = torch.randn(2, 1, CATEGORIES, device=DEVICE)
    values = torch.zeros(2, 1, dtype=torch.long, device=DEVICE)
    own = pc.queries.ChainWindow(potentials, values, values > 0)
    for impl in IMPLEMENTATIONS:
        passes = pc.queries.chain_passes(plan, parameters, impl=impl)
        found = passes.messages(own).log_value
        expected = pc.forward(plan, parameters, pc.Evidence(log_potentials=potentials))
        torch.testing.assert_close(found, expected)


def test_what_is_no_chain_is_refused() -> None:
    plan, parameters = model()
    tree = pc.compile_circuit(pc.families.mixture(3, 4, 5))
    assert pc.queries.is_chain(plan) and not pc.queries.is_chain(tree)
    with pytest.raises(pc.errors.BackendError, match="not a hidden Markov chain"):
        pc.queries.chain_passes(tree, pc.random_parameters(tree))
    batched = {name: tensor.expand(2, *tensor.shape) for name, tensor in parameters.items()}
    with pytest.raises(pc.errors.BackendError, match="given for 2 examples"):
        pc.queries.chain_passes(plan, batched)
    with pytest.raises(pc.errors.BackendError, match="impl must be one of"):
        pc.queries.chain_passes(plan, parameters, impl="cuda")
    with pytest.raises(pc.errors.BackendError, match="precision must be one of"):
        pc.queries.chain_passes(plan, parameters, impl="triton", precision="half")
    double = {name: tensor.double() for name, tensor in parameters.items()}
    with pytest.raises(pc.errors.BackendError, match="float32"):
        pc.queries.chain_passes(plan, double, impl="triton")
    with pytest.raises(pc.errors.BackendError, match="no state"):
        pc.queries.chain_latents(plan, {"root": torch.zeros(2, 1)})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_capture_says_that_there_is_no_device() -> None:
    with pytest.raises(pc.errors.BackendError, match="CUDA device only"):
        pc.queries.captured_step(torch.exp, [torch.zeros(2)])


@pytest.mark.gpu
def test_captured_passes_are_the_passes() -> None:
    plan, parameters = model()
    own = window(listed=False)
    passes = pc.queries.chain_passes(plan, parameters)

    def step(potentials: Tensor) -> tuple[Tensor, Tensor]:
        given = pc.queries.ChainWindow(potentials, own.values, own.observed)
        messages = passes.messages(given)
        return messages.log_value, passes.marginals(given, messages)

    replay = pc.queries.captured_step(step, [own.log_potentials])
    for _ in range(3):
        potentials = torch.randn_like(own.log_potentials)
        found = [tensor.clone() for tensor in replay(potentials)]
        assert all(map(torch.equal, found, step(potentials)))
    with pytest.raises(pc.errors.BackendError, match="input 0"):
        replay(own.log_potentials[:1])
