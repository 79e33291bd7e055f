"""Evidence that is misread without a word elsewhere: tiles, strides, ranges, changed arguments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import EvidenceError
from tests.support.families import random_weights
from tests.support.fast_paths import strided

IMPLEMENTATIONS = ("eager", "fused", "triton")
B, L, K, V = 3, 3, 4, 200


def _chain() -> tuple[pc.Plan, dict[str, Tensor]]:
    circuit = pc.families.hmm(L, K, V)
    return pc.compile_circuit(circuit), random_weights(circuit)


def _potentials() -> Tensor:
    return torch.randn(B, L, V, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_whole_tiles_of_minus_infinity(impl: str) -> None:
    """Top-k filtered logits, -inf over whole tiles of 64 categories: log 2 too much for each."""
    plan, parameters = _chain()
    potentials = _potentials()
    potentials[..., 64:192] = -torch.inf
    potentials[0, 1, :] = -torch.inf
    potentials[0, 1, 3] = 0.5
    evidence = pc.Evidence(log_potentials=potentials)
    expected = pc.forward(plan, parameters, evidence, impl="reference")
    found = pc.forward(plan, parameters, evidence, impl=impl)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_strides_are_followed_and_arguments_left_alone(impl: str) -> None:
    """Evidence in another order of memory read as if it were contiguous; or normalised in place."""
    plan, parameters = _chain()
    potentials, values = _potentials(), torch.arange(B * L).reshape(B, L)
    observed = values % 2 == 0
    for given in (
        pc.Evidence(log_potentials=potentials),
        pc.Evidence(values, observed, potentials),
        pc.Evidence(values, observed, potentials[..., :5], None, potentials.argsort(-1)[..., :5]),
        pc.Evidence(values),
    ):
        fields = ("values", "observed", "log_potentials", "categories")
        own = {field: getattr(given, field) for field in fields}
        own = {field: strided(tensor) for field, tensor in own.items() if tensor is not None}
        kept = {field: tensor.clone() for field, tensor in own.items()}
        laid = {name: strided(log) for name, log in parameters.items()}
        found = pc.forward(plan, laid, replace(given, **own), impl=impl)
        expected = pc.forward(plan, parameters, given, impl="reference")
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(own[field], before) for field, before in kept.items())


@pytest.mark.parametrize("value", [-1, V, 10**9])
def test_categories_out_of_range(value: int) -> None:
    """A category -1, or one too large, that reads a neighbour's parameter."""
    plan, parameters = _chain()
    values = torch.zeros(B, L, dtype=torch.long)
    values[2, 1] = value
    with pytest.raises(EvidenceError, match=rf"values\[2, 1\] is {value}"):
        pc.forward(plan, parameters, pc.Evidence(values))
    listed = torch.zeros(B, L, 2, dtype=torch.long)
    listed[2, 1, 1] = value
    potentials = torch.zeros(B, L, 2, dtype=torch.float64)
    with pytest.raises(EvidenceError, match="categories"):
        pc.forward(plan, parameters, pc.Evidence(log_potentials=potentials, categories=listed))
    model = pc.CircuitModel(plan)
    for fit in (pc.fit_em, pc.fit_gradient):
        with pytest.raises(EvidenceError, match="values"):
            fit(model, values, epochs=1, progress=False)


def test_a_category_of_another_variable() -> None:
    """Unequal variables: a category that one has and the other has not."""
    x = [pc.Input(i, num_units=2, num_categories=size) for i, size in enumerate((2, 5))]
    model = pc.CircuitModel(pc.Circuit(pc.Sum(pc.Product(*x), num_units=1)))
    model.log_likelihood(torch.tensor([[1, 4]]))
    with pytest.raises(EvidenceError, match="variable 0 has categories"):
        model.log_likelihood(torch.tensor([[4, 1]]))


