"""Queries against enumeration of all worlds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError, ParameterError
from pcircuits.queries.likelihood import require_possible
from tests.support.circuits import (
    SEEDS,
    circuits,
    parameters_of,
    random_log_weights,
)
from tests.support.enumeration import Enumeration, enumerate_worlds, input_values
from tests.support.evidence import (
    Case,
    cases,
    evidence_of,
    map_evidence,
    possible_part,
    random_potentials,
    random_values,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
# A correct sampler fails a chi-square test at this level once in ten thousand tries; the draws
# are seeded, so a test that passes once passes always.
SIGNIFICANCE = 1e-4


@given(cases())
@settings(settings.get_profile("oracle"))
def test_all_queries_equal_enumeration(case: Case) -> None:
    """Log Z, marginals, pairwise marginals and mutual information of one random case."""
    plan = pc.compile_circuit(case.circuit)
    worlds = enumerate_worlds(case.circuit, case.parameters, case.evidence)
    log_z = pc.queries.log_evidence(plan, case.parameters, case.evidence)
    np.testing.assert_allclose(log_z.numpy(), worlds.log_partition(), **EXACT)
    possible = np.flatnonzero(worlds.totals() > 0).tolist()
    if len(possible) < len(log_z):
        with pytest.raises(EvidenceError, match="probability zero"):
            pc.queries.marginals(plan, case.parameters, case.evidence)
    if not possible:
        return
    case = case.rows(possible)
    single = pc.queries.marginals(plan, case.parameters, case.evidence)
    np.testing.assert_allclose(single.numpy(), worlds.marginals()[possible], **EXACT)
    length = case.circuit.num_variables
    pairs = [(i, j) for i in range(length) for j in range(length)]
    joint = pc.queries.pairwise_marginals(plan, case.parameters, case.evidence, pairs)
    for place, (i, j) in enumerate(pairs):
        np.testing.assert_allclose(
            joint[:, place].numpy(), worlds.pairwise(i, j)[possible], **EXACT
        )
    information = pc.queries.mutual_information(plan, case.parameters, case.evidence)
    np.testing.assert_allclose(information.numpy(), _information(worlds)[possible], **EXACT)


@given(cases())
@settings(max_examples=150)
def test_leave_one_out_equals_enumeration(case: Case) -> None:
    """It exists also where a variable's own evidence is impossible."""
    plan = pc.compile_circuit(case.circuit)
    expected = enumerate_worlds(case.circuit, case.parameters, case.evidence).leave_one_out()
    defined = np.flatnonzero(np.isfinite(expected).all(axis=(1, 2))).tolist()
    if len(defined) < len(expected):
        with pytest.raises(EvidenceError, match="probability zero"):
            pc.queries.leave_one_out(plan, case.parameters, case.evidence)
    if not defined:
        return
    case = case.rows(defined)

    found = pc.queries.leave_one_out(plan, case.parameters, case.evidence)

    np.testing.assert_allclose(found.numpy(), expected[defined], **EXACT)


@given(cases(zeros=False), SEEDS)
def test_listed_leave_one_out_is_that_of_all_categories(case: Case, seed: int) -> None:
    plan = pc.compile_circuit(case.circuit)
    whole = pc.queries.log_leave_one_out(plan, case.parameters, case.evidence)
    generator = torch.Generator().manual_seed(seed)
    listed = torch.randint(whole.shape[2], (*whole.shape[:2], 3), generator=generator)

    found = pc.queries.log_leave_one_out(plan, case.parameters, case.evidence, listed)

    torch.testing.assert_close(found, whole.gather(2, listed), rtol=1e-9, atol=1e-9)


@given(cases(zeros=False, max_batch=2))
@settings(max_examples=15)
def test_listed_leave_one_out_is_differentiable(case: Case) -> None:
    def listed(plan: pc.Plan, parameters: object, evidence: pc.Evidence) -> torch.Tensor:
        shape = (evidence.batch_size, plan.num_variables, 2)
        categories = torch.arange(2).expand(shape) % plan.num_categories
        return pc.queries.log_leave_one_out(plan, parameters, evidence, categories)

    _check_gradients(listed, case)


