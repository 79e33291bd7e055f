"""EM on weighted rows and evidence of every kind, exact zeros, and its three algorithms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.learning.flows import log_prior, maximise
from pcircuits.learning.objective import constant_log_total, mean_log_likelihood
from pcircuits.structure.nodes import Part
from tests.support.circuits import SEEDS, circuits
from tests.support.evidence import random_values


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _hmm(length: int = 3, seed: int = 0) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(length, 2, 2), seed=seed).double()


def _values(num_rows: int, length: int = 3) -> Tensor:
    first = torch.randint(2, (num_rows, 1), generator=_generator())
    flips = (torch.rand((num_rows, length), generator=_generator(1)) < 0.3).long()
    return (first + flips.cumsum(1)) % 2


def _mixed_evidence(num_rows: int) -> pc.Evidence:
    """Observed, missing and soft values in every row, and potentials of one hidden state."""
    values = _values(num_rows)
    observed = torch.rand(values.shape, generator=_generator(2)) < 0.5
    potentials = torch.randn((*values.shape, 2), generator=_generator(3), dtype=torch.float64)
    potentials[torch.rand(values.shape, generator=_generator(4)) < 0.5] = 0.0
    latent = {"state_1": torch.randn((num_rows, 2), generator=_generator(5), dtype=torch.float64)}
    return pc.Evidence(values, observed, potentials, latent)


def _same(first: pc.CircuitModel, second: pc.CircuitModel, tolerance: float = 1e-12) -> None:
    for name, tensor in first.probabilities().items():
        torch.testing.assert_close(
            tensor, second.probabilities()[name], rtol=tolerance, atol=tolerance
        )


# Weighted rows.


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": None, "algorithm": "anemone"}, {"chunk_size": 3}]
)
def test_a_weight_is_a_repetition_in_em(options: dict[str, object]) -> None:
    values, times = _values(8), torch.tensor([1, 3, 0, 2, 1, 1, 4, 2])
    weighted, repeated = _hmm(), _hmm()

    one = pc.fit_em(weighted, values, weights=times, epochs=4, progress=False, **options)
    two = pc.fit_em(
        repeated, values.repeat_interleave(times, 0), epochs=4, progress=False, **options
    )

    _same(weighted, repeated)
    assert [r.train for r in one] == pytest.approx([r.train for r in two], rel=1e-12)


def test_a_weight_is_a_repetition_in_gradient_ascent() -> None:
    values, times = _values(8), torch.tensor([1, 3, 0, 2, 1, 1, 4, 2])
    weighted, repeated = _hmm(), _hmm()
    options = {
        "epochs": 5,
        "batch_size": None,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        "progress": False,
    }

    pc.fit_gradient(weighted, values, weights=times.double(), **options)
    pc.fit_gradient(repeated, values.repeat_interleave(times, 0), **options)

    _same(weighted, repeated)


def test_one_step_takes_weights_too() -> None:
    values, times = _values(6), torch.tensor([2.0, 1.0, 3.0, 1.0, 1.0, 2.0]).double()
    model, settings_ = _hmm(), pc.EMSettings("plain")
    plan, start = model.plan, model.log_parameters()

    weighted, _, value = pc.em_step(
        plan, start, pc.EMState(), pc.Evidence(values), settings_, num_rows=10, weights=times
    )
    repeated, _, _ = pc.em_step(
        plan,
        start,
        pc.EMState(),
        pc.Evidence(values.repeat_interleave(times.long(), 0)),
        settings_,
        num_rows=10,
    )

    assert value.shape == (6,)
    for name, tensor in weighted.items():
        torch.testing.assert_close(tensor, repeated[name], rtol=1e-12, atol=1e-12)


def test_impossible_rows_of_weight_zero_do_not_matter() -> None:
    model = pc.CircuitModel(pc.families.factorized(1, 2))
    model.set_probabilities({"input_0": torch.tensor([[1.0, 0.0]])})
    rows, weights = torch.tensor([[0], [1]]), torch.tensor([2.0, 0.0])

    counts, value = pc.flows(model.plan, model.log_parameters(), pc.Evidence(rows), weights=weights)
    history = pc.fit_em(model, rows, weights=weights, epochs=1, progress=False)

    assert counts["input_0"].tolist() == [[2.0, 0.0]]
    assert value.tolist() == [0.0, -math.inf]
    assert history.records[0].train == 0.0
    assert mean_log_likelihood(model, rows, weights=weights) == 0.0
    assert mean_log_likelihood(model, rows) == -math.inf


@pytest.mark.parametrize(
    "weights, message",
    [
        (torch.ones(3), r"shape \(5,\); found \(3,\)"),
        ([1.0] * 5, "found list"),
        (torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]), r"weights\[2\] is -1.0"),
        (torch.tensor([1.0, math.nan, 1.0, 1.0, 1.0]), r"weights\[1\] is nan"),
        (torch.tensor([1.0, math.inf, 1.0, 1.0, 1.0]), r"weights\[1\] is inf"),
        (torch.zeros(5), "all weights are zero"),
    ],
)
def test_weights_that_are_none_are_refused(weights: Tensor, message: str) -> None:
    for fit in (pc.fit_em, pc.fit_gradient):
        with pytest.raises(EvidenceError, match=message):
            fit(_hmm(), _values(5), weights=weights, progress=False)


# Evidence of every kind, against enumeration.


def _expected_counts(model: pc.CircuitModel, evidence: pc.Evidence) -> dict[str, Tensor]:
    """Counts of a chain of three by visiting all 64 pairs of states and values, row by row."""
    p = model.probabilities()
    counts = {name: torch.zeros_like(tensor) for name, tensor in p.items()}
    worlds = list(itertools.product(range(2), repeat=6))
    for row in range(evidence.batch_size):
        found = {}
        for world in worlds:
            z, x = world[:3], world[3:]
            weight = float(p["initial"][z[0]])
            for t in range(3):
                weight *= float(p["emission"][z[t], x[t]])
                weight *= float(p["transition"][z[t - 1], z[t]]) if t else 1.0
                if evidence.observed[row, t]:
                    weight *= float(x[t] == int(evidence.values[row, t]))
                else:
                    weight *= math.exp(float(evidence.log_potentials[row, t, x[t]]))
            weight *= math.exp(float(evidence.latent_log_potentials["state_1"][row, z[1]]))
            found[world] = weight
        total = sum(found.values())
        for world, weight in found.items():
            z, x = world[:3], world[3:]
            counts["initial"][z[0]] += weight / total
            for t in range(3):
                counts["emission"][z[t], x[t]] += weight / total
                if t:
                    counts["transition"][z[t - 1], z[t]] += weight / total
    return counts


def test_one_step_on_mixed_evidence_is_that_of_enumerated_counts() -> None:
    model, evidence = _hmm(), _mixed_evidence(5)
    counts = _expected_counts(model, evidence)
    expected = {n: (c + 0.1 / 2) / (c + 0.1 / 2).sum(-1, keepdim=True) for n, c in counts.items()}

    pc.fit_em(model, evidence, epochs=1, chunk_size=2, progress=False)

    for name, tensor in model.probabilities().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-10, atol=1e-12)


@given(st.data(), SEEDS)
@settings(max_examples=15)
def test_em_never_lowers_likelihood_times_prior(data: st.DataObject, seed: int) -> None:
    """Weighted rows, missing values and soft evidence; the prior is that of the pseudocounts."""
    circuit = data.draw(circuits())
    model = pc.CircuitModel(circuit, seed=1).double()
    values, generator = random_values(circuit, 12, _generator(seed)), _generator(seed + 1)
    observed = torch.rand(values.shape, generator=generator) < 0.6
    shape = (*values.shape, circuit.num_categories)
    potentials = torch.randn(shape, generator=generator, dtype=torch.float64)
    evidence = pc.Evidence(values, observed, potentials)
    weights = torch.rand(12, generator=generator).double() * 3
    found = []

    for _ in range(5):
        total = mean_log_likelihood(model, evidence, weights=weights) * float(weights.sum())
        found.append(total + log_prior(model.plan, model.log_parameters(), 2.0).item())
        pc.fit_em(model, evidence, weights=weights, epochs=1, pseudocount=2.0, progress=False)

    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(found))


def test_observed_beside_evidence_is_refused() -> None:
    values = _values(3)

    with pytest.raises(EvidenceError, match="beside evidence"):
        pc.fit_em(_hmm(), pc.Evidence(values), observed=values > 0, progress=False)


# Zeros.


def test_a_zero_weight_stays_zero_and_gets_no_pseudocount() -> None:
    model = pc.CircuitModel(pc.families.factorized(1, 4)).double()
    model.set_probabilities({"input_0": torch.tensor([[0.5, 0.0, 0.3, 0.2]]).double()})

    pc.fit_em(model, torch.tensor([[0], [0], [2]]), epochs=2, pseudocount=3.0, progress=False)

    expected = torch.tensor([[3.0, 0.0, 2.0, 1.0]]).double() / 6
    torch.testing.assert_close(model.probabilities()["input_0"], expected)


def test_zeros_that_em_makes_are_warned_of() -> None:
    values = torch.tensor([[0], [0], [1]])
    models = [pc.CircuitModel(pc.families.factorized(1, 4)) for _ in range(2)]

    with pytest.warns(UserWarning, match="2 weights have become exactly zero.*'input_0'"):
        pc.fit_em(models[0], values, epochs=1, pseudocount=0.0, progress=False)
    pc.fit_em(models[1], values, epochs=1, pseudocount=1e-6, progress=False)

    assert models[0].probabilities()["input_0"][0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert bool((models[1].probabilities()["input_0"] > 0).all())


def test_a_distribution_without_counts_stays_as_it_was() -> None:
    plan = pc.compile_circuit(pc.families.hmm(2, 2, 3))
    previous = {n: p.double() for n, p in pc.random_parameters(plan, seed=3).items()}
    counts = {name: torch.zeros_like(tensor) for name, tensor in previous.items()}
    counts["emission"][0] = torch.tensor([1.0, 2.0, 1.0])

    found = maximise(plan, counts, 0.0, previous)

    assert torch.equal(found["transition"], previous["transition"])
    assert torch.equal(found["emission"][1], previous["emission"][1])
    torch.testing.assert_close(found["emission"][0].exp(), torch.tensor([0.25, 0.5, 0.25]).double())


# Packed parameters.


def _irregular(*, packed: bool) -> pc.CircuitModel:
    """Two mixtures of unequal size over one variable each, in one vector or in two."""
    leaves = [pc.Input(i, num_units=5, num_categories=3, parameter=f"leaf_{i}") for i in range(2)]
    names = (Part("w", 0), Part("w", 5)) if packed else ("w_0", "w_1")
    first = pc.Sum(leaves[0], num_units=1, parameter=names[0])
    pair = pc.Sum(leaves[1], leaves[1], num_units=1, parameter=names[1])
    return pc.CircuitModel(pc.Circuit(pc.Product(first, pair))).double()


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"algorithm": "anemone"}])
def test_packed_parameters_are_learned_as_separate_ones(options: dict[str, object]) -> None:
    packed, separate = _irregular(packed=True), _irregular(packed=False)
    start = separate.log_parameters()
    joined = torch.cat([start.pop("w_0"), start.pop("w_1")])
    packed.set_log_parameters({**start, "w": joined})
    values = torch.randint(3, (20, 2), generator=_generator())

    for model in (packed, separate):
        pc.fit_em(model, values, epochs=3, pseudocount=0.7, progress=False, **options)

    found, expected = packed.probabilities(), separate.probabilities()
    torch.testing.assert_close(found["w"], torch.cat([expected["w_0"], expected["w_1"]]))
    torch.testing.assert_close(found["leaf_0"], expected["leaf_0"])
    prior = log_prior(packed.plan, packed.log_parameters(), 0.7).item()
    assert prior == pytest.approx(log_prior(separate.plan, separate.log_parameters(), 0.7).item())


def _gated(*supports: tuple[int, ...]) -> pc.CircuitModel:
    gate = pc.Input(0, num_units=len(supports), num_categories=3, supports=supports)
    leaf = pc.Input(1, num_units=len(supports), num_categories=2)
    return pc.CircuitModel(pc.Circuit(pc.Sum(pc.Product(gate, leaf), num_units=1))).double()


def test_circuits_whose_total_depends_on_the_weights_are_refused() -> None:
    with pytest.raises(ParameterError, match="fit_gradient"):
        pc.fit_em(_gated((0,), (1, 2)), torch.tensor([[0, 0]]), progress=False)


@pytest.mark.parametrize("supports", [((0,), (2,)), ((0, 1), (1, 2))])
def test_em_learns_beside_indicators_of_one_size(supports: tuple[tuple[int, ...], ...]) -> None:
    """The circuit's total, 1 or 2, is divided out and the likelihood rises."""
    model, values = _gated(*supports), torch.tensor([[0, 0], [2, 1], [2, 1], [0, 1]])
    start = mean_log_likelihood(model, values)
    worlds = torch.tensor(list(itertools.product(range(3), range(2))))

    history = pc.fit_em(model, values, epochs=4, pseudocount=0.1, progress=False)

    total = model.log_likelihood(worlds).logsumexp(0).item()
    assert total == pytest.approx(math.log(len(supports[0])))
    expected = model.log_likelihood(values).mean().item() - total
    assert mean_log_likelihood(model, values) == pytest.approx(expected)
    assert history.records[0].train == pytest.approx(start)
    assert expected > start + 0.1


