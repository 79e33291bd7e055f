"""Constraints as automata: which state tokens lead to, and what is refused, in full."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.distribution import CoupledDistribution
from codd.decoding.automata import START, Unrolled, at_the_end, branches, matching
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import generate
from codd.decoding.products import OpenProduct, carried
from codd.decoding.uncoupled import UncoupledModel
from codd.decoding.wrapped import WrappedModel
from codd.errors import DecodingError
from codd.vocabulary import CharacterVocabulary
from tests.codd.test_choice import BY_RATIO, members_of
from tests.support.coupled import tiny_model
from tests.support.decoding import mixture_model, refused, rows

SIZE = 4
# Counts 1s up to three; a 0 begins again; after the third only a 2 may follow, and 3 never.
MOVES: list[dict[int | None, int]] = [{0: 0, 1: 1}, {0: 0, 1: 2}, {0: 0, 1: 3}, {2: 0}]


def automaton(length: int) -> pc.Circuit:
    return pc.families.automaton(MOVES, {0, 1}, length, SIZE)


def step(state: int, token: int) -> int:
    return -1 if state < 0 else MOVES[state].get(token, -1)


def ends(state: int, tokens: Any) -> int:
    return reduce(step, tokens, state)


@pytest.mark.parametrize("count", range(6))
def test_every_word_leads_to_its_state_or_to_none(count: int) -> None:
    """States are what can follow: those after which the same may come are one."""
    length = 6
    unrolled = Unrolled.of(automaton(length))
    words = torch.tensor(list(itertools.product(range(SIZE), repeat=count))).long()
    words = words.view(SIZE**count, count)
    found = unrolled.walk(words).tolist()
    tails = list(itertools.product(range(SIZE), repeat=length - count))
    rests = {
        state: frozenset(tail for tail in tails if ends(state, tail) in (0, 1))
        for state in range(-1, SIZE)
    }
    expected = [rests[ends(0, word)] for word in words.tolist()]
    assert [index == -1 for index in found] == [not rest for rest in expected]
    pairs = {(index, rest) for index, rest in zip(found, expected, strict=True) if rest}
    assert sorted(index for index, _ in pairs) == list(range(len(unrolled.states[count])))
    assert len({rest for _, rest in pairs}) == len(pairs)


def test_the_first_block_has_no_state_and_later_ones_say_theirs() -> None:
    unrolled = Unrolled.of(automaton(6))
    first = unrolled.block(0, 2, 3)
    assert first.num_variables == 3 and first.parameter_shapes == {}
    for number in (1, 2):
        block = unrolled.block(2 * number, 2 * number + 2, 3)
        count = len(unrolled.states[2 * number])
        assert block.num_variables == 3 and block.parameter_shapes == {START: (count,)}
        assert count > 1
        plan = pc.compile_circuit(block)
        words = torch.tensor(list(itertools.product(range(SIZE), repeat=3)))
        before = torch.tensor([[1, 1], [0, 0], [0, 1]])
        if number == 2:
            before = torch.cat((torch.zeros_like(before), before), dim=1)
        states = unrolled.walk(before)
        for prefix, own in zip(before.tolist(), states.tolist(), strict=True):
            weights = torch.full((count,), -torch.inf)
            weights[own] = 0.0
            values = pc.forward(plan, {START: weights}, pc.Evidence(words))
            for word, value in zip(words.tolist(), values.tolist(), strict=True):
                last = ends(0, (*prefix, *word[1:]))
                possible = {0, 1} if number == 2 else {0, 1, 2, 3}
                assert value == (0.0 if last in possible else -torch.inf), (prefix, word)


def test_a_constraint_of_one_token_has_no_moves() -> None:
    one = pc.families.automaton([{0: 1, 2: 1}, {}], {1}, 1, SIZE)
    unrolled = Unrolled.of(one)
    assert len(unrolled.states) == 1
    plan = pc.compile_circuit(unrolled.block(0, 1, 1))
    values = pc.forward(plan, {}, pc.Evidence(torch.arange(SIZE)[:, None]))
    assert values.tolist() == [0.0, -torch.inf, 0.0, -torch.inf]
    moved = pc.compile_circuit(at_the_end(one, 1))
    assert pc.forward(moved, {}, pc.Evidence(torch.tensor([[0], [1]]))).tolist() == [0, -torch.inf]


def allowed(i: int) -> pc.Input:
    return pc.Input(i, num_units=1, num_categories=SIZE, supports=((0, 1),))


@pytest.mark.parametrize(
    "root",
    [
        pc.Product(allowed(3), pc.Product(allowed(2), pc.Product(allowed(1), allowed(0)))),
        pc.Product(allowed(0), allowed(1), pc.Product(allowed(2), allowed(3))),
        pc.Product(pc.Product(allowed(0), allowed(1)), pc.Product(allowed(2), allowed(3))),
        pc.Product(pc.Product(allowed(0), pc.Product(allowed(1), allowed(2)))),
    ],
    ids=["from the right", "two at once", "as a tree", "one alone"],
)
def test_what_does_not_go_from_left_to_right_is_no_automaton(root: Any) -> None:
    circuit = pc.Circuit(root)
    with refused(
        "constraint: to be carried from block to block it has to decide tokens from left to "
        f"right, as an automaton does; found {circuit.root!r} at token 0"
    ):
        Unrolled.of(circuit)
    if root is circuit.root:
        with pytest.raises(DecodingError, match="at token 0"):
            branches(root, 0)


def test_tokens_without_a_text_of_their_own_do_not_match() -> None:
    vocabulary = CharacterVocabulary(tuple("ab\ufffd"))
    plan = pc.compile_circuit(matching(".{2}", 2, vocabulary))
    words = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    found = pc.forward(plan, {}, pc.Evidence(words)).exp()
    assert found.tolist() == [float(2 not in word) for word in words.tolist()]


def model_of(**options: Any) -> codd.CoupledModel:
    return tiny_model(modulator="static", **options)


def free(length: int, size: int) -> pc.Circuit:
    return pc.families.automaton([{None: 0}], {0}, length, size)


def test_constraints_fit_their_model_or_are_refused() -> None:
    model = model_of()
    size = model.num_categories
    assert ConstrainedModel(model, free(8, size)).block_length == 8
    sixteen = ConstrainedModel(model, free(16, size), block_length=8)
    assert sixteen.block_length == 8 and sixteen.region(1) is sixteen.region(1)
    assert sixteen.region(0) is not sixteen.region(1)
    with refused("constraint: expected a circuit without parameters, found 3"):
        ConstrainedModel(model, pc.families.hmm(8, 2, size))
    with refused(f"constraint: expected the model's {size} categories, found {size + 1}"):
        ConstrainedModel(model, free(8, size + 1))
    with refused(f"constraint: expected the model's {size} categories, found {size - 1}"):
        ConstrainedModel(model, free(8, size - 1))
    with refused("constraint: expected at most the window's 8 tokens, found 9"):
        ConstrainedModel(model, free(9, size))
    with refused(
        "constraint: expected at most the model's 16 tokens, so that all stay in view; found 20"
    ):
        ConstrainedModel(model, free(20, size), block_length=4)


def asked(model: Any, constraint: pc.Circuit, start: int = 8, **options: Any) -> Any:
    own = ConstrainedModel(model, constraint)
    tokens = torch.full((2, 16), model.mask_id)
    with torch.no_grad():
        return own.distribution(own.denoise(tokens), tokens, torch.full((2,), start), **options)


def test_distributions_that_cannot_be_constrained_are_refused() -> None:
    model = model_of()
    size = model.num_categories
    everything = free(8, size)
    assert isinstance(asked(model, everything, coupling="factorised"), CoupledDistribution)
    for start in (7, 0):
        with refused("constraint: expected windows at the sequence's end"):
            asked(model, everything, start)
    for name in ("local", "static-local"):
        with refused(
            "constraint: expected the weights of the model's circuit or of its modulator, "
            f"found those of coupling {name!r} or of one of several circuits"
        ):
            asked(model, everything, coupling=name)
    with refused(
        "constraint: expected the weights of the model's circuit or of its modulator, "
        "found those of coupling 'local' or of one of several circuits"
    ):
        asked(model, everything, coupling=codd.CouplingSettings("local"))
    mixture = mixture_model(4, 3, window=4, block=4, seed=2)
    with refused("constraint: expected a circuit's distribution, found MixtureDistribution"):
        generate(mixture, rows([]), 4, 1, constraint=free(4, 3))
    split = pc.Product(
        pc.Product(
            *(pc.Input(i, num_units=1, num_categories=size, supports=((0,),)) for i in (0, 4))
        ),
        pc.Product(
            *(
                pc.Input(i, num_units=1, num_categories=size, supports=((0, 1),))
                for i in (1, 2, 3, 5, 6, 7)
            )
        ),
    )
    with pytest.raises(DecodingError, match=r"^constraint: cannot be multiplied in: "):
        asked(model, pc.Circuit(split))
    with pytest.raises(DecodingError, match=r"^constraint: cannot be multiplied in: "):
        OpenProduct.of(pc.families.hmm(8, 2, size), pc.Circuit(split))


class Weighed(WrappedModel):
    """A model whose circuit has weights of its own for each window, which nothing says."""

    def __init__(self, model: codd.CoupledModel, kind: str) -> None:
        super().__init__(model)
        self.circuit, self.settings = model.circuit, model.settings
        self.modulator = SimpleNamespace(plan=model.circuit.plan, kind=kind)

    def distribution(self, *given: Any, **more: Any) -> Any:
        free = super().distribution(*given, **more)
        shared = self.circuit.log_parameters()
        own = {n: w.expand(free.batch_size, *w.shape) for n, w in shared.items()}
        return replace(free, parameters=pc.prepare(free.plan, own))


def test_weights_of_windows_that_nothing_gives_again_are_refused() -> None:
    model = model_of()
    everything = free(8, model.num_categories)
    for kind in ("static", "latent"):
        with pytest.raises(DecodingError, match="of the model's circuit or of its modulator"):
            asked(Weighed(model, kind), everything, coupling="product")
    several = members_of(BY_RATIO)
    with pytest.raises(DecodingError, match="or of one of several circuits"):
        asked(several, free(8, several.num_categories), coupling="product")


def test_blocks_begin_with_the_first() -> None:
    model = model_of()
    size = model.num_categories
    moves: list[dict[int | None, int]] = [{0: 1, 1: 1}, {2: 0, 3: 0}]
    own = ConstrainedModel(model, pc.families.automaton(moves, {0}, 16, size), block_length=4)
    tokens = torch.full((1, 12), model.mask_id)
    with torch.no_grad():
        output, start = own.denoise(tokens), torch.tensor([4])
        found, first = (each.distribution(output, tokens, start) for each in (own, own.region(0)))
    torch.testing.assert_close(found.marginals(), first.marginals())
    assert (found.marginals()[0, 4:, 4:] == 0).all()


def test_a_denoiser_alone_may_be_constrained() -> None:
    model = UncoupledModel(model_of().denoiser, 8)
    size = model.num_categories
    only = pc.families.automaton([{2: 0, 3: 0}], {0}, 8, size)
    found = generate(model, rows([1]) * 20, 8, 2, constraint=only)
    assert set(found.completions.flatten().tolist()) == {2, 3}


@pytest.fixture
def doctored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Changes the largest number that a product of two circuits is read from."""
    whole = pc.operators.multiply

    def change(new: float) -> float:
        kept = []

        def multiply(*factors: Any) -> Any:
            found = whole(*factors)
            weights: dict[str, Tensor] = {n: w.clone() for n, w in found.log_weights.items()}
            own = max(weights.values(), key=lambda w: float(w.max()))
            kept.append(float(own.max()))
            own[own == own.max()] += new
            return pc.WeightedCircuit(found.circuit, weights)

        monkeypatch.setattr(pc.operators, "multiply", multiply)
        OpenProduct.of(pc.families.hmm(3, 2, 4), pc.families.hmm(3, 3, 4))
        return kept[0]

    return change


