"""The executor on a CUDA device gives what it gives on the CPU."""

from __future__ import annotations

import pytest
import torch

import pcircuits as pc
from benchmarks.scalar_graph import GraphSizes, random_graph

pytestmark = pytest.mark.gpu

FAMILIES = {
    "hmm": pc.families.hmm(9, 5, 7),
    "gated_hmm": pc.families.gated_hmm(5, 4, 6),
    "tree": pc.families.binary_tree(7, 3, 4),
    "kronecker": pc.families.binary_tree(6, 2, 4, product="kronecker"),
    "rat": pc.families.rat(7, 3, depth=2, repetitions=2, num_sums=3, num_input_units=2, seed=0),
    "monarch": pc.families.monarch_hmm(4, 9, 5),
    "single nodes": pc.from_networkx(random_graph(GraphSizes(400, 1_200, 6), seed=0)),
}


def _evidence(circuit: pc.Circuit, device: str) -> pc.Evidence:
    generator = torch.Generator().manual_seed(0)
    shape = (6, circuit.num_variables)
    values = torch.randint(0, circuit.num_categories, shape, generator=generator)
    observed = torch.rand(shape, generator=generator) < 0.4
    potentials = torch.randn(*shape, circuit.num_categories, generator=generator)
    return pc.Evidence(values.to(device), observed.to(device), potentials.to(device))


@pytest.mark.parametrize("family", FAMILIES)
def test_values_gradients_and_queries_agree_with_the_cpu(family: str) -> None:
    circuit = FAMILIES[family]
    plan = pc.compile_circuit(circuit)
    found = {}
    for device in ("cpu", "cuda"):
        parameters = {
            n: p.double().to(device).requires_grad_()
            for n, p in pc.random_parameters(plan, seed=1).items()
        }
        evidence = _evidence(circuit, device)
        value = pc.forward(plan, parameters, evidence)
        gradients = torch.autograd.grad(value.sum(), list(parameters.values()))
        with torch.no_grad():
            marginals = pc.queries.marginals(plan, parameters, evidence)
            predictive = pc.queries.leave_one_out(plan, parameters, evidence)
        found[device] = [t.detach().cpu() for t in (value, *gradients, marginals, predictive)]

    for on_cpu, on_gpu in zip(found["cpu"], found["cuda"], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_keep_what_is_observed(family: str) -> None:
    circuit = FAMILIES[family]
    model = pc.CircuitModel(circuit).to("cuda")
    evidence = _evidence(circuit, "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    drawn = model.sample(5, evidence, generator)

    assert drawn.shape == (6, 5, circuit.num_variables) and drawn.device.type == "cuda"
    kept = evidence.observed[:, None].expand_as(drawn)
    assert torch.equal(drawn[kept], evidence.values[:, None].expand_as(drawn)[kept])
