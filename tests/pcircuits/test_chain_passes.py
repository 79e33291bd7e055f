"""Passes over a chain in plain PyTorch, entry by entry; kernels are compared elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import BackendError
from pcircuits.queries import ChainWindow, chain_latents, chain_passes

LENGTH, UNITS, CATEGORIES = 3, 3, 4


def chain(homogeneous: bool = True) -> tuple[pc.Plan, dict[str, Tensor]]:
    plan = pc.compile_circuit(pc.families.hmm(LENGTH, UNITS, CATEGORIES, homogeneous=homogeneous))
    return plan, pc.random_parameters(plan, seed=2, spread=1.5)


def window(listed: bool = False, **settings: Tensor) -> ChainWindow:
    random = torch.Generator().manual_seed(3)
    potentials = torch.randn(2, LENGTH, CATEGORIES, generator=random)
    names = None
    if listed:
        names = torch.rand(potentials.shape, generator=random).argsort(-1)[..., :3]
        potentials = potentials.gather(2, names)
    observed = torch.tensor([[False, False, False], [False, True, False]])
    values = torch.tensor([[9, 9, 9], [9, 2, 9]])  # 9 is none: it is not looked at
    return ChainWindow(potentials, values, observed, names, **settings)


def tables(
    parameters: dict[str, Tensor], own: ChainWindow, row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First states (K,), transitions (L - 1, K, K) and emissions with evidence (L, K, V or J)."""
    initial = parameters["initial"].double().exp().numpy()
    moves = parameters["transition"].double().exp().numpy()
    weights = np.zeros((LENGTH, UNITS, own.log_potentials.shape[2]))
    for t in range(LENGTH):
        emission = parameters["emission"].double().exp().numpy()
        if own.categories is not None:
            emission = emission[:, own.categories[row, t].numpy()]
        weights[t] = emission * own.log_potentials[row, t].double().exp().numpy()
        if own.observed[row, t]:
            emission = parameters["emission"].double().exp().numpy()
            weights[t] = emission[:, [int(own.values[row, t])]]
    return initial, np.stack([moves] * (LENGTH - 1)), weights


