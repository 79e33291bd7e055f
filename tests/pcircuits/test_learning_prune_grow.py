"""Pruning by flows and growing by copies: what is lost is bounded, copies change nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import ParameterError
from pcircuits.learning.prune_grow import prune_units, prune_weights
from pcircuits.learning.units import reindex, unit_groups
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.families.hidden_chow_liu import hidden_chow_liu
from tests.support.circuits import SEEDS, circuits, parameters_of
from tests.support.evidence import random_values


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _log_likelihood(weighted: WeightedCircuit, values: Tensor) -> Tensor:
    plan = pc.compile_circuit(weighted.circuit)
    return pc.forward(plan, weighted.log_weights, pc.Evidence(values)).detach()


def _weighted(circuit: pc.Circuit, seed: int = 0, spread: float = 1.5) -> WeightedCircuit:
    plan = pc.compile_circuit(circuit)
    drawn = pc.random_parameters(plan, seed=seed, spread=spread, dtype=torch.float64)
    return WeightedCircuit(circuit, drawn)


def _packed() -> pc.Circuit:
    """Dense sums over all-pairs products, with parts of two shared parameters."""
    leaves = [
        pc.Input(i, num_units=3, num_categories=2, parameter=pc.Part("leaves", 3 * i))
        for i in range(4)
    ]
    pairs = [pc.KroneckerProduct(*leaves[:2]), pc.KroneckerProduct(*leaves[2:])]
    sums = [
        pc.Sum(pair, num_units=4, parameter=pc.Part("sums", 36 * i)) for i, pair in enumerate(pairs)
    ]
    top = pc.Sum(pc.KroneckerProduct(*sums), num_units=1, parameter=pc.Part("sums", 72))
    return pc.Circuit(top)


CIRCUITS = {
    "mixture": pc.families.mixture(4, 6, 3),
    "hmm": pc.families.hmm(4, 5, 3),
    "tree": hidden_chow_liu([-1, 0, 0, 1], 4, 3),
    "packed": _packed(),
}


# Pruning units.


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_pruning_loses_no_more_than_its_bound(name: str, fraction: float) -> None:
    weighted = _weighted(CIRCUITS[name])
    values = random_values(weighted.circuit, 40, _generator())
    weights = torch.rand(40, generator=_generator(1)).double()

    pruned = prune_units(weighted, values, fraction=fraction, weights=weights)

    before = _log_likelihood(weighted, values)
    after = _log_likelihood(pruned.weighted, values)
    lost = float(((before - after) * weights).sum() / weights.sum())
    assert pruned.num_removed > 0
    assert 0 < pruned.bound < torch.inf
    assert lost <= pruned.bound + 1e-9
    units = [sum(n.num_units for n in c.nodes) for c in (weighted.circuit, pruned.weighted.circuit)]
    assert units[1] < units[0]
    sizes = [sum(t.numel() for t in w.log_weights.values()) for w in (weighted, pruned.weighted)]
    assert sizes[1] < sizes[0]


@given(st.data(), SEEDS)
@settings(max_examples=25)
def test_any_circuit_is_pruned_within_its_bound(data: st.DataObject, seed: int) -> None:
    circuit = data.draw(circuits())
    drawn = data.draw(parameters_of(circuit, per_example=False, zeros=False, normalized=True))
    weighted = WeightedCircuit(circuit, drawn)
    values = random_values(circuit, 10, _generator(seed))

    pruned = prune_units(weighted, values, fraction=0.4)

    before, after = _log_likelihood(weighted, values), _log_likelihood(pruned.weighted, values)
    assert float((before - after).mean()) <= pruned.bound + 1e-9
    total = pc.forward(
        pc.compile_circuit(pruned.weighted.circuit), pruned.weighted.log_weights, pc.Evidence()
    )
    assert total.item() == pytest.approx(0, abs=1e-9)


def test_units_without_data_go_first_and_cost_nothing() -> None:
    """Two of four components of a mixture explain everything."""
    weighted = _weighted(pc.families.mixture(2, 4, 2))
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]).double().log()
    share = torch.tensor([0.5, 0.0, 0.0, 0.5]).double().log()
    weighted = WeightedCircuit(
        weighted.circuit, {"input_0": table, "input_1": table, "weights": share}
    )

    pruned = prune_units(weighted, torch.tensor([[0, 0], [1, 1]]), fraction=0.5)

    assert pruned.num_removed == 2
    assert pruned.bound == pytest.approx(0, abs=1e-12)
    assert torch.equal(pruned.weighted.log_weights["input_0"], table[[0, 3]])


def test_the_bound_is_the_chance_of_a_path_without_what_was_removed() -> None:
    """In a mixture: minus the mean log of one minus the removed components' responsibility."""
    weighted = _weighted(pc.families.mixture(3, 5, 2))
    values = random_values(weighted.circuit, 20, _generator())
    counts = [
        pc.flows(pc.compile_circuit(weighted.circuit), weighted.log_weights, pc.Evidence(row[None]))
        for row in values
    ]
    use = torch.stack([found["weights"] for found, _ in counts])
    least = use.sum(0).argsort()[:2]

    pruned = prune_units(weighted, values, fraction=0.4)

    expected = -(1 - use[:, least].sum(1)).log().mean()
    assert pruned.bound == pytest.approx(expected.item(), rel=1e-9)