@given(cases())
@settings(max_examples=60)
def test_input_values_are_sums_over_their_categories(case: Case) -> None:
    plan = pc.compile_circuit(case.circuit)
    found = pc.queries.log_input_values(plan, case.parameters, case.evidence)
    expected = input_values(case.circuit, case.parameters, case.evidence)

    assert found.keys() == expected.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value.exp().numpy(), expected[name], **EXACT)


@given(cases(), SEEDS)
def test_conditional_likelihood_equals_enumeration(case: Case, seed: int) -> None:
    case = possible_part(case)
    if case is None:
        return
    plan = pc.compile_circuit(case.circuit)
    worlds = enumerate_worlds(case.circuit, case.parameters, case.evidence)
    probabilities = worlds.world_probabilities()
    places = np.random.default_rng(seed).integers(len(worlds.worlds), size=len(probabilities))
    values = torch.as_tensor(worlds.worlds[places])
    evidence = case.evidence
    if evidence.batch_size != len(values):
        # Evidence about nothing, with parameters per example.
        evidence = pc.Evidence(values, torch.zeros_like(values, dtype=torch.bool))

    found = pc.queries.conditional_log_likelihood(plan, case.parameters, values, evidence)

    with np.errstate(divide="ignore"):
        expected = np.log(probabilities[np.arange(len(places)), places])
    np.testing.assert_allclose(found.numpy(), expected, **EXACT)


@given(cases())
def test_latent_marginals_are_the_slow_oracles_gradients(case: Case) -> None:
    case = possible_part(case)
    if case is None:
        return
    plan = pc.compile_circuit(case.circuit)
    names = list(case.circuit.node_names.values())

    found = pc.queries.latent_marginals(plan, case.parameters, case.evidence, names)

    batch = len(pc.forward(plan, case.parameters, case.evidence))
    units = {name: node.num_units for node, name in case.circuit.node_names.items()}
    given = case.evidence.latent_log_potentials or {}
    probes = {n: torch.zeros(batch, units[n], dtype=torch.float64).requires_grad_() for n in names}
    latent = {n: probes[n] + given[n] if n in given else probes[n] for n in names}
    old = case.evidence
    evidence = pc.Evidence(old.values, old.observed, old.log_potentials, latent, old.categories)
    value = pc.forward(plan, case.parameters, evidence, impl="reference")
    expected = torch.autograd.grad(value.sum(), list(probes.values()))
    assert list(found) == names
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, **EXACT)


def test_latent_marginals_of_a_mixture_are_bayes_rule() -> None:
    plan = pc.compile_circuit(pc.families.mixture(2, num_components=2, num_categories=2))
    probabilities = {
        "weights": torch.tensor([0.3, 0.7]),
        "input_0": torch.tensor([[0.9, 0.1], [0.2, 0.8]]),
        "input_1": torch.tensor([[0.5, 0.5], [0.6, 0.4]]),
    }
    parameters = {name: p.double().log() for name, p in probabilities.items()}
    evidence = pc.Evidence(torch.tensor([[0, 1], [1, 0]]))

    found = pc.queries.latent_marginals(plan, parameters, evidence, ["components"])["components"]

    joint = torch.tensor([[0.3 * 0.9 * 0.5, 0.7 * 0.2 * 0.4], [0.3 * 0.1 * 0.5, 0.7 * 0.8 * 0.6]])
    torch.testing.assert_close(found, (joint / joint.sum(1, keepdim=True)).double())


@pytest.mark.parametrize("query", [pc.queries.marginals, pc.queries.leave_one_out])
def test_factors_moved_from_a_table_to_its_mixture_change_nothing(
    query: Callable[[pc.Plan, dict[str, Tensor], pc.Evidence], Tensor],
) -> None:
    """Be they far beyond what could be exponentiated."""
    plan = pc.compile_circuit(pc.families.mixture(3, num_components=3, num_categories=3))
    parameters = pc.random_parameters(plan, seed=0, spread=1.0, dtype=torch.float64)
    factors = torch.tensor([-800.0, 0.0, 800.0], dtype=torch.float64)
    moved = {
        **parameters,
        "input_1": parameters["input_1"] + factors[:, None],
        "weights": parameters["weights"] - factors,
    }
    evidence = pc.Evidence(log_potentials=random_potentials((4, 3, 3), _generator(0), zeros=False))

    found = query(plan, moved, evidence)

    torch.testing.assert_close(found, query(plan, parameters, evidence), rtol=1e-9, atol=1e-9)


