"""Whole circuits by kernels: against the reference, without a question to the device."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

import pcircuits as pc
from pcircuits.execute.prepare import prepare
from pcircuits.execute.triton import evaluation, schedule
from tests.support.evidence import Case, cases
from tests.support.fast_paths import check, results, second_results
from tests.support.low_precision import FLOAT32, FLOAT64
from tests.support.poison import embedded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FAMILIES = {
    "hmm": pc.families.hmm(6, 5, 7),
    "tree": pc.families.binary_tree(7, 3, 4),
    "all pairs": pc.families.binary_tree(5, 3, 4, product="kronecker"),
    "rat": pc.families.rat(7, 3, depth=2, repetitions=2, num_sums=3, num_input_units=2, seed=0),
    "hidden tree": pc.families.hidden_chow_liu([-1, 0, 0, 1, 1], 5, 3),
}


class NoQuestions(TorchDispatchMode):
    """Raises where an operation would have to wait for the device."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        return function(*args, **(kwargs or {}))


def _soft_evidence(circuit: pc.Circuit, dtype: torch.dtype) -> pc.Evidence:
    generator = torch.Generator().manual_seed(0)
    shape = (3, circuit.num_variables)
    values = torch.randint(0, circuit.num_categories, shape, generator=generator)
    observed = torch.rand(shape, generator=generator) < 0.4
    potentials = torch.randn(*shape, circuit.num_categories, generator=generator)
    return pc.Evidence(values.to(DEVICE), observed.to(DEVICE), potentials.to(DEVICE, dtype))


def _parameters(circuit: pc.Circuit, dtype: torch.dtype) -> dict[str, Tensor]:
    plan = pc.compile_circuit(circuit)
    drawn = pc.random_parameters(plan, seed=1, dtype=dtype)
    return {name: tensor.to(DEVICE).requires_grad_() for name, tensor in drawn.items()}


@given(case=cases())
@settings(max_examples=20)
def test_random_circuits_in_float64(case: Case) -> None:
    check(case, "triton", FLOAT64, 0, place=embedded)


@given(case=cases())
@settings(max_examples=6)
def test_random_circuits_in_float32(case: Case) -> None:
    check(case, "triton", FLOAT32, 0, place=embedded, evaluate=results)


@given(case=cases(zeros=False))
@settings(max_examples=5)
def test_second_gradients_of_random_circuits(case: Case) -> None:
    check(case, "triton", FLOAT64, 0, place=embedded, evaluate=second_results)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_way_waits_for_the_device(family: str) -> None:
    circuit = FAMILIES[family]
    plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float32)
    evidence = _soft_evidence(circuit, torch.float32)
    assert evidence.log_potentials is not None
    evidence.log_potentials.requires_grad_()
    prepared = prepare(plan, parameters)
    with NoQuestions():
        value = evaluation.log_value(plan, prepared, evidence)
        found = torch.autograd.grad(value.sum(), [*parameters.values(), evidence.log_potentials])

    assert all(bool(gradient.isfinite().all()) for gradient in found)


@pytest.mark.parametrize("family", ["hmm", "all pairs"])
def test_gradients_by_finite_differences(family: str) -> None:
    circuit = FAMILIES[family]
    plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float64)
    evidence = _soft_evidence(circuit, torch.float64)
    names = list(parameters)

    def value(*tensors: Tensor) -> Tensor:
        return pc.forward(plan, dict(zip(names, tensors, strict=True)), evidence, impl="triton")

    assert torch.autograd.gradcheck(value, tuple(parameters.values()), fast_mode=True)


def test_weights_of_a_chain_take_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = FAMILIES["hmm"]
    plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float64)
    value = pc.forward(plan, parameters, _soft_evidence(circuit, torch.float64), impl="triton")
    from pcircuits.execute.triton import gradients

    runs: list[int] = []
    original = gradients.weights_launch

    def counted(run: Any, *rest: Any, **options: Any) -> Any:
        runs.append(len(run))
        return original(run, *rest, **options)

    monkeypatch.setattr(gradients, "weights_launch", counted)
    value.sum().backward()

    # Besides the root's sum: the step that reads two inputs, and all others at once.
    assert sorted(runs) == [1, 1, 4]