def test_the_total_of_weightless_circuits_is_known() -> None:
    pair = pc.Input(0, num_units=2, num_categories=3, supports=((0,), (1, 2)))
    other = pc.Input(1, num_units=2, num_categories=3, supports=((0, 1, 2), (1, 2)))
    plain = pc.Circuit(
        pc.Sum(
            pc.Sum(pc.KroneckerProduct(pair, other), num_units=2, weighted=False),
            pc.Sum(pc.Product(pair, other), num_units=2, mixing=True, weighted=False),
            num_units=1,
            weighted=False,
        )
    )

    # Kronecker: (1 + 2) (3 + 2) in each of two units; product: 1 * 3 and 2 * 2.
    assert constant_log_total(plain) == pytest.approx(math.log(2 * 15 + 3 + 4))
    assert constant_log_total(pc.families.hmm(3, 2, 2)) == 0


# Anemone.


def test_anemone_with_whole_steps_is_plain_em() -> None:
    values = _values(20)
    plain, anemone = _hmm(), _hmm()

    pc.fit_em(plain, values, epochs=4, progress=False)
    pc.fit_em(
        anemone,
        values,
        epochs=4,
        algorithm="anemone",
        step_size=1.0,
        momentum=0.0,
        progress=False,
    )

    _same(plain, anemone)


