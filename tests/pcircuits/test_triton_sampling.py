"""Samples of a chain by inversion: exact for every uniform, and distributed as they should be."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import pcircuits as pc

pytest.importorskip("triton")
from pcircuits.execute.triton.sampling import draw_categories, draw_states

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inverted(log: Tensor, uniform: float) -> tuple[int, float]:
    """Index by inversion in float64, and how far the uniform is from the nearest border."""
    share = log.double().softmax(-1).cumsum(-1)
    index = int((share <= uniform).sum())
    return index, float((share - uniform).abs().min())


def test_states_are_inverted_exactly() -> None:
    units, length, samples = 37, 3, 9
    initial = torch.randn(units, device=DEVICE)
    steps = torch.randn(length - 1, units, units, device=DEVICE)
    steps[:, :, ::3] = -torch.inf
    inside = torch.randn(length, 2, units, device=DEVICE)
    uniforms = torch.rand(2, samples, length, 2, device=DEVICE)
    uniforms[:, 0, :, 0] = 0.0
    uniforms[:, 1, :, 0] = 1.0 - 2.0**-24
    states = draw_states(initial, steps, inside, uniforms)
    for b, s in itertools.product(range(2), range(samples)):
        row = initial
        for t in range(length):
            expected, margin = inverted(row + inside[t, b], float(uniforms[b, s, t, 0]))
            state = int(states[b, s, t])
            assert state == expected or margin < 1e-6
            assert row[state] > -torch.inf
            row = steps[min(t, length - 2), state]


@pytest.mark.parametrize("listed", [False, True], ids=["dense", "listed"])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 0.0])
def test_categories_are_inverted_exactly_over_many_tiles(temperature: float, listed: bool) -> None:
    units, categories, samples = 5, 2500, 6
    log = torch.randn(1, units, categories, device=DEVICE)
    log[..., 100:1200] = -torch.inf
    potentials = torch.randn(1, 2, categories, device=DEVICE)
    names = None
    if listed:
        names = torch.randperm(categories, device=DEVICE)[:1300].expand(1, 2, -1).contiguous()
        potentials = potentials[..., :1300]
    states = torch.randint(units, (1, samples, 2), device=DEVICE)
    uniforms = torch.rand(1, samples, 2, 2, device=DEVICE)
    uniforms[0, 0, :, 1], uniforms[0, 1, :, 1] = 0.0, 1.0 - 2.0**-24
    found = draw_categories(log, states, potentials, uniforms, temperature, names)
    for s, t in itertools.product(range(samples), range(2)):
        row = log[0, states[0, s, t]]
        logits = potentials[0, t] + (row if names is None else row[names[0, t]])
        if temperature == 0:
            index, margin = int(logits.argmax()), 1.0
        else:
            index, margin = inverted(logits / temperature, float(uniforms[0, s, t, 1]))
        expected = index if names is None else int(names[0, t, index])
        assert int(found[0, s, t]) == expected or margin < 1e-6
        assert row[found[0, s, t]] > -torch.inf


def test_a_grid_of_uniforms_has_the_joint_frequencies() -> None:
    """Two variables, two states: all combinations of stratified uniforms cover the joint law."""
    plan = pc.compile_circuit(pc.families.hmm(2, 2, 3))
    parameters = {
        name: torch.randn(shape, device=DEVICE).log_softmax(-1)
        for name, shape in plan.parameter_shapes.items()
    }
    potentials = torch.randn(1, 2, 3, device=DEVICE)
    points = 10
    grid = (torch.arange(points) + 0.5) / points
    uniforms = torch.cartesian_prod(grid, grid, grid, grid).view(1, -1, 2, 2).to(DEVICE)
    hidden = torch.zeros(1, 2, dtype=torch.bool, device=DEVICE)
    own = pc.queries.ChainWindow(potentials, hidden.long(), hidden)
    given = pc.Evidence(log_potentials=potentials)
    log_value = pc.forward(plan, parameters, given)
    worlds = torch.cartesian_prod(torch.arange(3), torch.arange(3)).to(DEVICE)
    log_joint = pc.forward(plan, parameters, pc.Evidence(worlds))
    taken = potentials[0, 0, worlds[:, 0]] + potentials[0, 1, worlds[:, 1]]
    expected = (log_joint + taken - log_value).exp()
    passes = pc.queries.chain_passes(plan, parameters, impl="torch")
    drawn = passes.sample(own, passes.messages(own), uniforms)[0]
    counts = torch.bincount(drawn[:, 0] * 3 + drawn[:, 1], minlength=9)
    # A stratum's border is off by at most half a stratum, in each of four draws.
    assert (counts / len(drawn) - expected).abs().max() < 4 * 0.5 / points
    some = slice(None) if DEVICE == "cuda" else slice(7, None, 167)  # the interpreter is slow
    kernels = pc.queries.chain_passes(plan, parameters, impl="triton")
    assert torch.equal(
        kernels.sample(own, kernels.messages(own), uniforms[:, some])[0], drawn[some]
    )


def test_observed_values_are_kept() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, 4, 6))
    parameters = {
        name: torch.randn(shape, device=DEVICE).log_softmax(-1)
        for name, shape in plan.parameter_shapes.items()
    }
    values = torch.tensor([[4, 0, 2], [1, 5, 3]], device=DEVICE)
    observed = torch.tensor([[True, False, True], [False, True, False]], device=DEVICE)
    own = pc.queries.ChainWindow(torch.zeros(2, 3, 6, device=DEVICE), values, observed)
    for impl in ("torch", "triton"):
        passes = pc.queries.chain_passes(plan, parameters, impl=impl)
        drawn = passes.sample(own, passes.messages(own), torch.rand(2, 5, 3, 2, device=DEVICE))
        assert (drawn == values[:, None])[observed[:, None].expand_as(drawn)].all()


@pytest.mark.parametrize("temperature", [1.0, 0.0])
@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_listed_categories_that_do_not_exist_are_never_drawn(impl: str, temperature: float) -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, 4, 6))
    parameters = {
        name: torch.randn(shape, device=DEVICE).log_softmax(-1)
        for name, shape in plan.parameter_shapes.items()
    }
    listed = torch.tensor([5, 9, 0, 6], device=DEVICE).expand(2, 3, -1).contiguous()
    potentials = torch.tensor([-9.0, 9.0, -9.0, 9.0], device=DEVICE).expand(2, 3, -1).contiguous()
    hidden = torch.zeros(2, 3, dtype=torch.bool, device=DEVICE)
    own = pc.queries.ChainWindow(potentials, hidden.long(), hidden, listed)
    passes = pc.queries.chain_passes(plan, parameters, impl=impl)
    uniforms = torch.rand(2, 20, 3, 2, device=DEVICE)
    drawn = passes.sample(own, passes.messages(own), uniforms, temperature)
    assert set(drawn.unique().tolist()) <= {0, 5}