def test_products_are_part_of_the_sums_that_alone_read_them() -> None:
    plan = pc.compile_circuit(FAMILIES["hmm"])
    sums = [i for i, own in enumerate(plan.layers) if type(own).__name__ == "SumLayer"]
    products = [i for i, own in enumerate(plan.layers) if type(own).__name__ == "ProductLayer"]

    found = schedule.device_schedule(plan).below
    assert list(found.values()) == products and set(found) <= set(sums)


def test_latent_potentials_of_products_and_sums() -> None:
    circuit = FAMILIES["tree"]
    latent = {name: node for node, name in circuit.node_names.items()}
    generator = torch.Generator().manual_seed(0)
    potentials = {
        name: torch.randn(3, node.num_units, generator=generator, dtype=torch.float64)
        for name, node in latent.items()
    }
    values = torch.randint(0, 4, (3, 7), generator=generator)
    plan = pc.compile_circuit(circuit)
    drawn = pc.random_parameters(plan, seed=1, dtype=torch.float64)
    case = Case(circuit, drawn, pc.Evidence(values, latent_log_potentials=potentials))

    check(case, "triton", FLOAT64, 0, place=embedded)


def test_impossible_evidence_has_value_minus_infinity_and_no_gradient() -> None:
    circuit = FAMILIES["hmm"]
    plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float32)
    potentials = torch.zeros(2, 6, 7, device=DEVICE)
    potentials[1, 3] = -math.inf
    evidence = pc.Evidence(log_potentials=potentials.requires_grad_())
    value = pc.forward(plan, parameters, evidence, impl="triton")
    value[1].backward()

    assert value[1] == -math.inf and value[0].isfinite()
    assert evidence.log_potentials is not None and evidence.log_potentials.grad is not None
    assert not evidence.log_potentials.grad.any()


def test_long_chains_underflow_nowhere() -> None:
    circuit = pc.families.hmm(200, 3, 4)
    parameters = _parameters(circuit, torch.float32)
    values = torch.zeros(1, 200, dtype=torch.long, device=DEVICE)
    plan = pc.compile_circuit(circuit)
    with torch.no_grad():
        found = pc.forward(plan, parameters, pc.Evidence(values), impl="triton")
    own = {name: tensor.detach().cpu() for name, tensor in parameters.items()}
    expected = pc.forward(plan, own, pc.Evidence(values.cpu()), impl="reference")

    assert expected.item() < -150
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=0.0)


def test_the_package_does_without_triton() -> None:
    code = "import sys, pcircuits; assert not any('triton' == m.split('.')[0] for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_real_sizes_agree_with_ordinary_operations() -> None:
    families = {
        "hmm": (pc.families.hmm(32, 1024, 50), 64),
        "one": (pc.families.hmm(32, 1024, 50), 1),
        "pairs": (pc.families.binary_tree(16, 64, 50, product="kronecker"), 256),
        "tree": (pc.families.hidden_chow_liu([-1, *range(31)], 256, 50), 256),
    }
    for name, (circuit, batch) in families.items():
        plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float32)
        values = torch.randint(0, 50, (batch, circuit.num_variables), device=DEVICE)
        found = pc.forward(plan, parameters, pc.Evidence(values), impl="triton")
        flows = torch.autograd.grad(found.sum(), list(parameters.values()))
        double = {n: tensor.detach().double().requires_grad_() for n, tensor in parameters.items()}
        expected = pc.forward(plan, double, pc.Evidence(values), impl="eager")
        exact = torch.autograd.grad(expected.sum(), list(double.values()))

        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.0, msg=name)
        for flow, wanted in zip(flows, exact, strict=True):
            error = (flow.double() - wanted).norm() / wanted.norm()
            assert error < 1e-4, f"{name}: {error}"


@pytest.mark.gpu
def test_the_device_is_never_waited_for() -> None:
    circuit = pc.families.hmm(8, 64, 50)
    plan, parameters = pc.compile_circuit(circuit), _parameters(circuit, torch.float32)
    prepared = prepare(plan, parameters)
    evidence = pc.Evidence(torch.randint(0, 50, (4, 8), device=DEVICE))
    for mode in ("default", "error"):  # the first time copies what stays on the device
        torch.cuda.set_sync_debug_mode(mode)
        try:
            evaluation.log_value(plan, prepared, evidence).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