def test_anemone_by_hand() -> None:
    """Two batches; the model's own counts are those of all worlds by their probability."""
    model, batches = _hmm(), (_values(4), _values(10)[4:])
    settings_ = pc.EMSettings("anemone", step_size=0.3, momentum=0.8, pseudocount=0.5)
    parameters, state = model.log_parameters(), pc.EMState()
    worlds = torch.tensor(list(itertools.product(range(2), repeat=3)))
    average = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step, batch in enumerate(batches, start=1):
        old, every = parameters, pc.Evidence(worlds)
        counts, _ = pc.flows(model.plan, old, pc.Evidence(batch))
        weights = pc.forward(model.plan, old, every).exp().detach()
        own, _ = pc.flows(model.plan, old, every, weights=weights)

        parameters, state, _ = pc.em_step(
            model.plan, old, state, pc.Evidence(batch), settings_, num_rows=10
        )

        for name in average:
            average[name] = 0.8 * average[name] + 0.2 * counts[name] * 10 / len(batch)
            target = 0.3 * average[name] / (1 - 0.8**step) + 0.7 * 10 * own[name] + 0.5 / 2
            expected = target / target.sum(-1, keepdim=True)
            torch.testing.assert_close(parameters[name].exp(), expected)


@given(st.data(), SEEDS)
@settings(max_examples=15)
@pytest.mark.filterwarnings("ignore:.*exactly zero")
def test_anemone_never_lowers_the_likelihood_of_all_rows(data: st.DataObject, seed: int) -> None:
    circuit = data.draw(circuits())
    model = pc.CircuitModel(circuit, seed=1).double()
    values = random_values(circuit, 15, _generator(seed))
    observed = torch.rand(values.shape, generator=_generator(seed + 1)) < 0.7

    history = pc.fit_em(
        model,
        values,
        observed=observed,
        epochs=5,
        algorithm="anemone",
        momentum=0.0,
        pseudocount=0.0,
        progress=False,
    )

    train = [record.train for record in history]
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(train))