def test_what_is_no_sum_of_one_weight_each_is_refused(doctored: Any) -> None:
    sizes = 2 * 4 + 2 * 2 + 2, 3 * 4 + 3 * 3 + 3
    assert doctored(0.0) == (sizes[0] + 1) * (sizes[1] + 1) - 1
    for wrong in (0.25, -0.5, 1.0, 7.0):
        with pytest.raises(DecodingError, match=r"constraint: parameter '.*' of the product has"):
            doctored(wrong)


def test_potentials_of_states_are_carried_to_pairs_of_states() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, 2, SIZE))
    product = OpenProduct.of(plan.circuit, automaton(3)).plan
    own = {f"state_{i}": torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (i + 1) for i in (0, 2)}
    found = carried(plan, product, own)
    names = {
        n: node for node, n in product.circuit.node_names.items() if isinstance(node, pc.Input)
    }
    assert set(found) == {n for n, node in names.items() if node.variable in (0, 2)}
    for name, potentials in found.items():
        node = names[name]
        each = own[f"state_{node.variable}"].repeat_interleave(node.num_units // 2, 1)
        assert torch.equal(potentials, each)
    expected = (
        "constraint: expected latent potentials of inputs, one for each token, found some of "
    )
    with refused(expected + "'step_0'"):
        carried(plan, product, {"step_0": torch.zeros(1, 2), "root": torch.zeros(1, 1), **own})
    long = pc.compile_circuit(pc.families.hmm(260, 2, 2))
    assert carried(long, long, {}) == {}
    two = pc.Sum(
        *(pc.Product(allowed(0), pc.Input(1, num_units=1, num_categories=SIZE)) for _ in range(2)),
        num_units=1,
    )
    several = pc.compile_circuit(pc.Circuit(two))
    inputs = sum(isinstance(node, pc.Input) for node in several.circuit.nodes)
    with refused(expected + str(inputs)):
        carried(several, several, {})