def first_above(weights: np.ndarray, uniform: float) -> int:
    """By inversion: the first place at which the running total exceeds its share."""
    return int((weights.cumsum() > uniform * weights.sum()).argmax())


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_samples_are_inverted_state_by_state(listed: bool, temperature: float) -> None:
    plan, parameters = chain()
    own, passes = window(listed), chain_passes(plan, parameters, impl="torch")
    uniforms = torch.rand(
        2, 200, LENGTH, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    drawn = passes.sample(own, passes.messages(own), uniforms, temperature)

    assert drawn.shape == (2, 200, LENGTH) and drawn.dtype == torch.int64
    for row in range(2):
        initial, moves, weights = tables(parameters, own, row)
        ahead = [weights[-1].sum(1)]
        for t in reversed(range(LENGTH - 1)):
            ahead.insert(0, weights[t].sum(1) * (moves[t] @ ahead[0]))
        for sample in range(200):
            state = None
            for t in range(LENGTH):
                first, second = uniforms[row, sample, t].tolist()
                before = initial if state is None else moves[t - 1][state]
                state = first_above(before * ahead[t], first)
                if own.observed[row, t]:
                    assert drawn[row, sample, t] == own.values[row, t]
                    continue
                given = weights[t][state]
                place = (
                    int(given.argmax())
                    if temperature == 0
                    else first_above(given ** (1 / temperature), second)
                )
                expected = place if own.categories is None else int(own.categories[row, t, place])
                assert drawn[row, sample, t] == expected


def test_messages_without_potentials_sum_variables_out() -> None:
    plan, parameters = chain()
    passes, own = chain_passes(plan, parameters, impl="torch"), window()
    emission = parameters["emission"].double()
    soft, hard = passes.messages(own), passes.messages(own, soft=False)

    torch.testing.assert_close(hard.log_value[0], torch.tensor(0.0), atol=1e-6, rtol=0)
    marginal = pc.queries.log_likelihood(plan, parameters, own.values.clamp(max=3), own.observed)
    torch.testing.assert_close(hard.log_value, marginal, atol=1e-6, rtol=1e-6)
    leaves = (emission + own.log_potentials[0, 0].double()).logsumexp(-1)
    torch.testing.assert_close(soft.leaves[0, 0], leaves)
    torch.testing.assert_close(soft.leaves[1, 1], emission[:, 2])
    torch.testing.assert_close(passes.leaves(own), soft.leaves.float())
    assert passes.leaves(own).dtype == torch.float32
    missing = torch.tensor([[True, False, False], [False, False, False]])
    skipped = window(missing=missing)
    torch.testing.assert_close(
        passes.messages(skipped).leaves[0, 0], torch.zeros(UNITS).double(), atol=1e-6, rtol=0
    )
    found = passes.marginals(skipped, passes.messages(skipped))
    assert not found[0, 0].any()
    assert found[1, 1].tolist() == [0.0, 0.0, 1.0, 0.0]
    torch.testing.assert_close(found.sum(-1)[~missing], torch.ones(5))


@pytest.mark.parametrize("size", [0.25, 1.0])
def test_fitting_moves_potentials_towards_the_target(size: float) -> None:
    plan, parameters = chain()
    passes, own = chain_passes(plan, parameters, impl="torch"), window()
    target = torch.randn(2, LENGTH, CATEGORIES, generator=torch.Generator().manual_seed(6))
    target[0, 1, 2] = -math.inf
    moved = passes.moved(own, passes.messages(own), target, size, 0.5)

    evidence = pc.Evidence(own.values, own.observed, own.log_potentials.double())
    exact = {name: tensor.double() for name, tensor in parameters.items()}
    prediction = pc.queries.log_leave_one_out(plan, exact, evidence)
    fitted = (target - prediction).clamp(max=0.5)
    assert (fitted == 0.5).any() and (fitted < 0.5).any()
    expected = (1 - size) * own.log_potentials + size * fitted
    assert moved[0, 1, 2] == -math.inf
    keep = torch.ones_like(target, dtype=torch.bool)
    keep[0, 1, 2] = False
    torch.testing.assert_close(moved[keep], expected.float()[keep], rtol=1e-5, atol=1e-5)


def test_observed_values_are_marked_in_lists_and_tables() -> None:
    own = window(listed=True)
    names = own.categories.clone()
    names[1, 1] = torch.tensor([3, 2, 0])
    marked = ChainWindow(own.log_potentials, own.values, own.observed, names)
    found = marked.with_observed(torch.zeros(2, LENGTH, 3))
    assert found.nonzero().tolist() == [[1, 1, 1]] and found.sum() == 1
    assert window().with_observed(torch.zeros(2, LENGTH, 4)).nonzero().tolist() == [[1, 1, 2]]


def test_latent_potentials_are_laid_out_by_position() -> None:
    plan, _ = chain(homogeneous=False)
    own = torch.tensor([[1.0, 2.0, 3.0]])
    found = chain_latents(plan, {"state_2": own, "state_0": -own})
    assert found.tolist() == [[[-1.0, -2.0, -3.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]]
    assert chain_latents(plan, None) is None and chain_latents(plan, {}) is None
    for name in ("step_0", "nobody"):
        with pytest.raises(
            BackendError, match=f"latent potentials name '{name}', which is no state of the chain"
        ):
            chain_latents(plan, {name: own})


def test_tables_of_a_chain_are_in_the_order_of_its_variables() -> None:
    from pcircuits.execute.chains import chain_tables

    for homogeneous in (True, False):
        plan, parameters = chain(homogeneous)
        found = chain_tables(plan, pc.prepare(plan, parameters))
        names = ["transition"] * 2 if homogeneous else ["transition_0", "transition_1"]
        for name, table in zip(names, found.transitions, strict=True):
            assert torch.equal(table, parameters[name])
        assert (found.transitions[0] is found.transitions[1]) is homogeneous
        assert torch.equal(found.initial, parameters["initial"])
        assert found.emission.log.shape == (1 if homogeneous else LENGTH, 1, UNITS, CATEGORIES)
    batched = {name: tensor.expand(2, *tensor.shape) for name, tensor in parameters.items()}
    with pytest.raises(BackendError, match="are given for 2 examples; expected shared ones"):
        chain_tables(plan, pc.prepare(plan, batched))


def _nearly(kind: str) -> pc.Circuit:
    x = [
        pc.Input(i, num_units=2, num_categories=3 if (kind, i) == ("categories", 1) else 2)
        for i in range(3)
    ]
    if kind == "reversed":
        x = x[::-1]
    repeated = 2 if kind == "repeated step" else 1
    below = pc.Sum(*[x[2]] * repeated, num_units=2, parameter="b")
    if kind == "kronecker":
        inner = pc.Sum(pc.KroneckerProduct(x[1], below), num_units=2)
    else:
        inner = pc.Sum(pc.Product(x[1], below), num_units=3 if kind == "units" else 2)
    first = x[0] if kind != "units" else pc.Input(0, num_units=3, num_categories=2)
    repeated = 2 if kind == "repeated root" else 1
    return pc.Circuit(pc.Sum(*[pc.Product(first, inner)] * repeated, num_units=1))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("chain", True),
        ("reversed", False),
        ("categories", False),
        ("kronecker", False),
        ("units", False),
        ("repeated step", False),
        ("repeated root", False),
    ],
)
def test_what_is_nearly_a_chain_is_none(kind: str, expected: bool) -> None:
    assert pc.queries.is_chain(pc.compile_circuit(_nearly(kind))) is expected


def test_a_sum_that_reads_one_node_several_times_is_no_chain() -> None:
    """It was taken for one, of one variable, and its mutual information failed."""
    circuit = pc.Circuit(pc.Sum(*[pc.Input(0, num_units=1, num_categories=3)] * 3, num_units=1))
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=0, dtype=torch.float64)
    found = pc.queries.mutual_information(plan, parameters, pc.Evidence())
    (name,) = [
        name for name, shape in plan.parameter_shapes.items() if 3 in shape and len(shape) > 1
    ]
    own = parameters[name].softmax(-1).flatten()
    torch.testing.assert_close(found.flatten(), -(own * own.log()).sum()[None])


def test_each_step_of_a_chain_has_its_own_transition() -> None:
    """Moves that are certain, and tokens that tell the state: there is one sample only."""
    length, units = 6, 3
    plan = pc.compile_circuit(pc.families.hmm(length, units, units, homogeneous=False))
    moves = [[1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2], [2, 1, 0]]
    one_hot = torch.eye(units)
    parameters = {"initial": one_hot[2].log()}
    parameters |= {f"transition_{t}": one_hot[move].log() for t, move in enumerate(moves)}
    parameters |= {f"emission_{t}": one_hot.roll(t, 1).log() for t in range(length)}
    states = [2]
    for move in moves:
        states.append(move[states[-1]])
    passes = chain_passes(plan, parameters, impl="torch")
    nothing = torch.zeros(1, length, dtype=torch.bool)
    own = ChainWindow(torch.zeros(1, length, units), nothing.long(), nothing, None)
    uniforms = torch.rand(1, 9, length, 2, generator=torch.Generator().manual_seed(0))
    drawn = passes.sample(own, passes.messages(own), uniforms)
    expected = [(state + t) % units for t, state in enumerate(states)]
    assert drawn.tolist() == [[expected] * 9]