def test_anemone_by_mini_batches_comes_near_full_em() -> None:
    teacher = _hmm(6)
    teacher.set_probabilities(
        {
            "initial": torch.tensor([0.5, 0.5]),
            "transition": torch.tensor([[0.95, 0.05], [0.1, 0.9]]),
            "emission": torch.tensor([[0.9, 0.1], [0.2, 0.8]]),
        }
    )
    values = teacher.sample(400, generator=_generator())
    full, mini = _hmm(6), _hmm(6)
    for model in (full, mini):  # off the saddle on which all states are alike
        model.set_probabilities({"emission": torch.tensor([[0.6, 0.4], [0.4, 0.6]])})
    start = full.log_likelihood(values).mean()

    pc.fit_em(full, values, epochs=60, progress=False)
    pc.fit_em(mini, values, epochs=30, batch_size=40, algorithm="anemone", progress=False)

    gap = full.log_likelihood(values).mean() - mini.log_likelihood(values).mean()
    assert full.log_likelihood(values).mean() > start + 0.5
    assert gap < 0.02


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"algorithm": "adam"}, "found 'adam'"),
        ({"step_size": 0.0}, "found 0.0"),
        ({"step_size": 1.5}, "found 1.5"),
        ({"momentum": 1.0}, "1.0"),
        ({"tolerance": -1.0}, "tolerance.*-1.0"),
        ({"patience": 2}, "patience needs valid"),
        ({"patience": 0}, "patience must be >= 1; found 0"),
        ({"resume": True}, "resume needs checkpoint"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pc.fit_em(_hmm(), _values(5), progress=False, **setting)