# Gradients of queries.


@given(cases(zeros=False, max_batch=2))
@settings(max_examples=15)
def test_marginals_are_differentiable(case: Case) -> None:
    _check_gradients(pc.queries.marginals, case)


@given(cases(zeros=False, max_batch=2))
@settings(max_examples=15)
def test_leave_one_out_is_differentiable(case: Case) -> None:
    _check_gradients(pc.queries.leave_one_out, case)


def test_conditional_likelihood_of_a_contradiction_has_gradients_without_nan() -> None:
    plan, parameters = _hmm()
    leaves = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
    values = torch.tensor([[0, 1, 2, 0], [0, 0, 0, 0]])
    categories = torch.zeros(2, 4, 1, dtype=torch.long)
    potentials = torch.zeros(2, 4, 1, dtype=torch.float64, requires_grad=True)
    evidence = pc.Evidence(log_potentials=potentials, categories=categories)

    found = pc.queries.conditional_log_likelihood(plan, leaves, values, evidence)
    found.sum().backward()

    assert found[0].item() == -math.inf
    assert found[1].item() == pytest.approx(0, abs=1e-12)
    for tensor in (*leaves.values(), potentials):
        assert not tensor.grad.isnan().any()


# Samples.


@given(st.data())
@settings(max_examples=25)
def test_samples_follow_the_posterior(data: st.DataObject) -> None:
    """Chi-square test of the worlds' frequencies, for each example of a random case."""
    circuit = data.draw(circuits())
    parameters = data.draw(parameters_of(circuit, batch_size=2))
    case = possible_part(Case(circuit, parameters, data.draw(evidence_of(circuit, batch_size=2))))
    if case is None:
        return
    worlds = enumerate_worlds(circuit, case.parameters, case.evidence)
    plan = pc.compile_circuit(circuit)

    samples = pc.queries.sample(
        plan, case.parameters, 3000, case.evidence, generator=_generator(data.draw(SEEDS))
    )

    expected = worlds.world_probabilities()
    assert samples.shape == (len(expected), 3000, circuit.num_variables)
    for row, probabilities in enumerate(expected):
        _check_frequencies(_counts(samples[row], circuit), probabilities)


def _crossed() -> pc.Circuit:
    """Two products of one layer whose factors come from two layers, in opposite order."""

    def leaf(variable: int) -> pc.Input:
        return pc.Input(variable, num_units=2, num_categories=2)

    def mixed(variable: int) -> pc.Sum:
        return pc.Sum(leaf(variable), num_units=2)

    first, second = pc.Product(leaf(0), mixed(1)), pc.Product(mixed(0), leaf(1))
    return pc.Circuit(pc.Sum(first, second, num_units=1))


@pytest.mark.parametrize(
    "circuit",
    [
        _crossed(),
        pc.families.factorized(3, 3),
        pc.families.mixture(3, num_components=4, num_categories=3),
        pc.families.hmm(4, num_states=3, num_categories=2),
        pc.families.gated_hmm(4, num_states=3, num_categories=2),
        pc.families.binary_tree(4, num_units=3, num_categories=2),
        pc.families.binary_tree(5, num_units=2, num_categories=2, product="kronecker"),
    ],
    ids=repr,
)
def test_samples_of_a_family_follow_its_distribution(circuit: pc.Circuit) -> None:
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=1, spread=1.0)
    expected = enumerate_worlds(circuit, parameters, pc.Evidence()).world_probabilities()[0]

    samples = pc.queries.sample(plan, parameters, 20_000, generator=_generator(0))

    assert samples.shape == (20_000, circuit.num_variables)
    _check_frequencies(_counts(samples, circuit), expected)


def test_observed_values_are_kept_in_samples() -> None:
    plan, parameters = _hmm()
    values = random_values(plan.circuit, 3, _generator(0))
    observed = torch.tensor([[True, False, True, False]] * 3)

    samples = pc.queries.sample(
        plan, parameters, 50, pc.Evidence(values, observed), generator=_generator(1)
    )

    assert (samples == values[:, None])[..., observed[0]].all()
    assert not (samples == values[:, None])[..., ~observed[0]].all()


