"""Gradient ascent: its objective and gradients against enumeration, and its options."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from pcircuits.learning.flows import log_prior
from pcircuits.learning.objective import log_objective, mean_log_likelihood


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _hmm(length: int = 3) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(length, 2, 2)).double()


def _values(num_rows: int, length: int = 3) -> Tensor:
    return torch.randint(2, (num_rows, length), generator=_generator())


def _sgd(rate: float = 0.5) -> object:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


# Conditional likelihood.


def _conditionals(model: pc.CircuitModel, values: Tensor, targets: tuple[int, ...]) -> list[float]:
    """log p(targets | others) of every row from the joint probability of all worlds."""
    worlds = list(itertools.product(range(2), repeat=values.shape[1]))
    joint = dict(
        zip(worlds, model.log_likelihood(torch.tensor(worlds)).exp().tolist(), strict=True)
    )
    found = []
    for row in map(tuple, values.tolist()):
        others = [i for i in range(len(row)) if i not in targets]
        given = sum(p for world, p in joint.items() if all(world[i] == row[i] for i in others))
        found.append(math.log(joint[row] / given))
    return found


def test_the_conditional_likelihood_is_that_of_enumeration() -> None:
    model, values = _hmm(), _values(6)

    found = log_objective(model.plan, model.log_parameters(), pc.Evidence(values), (0, 2))

    assert found.tolist() == pytest.approx(_conditionals(model, values, (0, 2)), rel=1e-10)


def test_soft_targets_do_not_enter_the_condition() -> None:
    """log of sum_t p(t | x) phi(t), by the two values of t."""
    model, potentials = _hmm(), torch.zeros(1, 3, 2, dtype=torch.float64)
    potentials[0, 2] = torch.tensor([0.3, -1.0])
    values, observed = torch.tensor([[1, 0, 0]]), torch.tensor([[True, True, False]])
    evidence = pc.Evidence(values, observed, potentials)

    found = log_objective(model.plan, model.log_parameters(), evidence, (2,))

    both = torch.tensor([[1, 0, 0], [1, 0, 1]])
    given = torch.tensor(_conditionals(model, both, (2,)), dtype=torch.float64)
    expected = (given + potentials[0, 2]).logsumexp(0)
    torch.testing.assert_close(found[0], expected)


def test_gradients_are_those_of_finite_differences() -> None:
    model, values = _hmm(), _values(4)
    names = tuple(model.plan.parameter_shapes)
    raw = [torch.randn(s, dtype=torch.float64) for s in model.plan.parameter_shapes.values()]

    def objective(*tensors: Tensor) -> Tensor:
        logs = {n: t.log_softmax(-1) for n, t in zip(names, tensors, strict=True)}
        conditional = log_objective(model.plan, logs, pc.Evidence(values), (1,)).sum()
        return conditional + log_prior(model.plan, logs, 0.7)

    assert torch.autograd.gradcheck(objective, [t.requires_grad_() for t in raw])


def test_ascent_of_the_conditional_likelihood_predicts_better() -> None:
    """A label beside features that a naive Bayes model takes for independent: it counts twice."""
    label = torch.randint(2, (300, 1), generator=_generator())
    noisy = (label + (torch.rand((300, 1), generator=_generator(1)) < 0.3).long()) % 2
    other = (label + (torch.rand((300, 1), generator=_generator(2)) < 0.25).long()) % 2
    values = torch.cat([label, noisy, noisy, noisy, other], 1)
    leaves = [pc.Input(i, num_units=2, num_categories=2) for i in range(1, 5)]
    indicator = pc.Input(0, num_units=2, num_categories=2, supports=((0,), (1,)))
    circuit = pc.Circuit(pc.Sum(pc.Product(indicator, *leaves), num_units=1))
    joint, conditional = pc.CircuitModel(circuit), pc.CircuitModel(circuit)

    joint_history = pc.fit_gradient(joint, values, epochs=60, batch_size=100, progress=False)
    history = pc.fit_gradient(
        conditional, values, targets=(0,), epochs=60, batch_size=100, progress=False
    )

    own = mean_log_likelihood(conditional, values, targets=(0,))
    assert own > mean_log_likelihood(joint, values, targets=(0,)) + 0.05
    assert history.records[-1].train == pytest.approx(own, abs=0.02)
    assert joint_history.records[-1].train < own  # joint log-likelihoods are lower


@pytest.mark.parametrize("targets", [(3,), (-1,), (0, 0), ("a",)])
def test_targets_that_are_none_are_refused(targets: tuple[int, ...]) -> None:
    with pytest.raises(EvidenceError, match=r"different variables of 0 \.\. 2"):
        pc.fit_gradient(_hmm(), _values(4), targets=targets, progress=False)


def test_targets_with_listed_categories_are_refused() -> None:
    potentials, categories = torch.zeros(2, 3, 1), torch.zeros(2, 3, 1, dtype=torch.long)
    evidence = pc.Evidence(log_potentials=potentials, categories=categories)

    with pytest.raises(EvidenceError, match="`categories`"):
        pc.fit_gradient(_hmm(), evidence, targets=(0,), progress=False)


# Options.


def test_the_prior_is_that_of_em() -> None:
    """Where EM with pseudocounts stands still, so does the gradient."""
    model = pc.CircuitModel(pc.families.factorized(3, 2)).double()
    values, weights = _values(10), torch.arange(1.0, 11.0).double()
    pc.fit_em(model, values, weights=weights, epochs=1, pseudocount=3.0, progress=False)
    before = model.probabilities()
    options = {"batch_size": None, "optimizer": _sgd(5.0), "epochs": 3, "progress": False}

    pc.fit_gradient(model, values, weights=weights, pseudocount=3.0, **options)
    for name, tensor in model.probabilities().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-10, atol=1e-10)

    pc.fit_gradient(model, values, weights=weights, pseudocount=0.0, **options)
    assert not torch.allclose(model.probabilities()["input_0"], before["input_0"], atol=1e-3)


def test_zero_weights_stay_zero_under_gradients() -> None:
    model = pc.CircuitModel(pc.families.factorized(1, 3))
    model.set_probabilities({"input_0": torch.tensor([[0.5, 0.0, 0.5]])})

    pc.fit_gradient(model, torch.tensor([[0], [0], [2]]), epochs=5, progress=False)

    found = model.probabilities()["input_0"][0].tolist()
    assert found[1] == 0
    assert found[0] > 0.55


def test_circuits_without_some_weights_are_divided_by_their_total() -> None:
    """p(x) is proportional to w_x times the number of units that allow x."""
    leaf = pc.Input(0, num_units=1, num_categories=3)
    gate = pc.Input(1, num_units=1, num_categories=3, supports=((0, 1),))
    model = pc.CircuitModel(pc.Circuit(pc.Product(leaf, gate))).double()
    values = torch.tensor([[0, 0], [1, 1], [1, 0]])
    expected = model.probabilities()["input_0"][0, [0, 1, 1]].log() - math.log(2)

    assert mean_log_likelihood(model, values) == pytest.approx(expected.mean().item())
    history = pc.fit_gradient(
        model, values, epochs=200, pseudocount=0.0, optimizer=_sgd(2.0), progress=False
    )

    best = (math.log(1 / 3) + 2 * math.log(2 / 3)) / 3 - math.log(2)
    assert history.records[-1].train == pytest.approx(best, abs=0.01)


def test_a_total_that_depends_on_the_weights_is_divided_out() -> None:
    """A mixture of two indicators of unequal size: p(x) = w_k / (w_0 + 2 w_1)."""
    gate = pc.Input(0, num_units=2, num_categories=3, supports=((0,), (1, 2)))
    model = pc.CircuitModel(pc.Circuit(pc.Sum(gate, num_units=1, parameter="w"))).double()
    first, second = model.probabilities()["w"].tolist()
    values = torch.tensor([[0], [1], [2]])

    found = log_objective(model.plan, model.log_parameters(), pc.Evidence(values))
    history = pc.fit_gradient(
        model, values, epochs=200, pseudocount=0.0, optimizer=_sgd(2.0), progress=False
    )

    total = first + 2 * second
    assert found.exp().tolist() == pytest.approx([first / total, second / total, second / total])
    assert history.records[-1].train == pytest.approx(math.log(1 / 3), abs=1e-3)
    assert model.probabilities()["w"].tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_lbfgs_reaches_the_frequencies() -> None:
    values, model = _values(30), pc.CircuitModel(pc.families.factorized(3, 2)).double()

    pc.fit_gradient(
        model,
        values,
        epochs=5,
        batch_size=None,
        pseudocount=0.0,
        optimizer=lambda p: torch.optim.LBFGS(p, max_iter=20, line_search_fn="strong_wolfe"),
        progress=False,
    )

    for i in range(3):
        frequency = values[:, i].double().mean()
        torch.testing.assert_close(
            model.probabilities()[f"input_{i}"][0, 1], frequency, rtol=0, atol=1e-5
        )


def test_soft_evidence_is_learned_from_by_gradients() -> None:
    """One step of plain gradient ascent, against the gradient of the enumerated likelihood."""
    model, reference = _hmm(), _hmm()
    potentials = torch.randn(5, 3, 2, generator=_generator(), dtype=torch.float64)
    evidence = pc.Evidence(log_potentials=potentials)
    worlds = torch.tensor(list(itertools.product(range(2), repeat=3)))
    per_world = potentials[:, torch.arange(3), worlds].sum(-1)  # (5, 8)

    pc.fit_gradient(
        model,
        evidence,
        epochs=1,
        batch_size=None,
        pseudocount=0.0,
        optimizer=_sgd(),
        progress=False,
    )
    loss = -(reference.log_likelihood(worlds) + per_world).logsumexp(1).mean()
    loss.backward()

    for own, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(own.detach(), other.detach() - 0.5 * other.grad)
