"""Learning: counts are exact, EM climbs, both learners reach what can be computed by hand."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.learning import em_fit
from tests.support.circuits import SEEDS, circuits, parameters_of
from tests.support.evidence import Case, evidence_of, random_values


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _data(num_rows: int = 200) -> Tensor:
    """Rows of a known chain with strong dependencies, (N, 6) of three categories."""
    teacher = pc.CircuitModel(pc.families.hmm(6, num_states=2, num_categories=3))
    teacher.set_probabilities(
        {
            "initial": torch.tensor([0.5, 0.5]),
            "transition": torch.tensor([[0.95, 0.05], [0.1, 0.9]]),
            "emission": torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]]),
        }
    )
    return teacher.sample(num_rows, generator=_generator(1))


# Expected counts.


@given(st.data())
def test_flows_are_the_slow_oracles_gradients(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    parameters = data.draw(parameters_of(circuit, per_example=False, zeros=False))
    evidence = data.draw(evidence_of(circuit, batch_size=2, zeros=False))
    plan = pc.compile_circuit(circuit)
    case = Case(circuit, parameters, evidence)
    leaves = {name: t.clone().requires_grad_() for name, t in parameters.items()}
    value = pc.forward(plan, leaves, evidence, impl="reference")
    possible = value.isfinite().nonzero()[:, 0].tolist()
    if len(possible) < len(value):
        with pytest.raises(EvidenceError, match="probability zero"):
            pc.flows(plan, parameters, evidence)
        return
    weights = torch.rand(len(value), generator=_generator(), dtype=torch.float64)

    counts, log_values = pc.flows(plan, case.parameters, case.evidence, weights=weights)

    expected = torch.autograd.grad((weights * value).sum(), list(leaves.values()))
    torch.testing.assert_close(log_values, value.detach())
    for name, gradient in zip(leaves, expected, strict=True):
        torch.testing.assert_close(counts[name], gradient, rtol=1e-9, atol=1e-10)


def test_counts_of_a_chain_add_up_to_its_steps() -> None:
    model = pc.CircuitModel(pc.families.hmm(6, num_states=2, num_categories=3)).double()

    counts, _ = pc.flows(model.plan, model.log_parameters(), pc.Evidence(_data(50)))

    totals = {name: float(count.sum()) for name, count in counts.items()}
    assert totals == pytest.approx({"initial": 50, "transition": 250, "emission": 300})
    emitted = counts["emission"].sum(0)
    torch.testing.assert_close(emitted, torch.bincount(_data(50).flatten()).double())


# EM.


@pytest.mark.filterwarnings("ignore:.*exactly zero")
@given(st.data(), SEEDS)
@settings(max_examples=15)
def test_full_em_never_lowers_the_likelihood(data: st.DataObject, seed: int) -> None:
    """Of any circuit, tied or not, with missing values."""
    circuit = data.draw(circuits())
    model = pc.CircuitModel(circuit, seed=1).double()
    values = random_values(circuit, 20, _generator(seed))
    observed = torch.rand(values.shape, generator=_generator(seed + 1)) < 0.7

    history = pc.fit_em(model, values, observed=observed, epochs=5, pseudocount=0.0, progress=False)

    train = [record.train for record in history]
    assert len(train) == 5
    assert all(after >= before - 1e-10 for before, after in itertools.pairwise(train))
    assert model.log_likelihood(values, observed).mean().item() >= train[-1] - 1e-10


def test_em_of_independent_variables_counts_frequencies() -> None:
    values = _data()
    model = pc.CircuitModel(pc.families.factorized(6, 3)).double()

    pc.fit_em(model, values, epochs=1, pseudocount=0.0, progress=False)

    for i in range(6):
        frequencies = torch.bincount(values[:, i], minlength=3).double() / len(values)
        torch.testing.assert_close(model.probabilities()[f"input_{i}"][0], frequencies)


def test_a_pseudocount_is_spread_over_each_row() -> None:
    values = torch.tensor([[0], [0], [1]])
    model = pc.CircuitModel(pc.families.factorized(1, 4)).double()

    pc.fit_em(model, values, epochs=1, pseudocount=2.0, progress=False)

    expected = torch.tensor([2.5, 1.5, 0.5, 0.5]).double() / 5
    torch.testing.assert_close(model.probabilities()["input_0"][0], expected)


def test_em_finds_the_teacher_of_a_chain() -> None:
    values, held_out = _data(400), _data(800)[400:]
    model = pc.CircuitModel(pc.families.hmm(6, num_states=2, num_categories=3), seed=0)
    independent = pc.CircuitModel(pc.families.factorized(6, 3))
    pc.fit_em(independent, values, epochs=1, progress=False)

    pc.fit_em(model, values, epochs=30, progress=False)

    assert model.log_likelihood(held_out).mean() > independent.log_likelihood(held_out).mean() + 1
    emission = model.probabilities()["emission"]
    expected = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.2, 0.8]])
    order = emission[:, 0].argsort(descending=True)
    torch.testing.assert_close(emission[order], expected, rtol=0, atol=0.06)


def test_the_chunk_size_changes_nothing() -> None:
    values = _data(50)
    models = [pc.CircuitModel(pc.families.hmm(6, 2, 3)).double() for _ in range(2)]

    for model, chunk_size in zip(models, (7, 512), strict=True):
        pc.fit_em(model, values, epochs=3, chunk_size=chunk_size, progress=False)

    for name, tensor in models[0].probabilities().items():
        torch.testing.assert_close(tensor, models[1].probabilities()[name], rtol=1e-9, atol=1e-12)


def test_mini_batches_of_all_rows_take_full_steps_at_first() -> None:
    values = _data(50)
    models = [pc.CircuitModel(pc.families.hmm(6, 2, 3)).double() for _ in range(2)]

    for model, batch_size in zip(models, (50, None), strict=True):
        pc.fit_em(model, values, epochs=1, batch_size=batch_size, progress=False)

    for name, tensor in models[0].probabilities().items():
        torch.testing.assert_close(tensor, models[1].probabilities()[name], rtol=1e-9, atol=1e-12)


def test_mini_batch_em_comes_near_full_em() -> None:
    values = _data(400)
    full, mini = (pc.CircuitModel(pc.families.hmm(6, 2, 3), seed=0) for _ in range(2))

    pc.fit_em(full, values, epochs=30, progress=False)
    history = pc.fit_em(mini, values, epochs=20, batch_size=40, progress=False)

    assert [record.step for record in history] == [10 * (i + 1) for i in range(20)]
    gap = full.log_likelihood(values).mean() - mini.log_likelihood(values).mean()
    assert gap < 0.05


def test_em_learns_from_half_of_the_values() -> None:
    values = _data(600)
    observed = torch.rand(values.shape, generator=_generator()) < 0.5
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3), seed=4)
    independent = pc.CircuitModel(pc.families.factorized(6, 3))
    pc.fit_em(independent, values, epochs=1, progress=False)
    unreadable = torch.where(observed, values, -1)

    pc.fit_em(model, unreadable, observed=observed, epochs=40, progress=False)

    assert model.log_likelihood(values).mean() > independent.log_likelihood(values).mean() + 0.5


def test_em_stops_when_it_no_longer_rises() -> None:
    model = pc.CircuitModel(pc.families.factorized(6, 3))

    history = pc.fit_em(model, _data(), epochs=50, tolerance=1e-4, progress=False)

    assert history.stopped == "converged"
    assert len(history) < 5


def test_a_held_out_set_is_measured_after_each_epoch() -> None:
    values, held_out = _data(100), _data(150)[100:]
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3))

    history = pc.fit_em(model, values, epochs=2, valid=held_out, progress=False)

    expected = model.log_likelihood(held_out).mean().item()
    assert history.records[-1].valid == pytest.approx(expected, rel=1e-5)
    assert [record.epoch for record in history] == [1, 2]
    assert history.stopped == "finished"


def test_an_interruption_ends_after_the_update_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _data(60)
    expected = pc.CircuitModel(pc.families.hmm(6, 2, 3))
    pc.fit_em(expected, values, epochs=3, progress=False)
    model, calls = pc.CircuitModel(pc.families.hmm(6, 2, 3)), []
    flows, handler = em_fit.flows, signal.getsignal(signal.SIGINT)

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return flows(*args, **kwargs)

    monkeypatch.setattr(em_fit, "flows", interrupted)
    history = pc.fit_em(model, values, epochs=9, progress=False)

    assert history.stopped == "interrupted"
    assert len(history) == 3
    assert signal.getsignal(signal.SIGINT) is handler
    for name, tensor in model.probabilities().items():
        assert torch.equal(tensor, expected.probabilities()[name])


def test_gradient_ascent_may_be_interrupted_too() -> None:
    class Interrupted(torch.optim.SGD):
        steps = 0

        def step(self, closure: object = None) -> None:
            self.steps += 1
            if self.steps == 3:
                signal.raise_signal(signal.SIGINT)
            super().step(closure)

    models = [pc.CircuitModel(pc.families.hmm(6, 2, 3)) for _ in range(2)]
    made: list[Interrupted] = []

    def make(parameters: object) -> Interrupted:
        made.append(Interrupted(parameters, lr=0.1))
        return made[-1]

    history = pc.fit_gradient(models[0], _data(40), batch_size=20, optimizer=make, progress=False)

    assert history.stopped == "interrupted"
    assert made[0].steps == 3
    assert [record.step for record in history] == [2]


def test_rows_of_probability_zero_are_refused_and_change_nothing() -> None:
    model = pc.CircuitModel(pc.families.factorized(1, 2))
    model.set_probabilities({"input_0": torch.tensor([[1.0, 0.0]])})

    with pytest.raises(EvidenceError, match="probability zero"):
        pc.fit_em(model, torch.tensor([[0], [1]]), progress=False)

    assert model.probabilities()["input_0"].tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"epochs": 0}, "epochs must be >= 1; found 0"),
        ({"batch_size": 0}, "batch_size must be >= 1; found 0"),
        ({"decay": 0.5}, "found 0.5"),
        ({"decay": 1.1}, "found 1.1"),
        ({"pseudocount": -1.0}, "-1.0"),
        ({"pseudocount": math.nan}, "nan"),
        ({"chunk_size": 0}, "chunk_size.*0"),
    ],
)
def test_settings_of_em_out_of_range_are_refused(setting: dict[str, float], message: str) -> None:
    model = pc.CircuitModel(pc.families.factorized(6, 3))

    with pytest.raises(ValueError, match=message):
        pc.fit_em(model, _data(5), progress=False, **setting)


@pytest.mark.parametrize("fit", [pc.fit_em, pc.fit_gradient])
def test_no_rows_are_refused(fit: object) -> None:
    model = pc.CircuitModel(pc.families.factorized(6, 3))

    with pytest.raises(ValueError, match=r"no example|no row"):
        fit(model, _data(5)[:0], progress=False)


# EM step by step.


def test_steps_of_em_average_expected_counts() -> None:
    """Two batches by hand: step sizes 1 and 2^-decay, counts on the scale of all rows."""
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3)).double()
    settings_, state = pc.EMSettings(decay=0.6, pseudocount=0.5), pc.EMState()
    parameters, expected = model.log_parameters(), None
    for step, batch in enumerate((_data(10), _data(30)[10:])):
        counts, _ = pc.flows(model.plan, parameters, pc.Evidence(batch))
        scaled = {name: count * 30 / len(batch) for name, count in counts.items()}
        rate = (step + 1) ** -0.6
        expected = scaled if expected is None else {
            name: (1 - rate) * expected[name] + rate * count for name, count in scaled.items()
        }  # fmt: skip

        parameters, state, _ = pc.em_step(
            model.plan, parameters, state, pc.Evidence(batch), settings_, num_rows=30
        )

        for name, count in expected.items():
            smoothed = count + 0.5 / count.shape[-1]
            wanted = smoothed / smoothed.sum(-1, keepdim=True)
            torch.testing.assert_close(parameters[name].exp(), wanted)
    assert state.step == 2


def test_warming_up_averages_batches_before_it_moves() -> None:
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3)).double()
    values, state = _data(30), pc.EMState()
    start = parameters = {n: t.detach() for n, t in model.log_parameters().items()}
    settings_ = pc.EMSettings(warmup=3, pseudocount=0.0)
    for batch in values.split(10):
        assert all(torch.equal(parameters[name], tensor) for name, tensor in start.items())
        parameters, state, _ = pc.em_step(
            model.plan, parameters, state, pc.Evidence(batch), settings_, num_rows=30
        )

    # Three equal batches, averaged plainly at the starting point, are one full step.
    pc.fit_em(model, values, epochs=1, pseudocount=0.0, progress=False)
    for name, tensor in model.probabilities().items():
        torch.testing.assert_close(parameters[name].exp(), tensor)


# Gradient ascent.


def test_gradient_ascent_reaches_the_frequencies() -> None:
    values = _data()
    model = pc.CircuitModel(pc.families.factorized(6, 3))
    best = pc.CircuitModel(pc.families.factorized(6, 3))
    pc.fit_em(best, values, epochs=1, pseudocount=0.0, progress=False)

    history = pc.fit_gradient(model, values, epochs=60, batch_size=200, progress=False)

    gap = best.log_likelihood(values).mean() - model.log_likelihood(values).mean()
    assert 0 <= gap < 0.02
    assert history.records[-1].train > history.records[0].train


def test_gradient_ascent_takes_any_optimiser() -> None:
    values = _data(50)
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3))
    before = model.log_likelihood(values).mean().item()

    history = pc.fit_gradient(
        model,
        values,
        epochs=5,
        batch_size=50,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        progress=False,
    )

    assert history.records[0].train == pytest.approx(before, rel=1e-5)
    assert model.log_likelihood(values).mean().item() > before + 0.05


def test_gradient_ascent_refuses_rows_of_probability_zero() -> None:
    model = pc.CircuitModel(pc.families.factorized(1, 2))
    model.set_probabilities({"input_0": torch.tensor([[1.0, 0.0]])})

    with pytest.raises(ValueError, match="-inf"):
        pc.fit_gradient(model, torch.tensor([[0], [1]]), progress=False)


# Both.


@pytest.mark.parametrize("fit", [pc.fit_em, pc.fit_gradient])
def test_the_seed_alone_decides_the_result(fit: object) -> None:
    values = _data(60)
    results = []
    for noise, seed in [(0, 1), (1, 1), (0, 2)]:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        model = pc.CircuitModel(pc.families.hmm(6, 2, 3))
        fit(model, values, epochs=2, batch_size=16, seed=seed, progress=False)
        assert torch.equal(torch.get_rng_state(), before)
        results.append(model.probabilities()["transition"])

    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("fit", [pc.fit_em, pc.fit_gradient])
def test_a_progress_bar_is_shown_unless_refused(
    fit: object, capsys: pytest.CaptureFixture[str]
) -> None:
    values = _data(20)
    model = pc.CircuitModel(pc.families.hmm(6, 2, 3))

    fit(model, values, epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")
    fit(model, values, epochs=1)
    shown = "".join(capsys.readouterr())
    assert "nats" in shown


@pytest.mark.parametrize("fit", [pc.fit_em, pc.fit_gradient])
def test_a_circuit_without_parameters_has_nothing_to_learn(fit: Callable[..., object]) -> None:
    model = pc.CircuitModel(pc.families.regular_expression("ab", 2, ["a", "b"]))
    with pytest.raises(ParameterError, match="has no parameters to learn"):
        fit(model, torch.tensor([[0, 1]]), progress=False)