def test_the_generator_alone_decides_the_samples() -> None:
    plan, parameters = _hmm()

    first = pc.queries.sample(plan, parameters, 40, generator=_generator(5))
    torch.manual_seed(1)
    again = pc.queries.sample(plan, parameters, 40, generator=_generator(5))
    other = pc.queries.sample(plan, parameters, 40, generator=_generator(6))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_tempered_samples_sharpen_each_variable_given_the_latent_choice(temperature: float) -> None:
    circuit = pc.families.mixture(2, num_components=3, num_categories=3)
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=2, spread=1.0, dtype=torch.float64)
    potentials = random_potentials((1, 2, 3), _generator(0), zeros=False)
    evidence = pc.Evidence(log_potentials=potentials)

    samples = pc.queries.sample(
        plan, parameters, 20_000, evidence, temperature=temperature, generator=_generator(1)
    )

    latent = pc.queries.latent_marginals(plan, parameters, evidence, ["components"])["components"]
    tables = [parameters[f"input_{i}"] + potentials[0, i] for i in range(2)]
    if temperature == 0:
        sharp = [torch.nn.functional.one_hot(t.argmax(-1), 3).double() for t in tables]
    else:
        sharp = [(table / temperature).softmax(-1) for table in tables]
    expected = torch.einsum("z,za,zb->ab", latent[0], *sharp).flatten()
    _check_frequencies(_counts(samples[0], circuit), expected.numpy())


@pytest.mark.parametrize("num_samples, temperature", [(0, 1.0), (-1, 1.0), (1, -0.1)])
def test_numbers_out_of_range_are_refused(num_samples: int, temperature: float) -> None:
    plan, parameters = _hmm()

    with pytest.raises(EvidenceError, match=f"found {num_samples}, {temperature}"):
        pc.queries.sample(plan, parameters, num_samples, temperature=temperature)


# Impossible and bad evidence.

FUNCTION = torch.arange(12.0, dtype=torch.float64).view(4, 3) ** 2
CONDITIONAL: dict[str, Callable[[pc.Plan, dict[str, Tensor], pc.Evidence], object]] = {
    "marginals": pc.queries.marginals,
    "leave_one_out": pc.queries.leave_one_out,
    "latent_marginals": lambda p, w, e: pc.queries.latent_marginals(p, w, e, ["state_0"]),
    "pairwise_marginals": lambda p, w, e: pc.queries.pairwise_marginals(p, w, e, [(0, 1)]),
    "mutual_information": pc.queries.mutual_information,
    "conditional_mutual_information": lambda p, w, e: pc.queries.conditional_mutual_information(
        p, w, [0], [1], [2], e
    ),
    "most_informative": lambda p, w, e: vars(pc.queries.most_informative(p, w, 2, e, [1, 3])),
    "joint_marginal": lambda p, w, e: pc.queries.joint_marginal(p, w, e, [1, 2]),
    "conditional": lambda p, w, e: pc.queries.conditional(p, w, e, [1], [2]),
    "log_conditional": lambda p, w, e: pc.queries.log_conditional(
        p, w, torch.zeros(2, 4, dtype=torch.long), torch.eye(4, dtype=torch.bool)[:2], e
    ),
    "expectation": lambda p, w, e: pc.queries.expectation(p, w, FUNCTION, e),
    "variance": lambda p, w, e: pc.queries.variance(p, w, FUNCTION, e),
    "covariance": lambda p, w, e: pc.queries.covariance(p, w, FUNCTION.expand(2, 4, 3), e),
    "entropy": lambda p, w, e: vars(pc.queries.entropy(p, w, e, num_samples=4)),
    "cross_entropy": lambda p, w, e: vars(
        pc.queries.cross_entropy(p, w, p, w, e, e, num_samples=4)
    ),
    "kl_divergence": lambda p, w, e: vars(pc.queries.kl_divergence(p, w, p, w, e, num_samples=4)),
    "sample": lambda p, w, e: pc.queries.sample(p, w, 2, e),
    "conditional_log_likelihood": lambda p, w, e: pc.queries.conditional_log_likelihood(
        p, w, torch.zeros(2, 4, dtype=torch.long), e
    ),
}