def test_tied_nodes_lose_the_same_units() -> None:
    weighted = _weighted(CIRCUITS["hmm"])

    pruned = prune_units(
        weighted, random_values(weighted.circuit, 30, _generator()), fraction=0.4
    ).weighted

    size = {len(t) for t in (pruned.log_weights["initial"], pruned.log_weights["emission"])}
    assert len(size) == 1
    assert pruned.log_weights["transition"].shape == (min(size), min(size))
    assert min(size) == 3


def test_rows_are_never_left_without_a_weight() -> None:
    """Unit 0 of the first sum leads to unit 2 alone, which data hardly uses."""
    leaf = pc.Input(0, num_units=3, num_categories=3, parameter="leaf")
    middle = pc.Sum(leaf, num_units=2, parameter="middle")
    circuit = pc.Circuit(pc.Sum(middle, num_units=1, parameter="top"))
    weighted = WeightedCircuit(
        circuit,
        {
            "leaf": torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]).log(),
            "middle": torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]).log(),
            "top": torch.tensor([0.5, 0.5]).log(),
        },
    )

    one, three = (
        prune_units(weighted, torch.tensor([[0], [0], [1]]), fraction=f) for f in (0.2, 0.7)
    )

    assert one.num_removed == 0
    assert one.bound == 0
    for pruned in (one, three):
        log_weights = pruned.weighted.log_weights
        assert all(not bool(torch.isnan(log).any()) for log in log_weights.values())
        assert bool(torch.isfinite(log_weights["middle"].amax(-1)).all())


# Pruning weights.


@pytest.mark.parametrize("name", CIRCUITS)
def test_weights_are_pruned_within_the_bound(name: str) -> None:
    weighted = _weighted(CIRCUITS[name])
    values = random_values(weighted.circuit, 40, _generator())

    pruned = prune_weights(weighted, values, fraction=0.5)

    before, after = _log_likelihood(weighted, values), _log_likelihood(pruned.weighted, values)
    lost = float((before - after).mean())
    assert lost <= pruned.bound + 1e-9
    zeros = {n: int((t == -torch.inf).sum()) for n, t in pruned.weighted.log_weights.items()}
    assert sum(zeros.values()) == pruned.num_removed > 0
    assert not any(zeros[n] for n in zeros if n.startswith(("input", "emission", "leaves")))
    assert bool(torch.isfinite(after).all())


# Growing.


def test_noisy_copies_let_em_climb_higher() -> None:
    values = random_values(CIRCUITS["mixture"], 60, _generator())
    small = pc.CircuitModel(pc.families.mixture(4, 2, 3)).double()
    pc.fit_em(small, values, epochs=60, progress=False)
    weighted = WeightedCircuit(
        small.circuit, {n: p.detach() for n, p in small.log_parameters().items()}
    )

    grown = pc.operators.grow(weighted, noise=0.3, seed=1)
    large = pc.CircuitModel(grown.circuit).double()
    large.set_log_parameters(grown.log_weights)
    start = large.log_likelihood(values).mean()
    pc.fit_em(large, values, epochs=60, progress=False)

    assert abs(float((start - small.log_likelihood(values).mean()).detach())) < 0.1
    assert large.log_likelihood(values).mean() > small.log_likelihood(values).mean() + 0.05


def test_units_may_be_put_in_any_order() -> None:
    weighted = _weighted(CIRCUITS["packed"])
    groups = unit_groups(weighted.circuit)
    order = {
        g: torch.randperm(groups.sizes[g], generator=_generator()).numpy() for g in groups.free
    }
    values = random_values(weighted.circuit, 20, _generator())

    shuffled = reindex(weighted, groups, order)

    assert len(groups.free) == 6
    assert not torch.equal(shuffled.log_weights["sums"], weighted.log_weights["sums"])
    torch.testing.assert_close(_log_likelihood(shuffled, values), _log_likelihood(weighted, values))


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    weighted = _weighted(CIRCUITS["mixture"])
    values = random_values(weighted.circuit, 3, _generator())

    for prune in (prune_units, prune_weights):
        with pytest.raises(ValueError, match="fraction"):
            prune(weighted, values, fraction=fraction)


def test_weights_that_are_not_normalised_are_refused() -> None:
    weighted = _weighted(CIRCUITS["mixture"])
    raw = WeightedCircuit(
        weighted.circuit, {name: log + 1 for name, log in weighted.log_weights.items()}
    )

    values = random_values(weighted.circuit, 3, _generator())
    for prune in (prune_units, prune_weights):
        with pytest.raises(ParameterError, match="expected normalised"):
            prune(raw, values, fraction=0.1)