@pytest.mark.parametrize("width", [L - 1, L + 1])
def test_too_few_and_too_many_columns(width: int) -> None:
    """Columns read out of bounds, or ignored."""
    model = pc.CircuitModel(pc.families.hmm(L, K, V))
    with pytest.raises(EvidenceError, match=f"has {width} variables; the circuit has {L}"):
        model.log_likelihood(torch.zeros(2, width, dtype=torch.long))
    for size in (V - 1, V + 1):
        with pytest.raises(EvidenceError, match=f"has {size} categories"):
            model.log_evidence(pc.Evidence(log_potentials=torch.zeros(2, L, size)))
    with pytest.raises(EvidenceError):
        pc.fit_em(model, torch.zeros(2, width, dtype=torch.long), progress=False)


def test_unknown_keywords_are_refused() -> None:
    """An argument that does not exist, and a log-likelihood of 0."""
    model = pc.CircuitModel(pc.families.hmm(L, K, V))
    values = torch.zeros(2, L, dtype=torch.long)
    calls = (
        lambda: model.log_likelihood(values, masks=values > 0),
        lambda: pc.Evidence(values, missing_mask=values > 0),
        lambda: pc.forward(model.plan, model.log_parameters(), pc.Evidence(values), external=0),
        lambda: model(values, mask=None),
        lambda: pc.fit_em(model, values, pseudo_count=1.0),
    )
    for call in calls:
        with pytest.raises(TypeError, match="unexpected keyword"):
            call()
    latent = {"no such node": torch.zeros(2, K)}
    with pytest.raises(EvidenceError, match="no such node"):
        model.log_evidence(pc.Evidence(values, latent_log_potentials=latent))


def test_conditionals_count_a_variable_s_own_evidence() -> None:
    """P(X_i | e) that leaves out what e says of X_i itself: off by half."""
    plan, parameters = _chain()
    values = torch.tensor([[5, 0, 0]]).expand(B, L)
    observed = torch.tensor([[True, False, False]]).expand(B, L)
    evidence = pc.Evidence(values, observed, 3 * _potentials())
    marginals = pc.queries.marginals(plan, parameters, evidence)
    others = pc.queries.leave_one_out(plan, parameters, evidence)
    assert torch.equal(marginals[:, 0, 5], torch.ones(B).double())
    own = others * (3 * _potentials()).exp()
    own = own / own.sum(-1, keepdim=True)
    torch.testing.assert_close(marginals[:, 1:], own[:, 1:])
    assert float((marginals - others).abs().max()) > 0.3
    table = pc.queries.joint_marginal(plan, parameters, evidence, [1])
    torch.testing.assert_close(table, marginals[:, 1])


@pytest.mark.parametrize("soft", [False, True])
def test_samples_keep_what_is_observed(soft: bool) -> None:
    """Conditional samples in which an observed variable has another value."""
    plan, parameters = _chain()
    values = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(3))
    observed = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    evidence = pc.Evidence(values, observed, _potentials() if soft else None)
    drawn = pc.queries.sample(plan, parameters, 50, evidence, generator=torch.Generator())
    kept = drawn == values[:, None]
    assert bool(kept[observed[:, None].expand_as(kept)].all())
    assert not bool(kept.all())


def test_no_table_of_inputs_by_outputs_is_made() -> None:
    """(T/2, S, S, S) or batch x inputs x outputs of a broadcast log-sum-exp."""
    largest = _Largest()
    batch, length, states = 16, 16, 64
    plan = pc.compile_circuit(pc.families.hmm(length, states, 32))
    parameters = random_weights(plan.circuit)
    values = torch.zeros(batch, length, dtype=torch.long)
    with largest:
        pc.forward(plan, parameters, pc.Evidence(values), impl="eager")
    assert largest.numel <= max(batch * length * states, states * states, states * 32)


def test_the_number_of_operations_does_not_grow_with_states() -> None:
    """An object for each state and step."""
    counts = []
    for states in (4, 64):
        plan = pc.compile_circuit(pc.families.hmm(8, states, 32))
        counted = _Largest()
        with counted:
            pc.forward(plan, random_weights(plan.circuit), pc.Evidence(), impl="eager")
        counts.append(counted.calls)
    assert np.ptp(counts) <= 2


class _Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts operations, and the numbers in the largest result of one."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.calls = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = function(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(found, Tensor):
            real = [size for size, step in zip(found.shape, found.stride(), strict=True) if step]
            self.numel = max(self.numel, int(np.prod(real)))
        return found