@pytest.mark.parametrize("query", CONDITIONAL)
def test_conditioning_on_the_impossible_names_the_example(query: str) -> None:
    plan, parameters = _hmm()
    potentials = torch.zeros(2, 4, 3, dtype=torch.float64)
    potentials[1, :2] = -math.inf

    with pytest.raises(EvidenceError, match="example 1"):
        CONDITIONAL[query](plan, parameters, pc.Evidence(log_potentials=potentials))


def test_log_values_that_are_no_numbers_are_refused() -> None:
    """As on a device, where nothing has named the weight before."""
    require_possible(torch.tensor([0.0, -700.0]))
    with pytest.raises(EvidenceError, match=r"example 1 \(of 2 such\) is nan"):
        require_possible(torch.tensor([0.0, math.nan, -math.inf, math.nan]))


@pytest.mark.parametrize("query", CONDITIONAL)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_queries_say_which_weight_is_no_number(query: str, number: float) -> None:
    plan, parameters = _hmm()
    parameters["transition"][1, 0] = number
    evidence = pc.Evidence(log_potentials=torch.zeros(2, 4, 3, dtype=torch.float64))

    with pytest.raises(ParameterError, match=rf"'transition'\[1, 0\] is {number};"):
        CONDITIONAL[query](plan, parameters, evidence)


@pytest.mark.parametrize("query", CONDITIONAL)
def test_queries_refuse_evidence_about_another_circuit(query: str) -> None:
    plan, parameters = _hmm()

    with pytest.raises(EvidenceError, match="values has 5 variables"):
        CONDITIONAL[query](plan, parameters, pc.Evidence(torch.zeros(2, 5, dtype=torch.long)))


@pytest.mark.parametrize("query", CONDITIONAL)
def test_queries_change_nothing_and_read_any_layout(query: str) -> None:
    plan, parameters = _hmm()
    evidence = _mixed_evidence()
    copies: list[Tensor] = []
    map_evidence(evidence, lambda t: copies.append(t.clone()) or t)
    strided = map_evidence(evidence, lambda t: torch.stack([t, t], -1)[..., 0])
    narrow = map_evidence(evidence, lambda t: t.int() if t.dtype == torch.int64 else t)

    torch.manual_seed(0)
    expected = CONDITIONAL[query](plan, parameters, evidence)

    after: list[Tensor] = []
    map_evidence(evidence, lambda t: after.append(t) or t)
    assert all(torch.equal(a, b) for a, b in zip(copies, after, strict=True))
    for other in (strided, narrow):
        torch.manual_seed(0)
        torch.testing.assert_close(CONDITIONAL[query](plan, parameters, other), expected)


@pytest.mark.parametrize("query", CONDITIONAL)
def test_queries_take_prepared_parameters(query: str) -> None:
    plan, parameters = _hmm()
    torch.manual_seed(0)
    expected = CONDITIONAL[query](plan, parameters, _mixed_evidence())

    torch.manual_seed(0)
    found = CONDITIONAL[query](plan, pc.prepare(plan, parameters), _mixed_evidence())

    torch.testing.assert_close(found, expected)


def test_a_pair_outside_the_circuit_is_refused() -> None:
    plan, parameters = _hmm()

    with pytest.raises(EvidenceError, match=r"pair \(0, 4\)"):
        pc.queries.pairwise_marginals(plan, parameters, pc.Evidence(), [(0, 4)])


def test_an_unknown_node_is_refused() -> None:
    plan, parameters = _hmm()

    with pytest.raises(EvidenceError, match="'state_9'"):
        pc.queries.latent_marginals(plan, parameters, pc.Evidence(), ["state_9"])


def test_marginals_in_float32_sum_to_one_under_sharp_potentials() -> None:
    plan, parameters = _hmm()
    single = {name: tensor.float() for name, tensor in parameters.items()}
    sharp = 100 * random_potentials((8, 4, 3), _generator(0), zeros=True).clamp_min(-3).float()

    found = pc.queries.marginals(plan, single, pc.Evidence(log_potentials=sharp))

    torch.testing.assert_close(found.sum(-1), torch.ones(8, 4), rtol=0, atol=1e-5)
    exact = pc.queries.marginals(plan, parameters, pc.Evidence(log_potentials=sharp.double()))
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-5)


def test_float32_marginals_of_a_long_chain_stay_distributions() -> None:
    """Log-values near -8,000 are known to 5e-4 only; flow is conserved all the same."""
    length = 2000
    plan = pc.compile_circuit(pc.families.hmm(length, num_states=8, num_categories=50))
    parameters = pc.random_parameters(plan, seed=0, spread=2.0, dtype=torch.float64)
    values = torch.randint(50, (1, length), generator=_generator(0))
    observed = torch.rand(1, length, generator=_generator(1)) < 0.9
    evidence = pc.Evidence(values, observed)

    single = {name: tensor.float() for name, tensor in parameters.items()}
    found = pc.queries.marginals(plan, single, evidence)

    # Measured: 1.5e-5 and 7e-5; without conservation 5e-3 and 2e-3.
    torch.testing.assert_close(found.sum(-1), torch.ones(1, length), rtol=0, atol=6e-5)
    exact = pc.queries.marginals(plan, parameters, evidence)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=3e-4)


# Helpers of this file.


def _hmm() -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(pc.families.hmm(4, num_states=2, num_categories=3))
    parameters = {
        name: random_log_weights(shape, _generator(7), zeros=False, normalized=True)
        for name, shape in plan.parameter_shapes.items()
    }
    return plan, parameters


def _mixed_evidence() -> pc.Evidence:
    """Values, listed categories and latent potentials for `_hmm`, all possible with row zero."""
    potentials = random_potentials((2, 4, 3), _generator(1), zeros=False)
    return pc.Evidence(
        torch.zeros(2, 4, dtype=torch.long),
        torch.tensor([[True, False, False, True], [False, True, False, False]]),
        potentials,
        {"state_2": random_potentials((2, 2), _generator(2), zeros=False)},
        torch.tensor([0, 2, 1]).expand(2, 4, 3).clone(),
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _information(worlds: Enumeration) -> np.ndarray:
    """(B, L, L) by the definition: sum of p(a, b) log(p(a, b) / p(a) p(b))."""
    single = worlds.marginals()
    length = single.shape[1]
    found = np.zeros((len(single), length, length))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(length):
            for j in range(length):
                joint = worlds.pairwise(i, j)
                ratio = joint / (single[:, i, :, None] * single[:, j, None, :])
                terms = np.where(joint > 0, joint * np.log(ratio), 0.0)
                found[:, i, j] = terms.sum(axis=(1, 2))
    return found


def _counts(samples: Tensor, circuit: pc.Circuit) -> np.ndarray:
    """(W,) how often each world was drawn, in the order of enumeration."""
    index = np.ravel_multi_index(samples.numpy().T, circuit.categories)
    return np.bincount(index, minlength=math.prod(circuit.categories))


def _check_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    assert not counts[probabilities == 0].any(), "an impossible world was drawn"
    expected = counts.sum() * probabilities
    # Cells of few expected draws are put together: the test's law holds for large ones.
    small = expected < 5
    found = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    found, wanted = found[wanted > 0], wanted[wanted > 0]
    if len(found) > 1:
        assert stats.chisquare(found, wanted).pvalue > SIGNIFICANCE


def _check_gradients(
    query: Callable[[pc.Plan, dict[str, Tensor], pc.Evidence], Tensor], case: Case
) -> None:
    case = possible_part(case)
    if case is None:
        return
    plan = pc.compile_circuit(case.circuit)
    names = list(case.parameters)
    potentials = case.evidence.log_potentials
    tensors = [*case.parameters.values(), *([] if potentials is None else [potentials])]
    leaves = tuple(tensor.clone().requires_grad_() for tensor in tensors)

    def function(*tensors: Tensor) -> Tensor:
        parameters = dict(zip(names, tensors[: len(names)], strict=True))
        old = case.evidence
        own = tensors[-1] if potentials is not None else None
        latent = old.latent_log_potentials
        return query(
            plan, parameters, pc.Evidence(old.values, old.observed, own, latent, old.categories)
        )

    assert torch.autograd.gradcheck(function, leaves, atol=1e-6, fast_mode=True)
