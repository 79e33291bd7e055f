"""Constraints as automata: which state tokens lead to, and what is refused, in full."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.distribution import CoupledDistribution
from codd.decoding.automata import Unrolled, branches, matching
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import generate
from codd.decoding.messages import AutomatonMessages
from codd.decoding.products import OpenProduct
from codd.decoding.slices import Place, Slice, at_the_end, cut
from codd.decoding.uncoupled import UncoupledModel
from codd.decoding.wrapped import WrappedModel
from codd.errors import DecodingError
from codd.vocabulary import CharacterVocabulary
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


def messages_of(unrolled: Unrolled) -> AutomatonMessages:
    return AutomatonMessages.of(unrolled, torch.device("cpu"))


def walked(unrolled: Unrolled, words: Tensor) -> Tensor:
    """(B,) the state after words (B, n), by messages; -1 where there is none."""
    messages, count = messages_of(unrolled), words.shape[1]
    nothing = torch.zeros(*words.shape, SIZE)
    scores = messages.scores(words, nothing, torch.zeros_like(words, dtype=torch.bool))
    weights = messages.before(scores, torch.full((len(words),), count))
    assert set(weights.unique().tolist()) <= {0.0, -torch.inf}
    assert bool((weights.exp().sum(1) <= 1).all())
    return torch.where(weights.isneginf().all(1), -1, weights.argmax(1))


@pytest.mark.parametrize("count", range(6))
def test_every_word_leads_to_its_state_or_to_none(count: int) -> None:
    """States are what can follow: those after which the same may come are one."""
    length = 6
    unrolled = Unrolled.of(automaton(length))
    words = torch.tensor(list(itertools.product(range(SIZE), repeat=count))).long()
    words = words.view(SIZE**count, count)
    found = walked(unrolled, words).tolist()
    tails = list(itertools.product(range(SIZE), repeat=length - count))
    rests = {
        state: frozenset(tail for tail in tails if ends(state, tail) in (0, 1))
        for state in range(-1, SIZE)
    }
    expected = [rests[ends(0, word)] for word in words.tolist()]
    assert [index == -1 for index in found] == [not rest for rest in expected]
    pairs = {(index, rest) for index, rest in zip(found, expected, strict=True) if rest}
    assert sorted(index for index, _ in pairs) == list(range(unrolled.num_states[count]))
    assert len({rest for _, rest in pairs}) == len(pairs)


@pytest.mark.parametrize(("first", "stop"), [(0, 6), (0, 2), (2, 4), (3, 4), (4, 6), (0, 1)])
@pytest.mark.parametrize("lead", [0, 1])
def test_a_slice_leads_from_its_states_before_to_those_after(
    lead: int, first: int, stop: int
) -> None:
    unrolled = Unrolled.of(automaton(6))
    part = cut(unrolled, Place(lead, first, stop))
    assert part.circuit.num_variables == lead + stop - first
    assert part.circuit.parameter_shapes == {}
    plan = pc.compile_circuit(part.circuit)
    words = torch.tensor(list(itertools.product(range(SIZE), repeat=lead + stop - first)))
    prefixes = [[0] * (first - i) + [1] * i for i in range(min(first, 3) + 1)]
    for prefix in prefixes:
        own = walked(unrolled, torch.tensor([prefix], dtype=torch.int64)).item()
        before = one(own, unrolled.num_states[first]).expand(len(words), -1)
        inside = words[:, lead:]
        whole = torch.cat((torch.tensor([prefix]).long().expand(len(words), -1), inside), dim=1)
        after = (
            walked(unrolled, whole)
            if stop < 6
            else torch.tensor([0 if ends(0, word) in (0, 1) else -1 for word in whole.tolist()])
        )
        for state in range(unrolled.num_states[stop]):
            target = one(state, unrolled.num_states[stop]).expand(len(words), -1)
            evidence = pc.Evidence(words, latent_log_potentials=part.latent(before, target))
            values = pc.forward(plan, {}, evidence)
            assert torch.equal(values.exp() > 0.5, after == state), (prefix, state)
            assert set(values.tolist()) <= {0.0, -torch.inf}


def one(state: int, count: int) -> Tensor:
    """(1, S) log-weights of one state of several."""
    return (torch.arange(count) == state).double().log()[None]


@pytest.mark.parametrize("place", range(7))
def test_messages_are_sums_over_all_that_may_stand_there(place: int) -> None:
    length = 6
    unrolled = Unrolled.of(automaton(length))
    messages = messages_of(unrolled)
    tokens = torch.tensor([[1, 1, 0, 2, 1, 0], [0, 1, 1, 1, 2, 1], [0, 0, 1, 0, 0, 1]])
    free = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]]).bool()
    logits = torch.randn(3, length, SIZE, generator=torch.Generator().manual_seed(0)).double()
    logits[0, :3, 0] = -torch.inf
    fixed = torch.nn.functional.one_hot(tokens, SIZE).double()
    chances = torch.where(free[..., None], logits.softmax(-1), fixed)
    heads, tails = all_words(place), all_words(length - place)
    states = (
        walked(unrolled, heads)
        if place < length
        else torch.tensor([0 if ends(0, head) in (0, 1) else -1 for head in heads.tolist()])
    )
    before, after = [], []
    for own in range(unrolled.num_states[place]):
        before.append(likelihoods(chances[:, :place], heads[states == own]))
        state = ends(0, heads[states == own][0].tolist())
        accepted = torch.tensor([ends(state, tail) in (0, 1) for tail in tails.tolist()])
        after.append(likelihoods(chances[:, place:], tails[accepted]))
    scores, places = messages.scores(tokens, logits, free), torch.full((3,), place)
    for found, sums in ((messages.before, before), (messages.after, after)):
        expected = torch.stack(sums, dim=1)
        expected /= expected.amax(1, keepdim=True)
        weights = found(scores, places).exp()
        own = weights[:, : expected.shape[1]]  # what is beyond is of other places
        torch.testing.assert_close(own, expected, atol=1e-12, rtol=1e-9)
        assert bool((weights[:, expected.shape[1] :] == 0).all())


def test_posteriors_are_those_of_the_words_that_are_accepted() -> None:
    length = 5
    messages = messages_of(Unrolled.of(automaton(length)))
    tokens = torch.tensor([[1, 1, 0, 2, 1], [0, 1, 1, 1, 2], [0, 0, 1, 0, 0]])
    free = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 1, 0, 1, 1]]).bool()
    logits = torch.randn(3, length, SIZE, generator=torch.Generator().manual_seed(0)).double()
    logits[0, :3, 0] = -torch.inf
    fixed = torch.nn.functional.one_hot(tokens, SIZE).double()
    chances = torch.where(free[..., None], logits.softmax(-1), fixed)
    words = all_words(length)
    words = words[torch.tensor([ends(0, word) in (0, 1) for word in words.tolist()])]
    expected = torch.zeros(3, length, SIZE, dtype=torch.float64)
    for place, token in itertools.product(range(length), range(SIZE)):
        expected[:, place, token] = likelihoods(chances, words[words[:, place] == token])
    expected /= expected.sum(-1, keepdim=True)
    found = messages.posterior(messages.scores(tokens, logits, free), chances.log()).exp()
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def all_words(length: int) -> Tensor:
    words = list(itertools.product(range(SIZE), repeat=length))
    return torch.tensor(words, dtype=torch.int64).view(SIZE**length, length)


def likelihoods(chances: Tensor, words: Tensor) -> Tensor:
    """(B,) sum over words (n, m) of the product of their tokens' chances (B, m, V)."""
    each = chances.gather(2, words.T.expand(len(chances), -1, -1))  # (B, m, n)
    return each.prod(1).sum(1)


def test_messages_underflow_nowhere() -> None:
    messages = messages_of(Unrolled.of(automaton(6)))
    logits = torch.zeros(1, 6, SIZE)
    logits[:, :, 1] = 1e5  # a fourth 1 is not allowed, and everything else is next to impossible
    free = torch.ones(1, 6, dtype=torch.bool)
    scores = messages.scores(torch.zeros(1, 6).long(), logits, free)
    for place in range(7):
        for found in (messages.before, messages.after):
            weights = found(scores, torch.tensor([place]))
            assert float(weights.amax()) == 0.0 and not bool(weights.isnan().any())


def test_a_constraint_of_one_token_has_no_moves() -> None:
    one = pc.families.automaton([{0: 1, 2: 1}, {}], {1}, 1, SIZE)
    unrolled = Unrolled.of(one)
    assert unrolled.num_states == (1, 1)
    plan = pc.compile_circuit(cut(unrolled, Place(0, 0, 1)).circuit)
    values = pc.forward(plan, {}, pc.Evidence(torch.arange(SIZE)[:, None]))
    assert values.tolist() == [0.0, -torch.inf, 0.0, -torch.inf]
    moved = pc.compile_circuit(at_the_end(one, 1).circuit)
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
        "constraint: to be carried over blocks and windows it has to decide tokens from left "
        f"to right, as an automaton does; found {circuit.root!r} at token 0"
    ):
        Unrolled.of(circuit)
    if root is circuit.root:
        with pytest.raises(DecodingError, match="at token 0"):
            branches(root, 0)


def test_inputs_of_several_units_are_no_automaton() -> None:
    both = pc.Input(0, num_units=2, num_categories=SIZE, supports=((0,), (1,)))
    circuit = pc.Circuit(pc.Sum(both, num_units=1, weighted=False))
    with pytest.raises(DecodingError, match=r"found Input\(0, units=2.* at token 0$"):
        Unrolled.of(circuit)


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
    with refused("constraint: expected a model without one, found a ConstrainedModel"):
        ConstrainedModel(ConstrainedModel(model, free(8, size)), free(8, size))
    with refused("constraint: expected a circuit without parameters, found 3"):
        ConstrainedModel(model, pc.families.hmm(8, 2, size))
    with refused(f"constraint: expected the model's {size} categories, found {size + 1}"):
        ConstrainedModel(model, free(8, size + 1))
    with refused(f"constraint: expected the model's {size} categories, found {size - 1}"):
        ConstrainedModel(model, free(8, size - 1))
    with refused("constraint: expected at most the window's 8 tokens; found 9"):
        ConstrainedModel(model, free(9, size), at_once=True)
    with refused(
        "constraint: expected at most the model's 16 tokens, so that all stay in view; found 20"
    ):
        ConstrainedModel(model, free(20, size))


def asked(
    model: Any, constraint: pc.Circuit, start: int = 8, *, at_once: bool = True, **options: Any
) -> Any:
    own = ConstrainedModel(model, constraint, at_once=at_once)
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
        assert asked(model, everything, start, at_once=False).length == 8
    with refused("constraint: expected 8 new tokens in view, found 7"):
        tokens, own = torch.full((1, 7), model.mask_id), ConstrainedModel(model, everything)
        own.distribution(model.denoise(tokens), tokens, torch.zeros(1).long())
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
    with pytest.raises(DecodingError, match="decide tokens from left to right"):
        asked(model, pc.Circuit(split), at_once=False)


def test_what_contradicts_the_constraint_or_the_denoiser_is_refused() -> None:
    model = model_of()
    size = model.num_categories
    ones = pc.families.automaton([{1: 0}], {0}, 16, size)
    own = ConstrainedModel(model, ones)
    tokens, start = torch.full((3, 16), model.mask_id), torch.tensor([0, 8, 0])
    tokens[1, 2] = 2
    output = own.denoise(tokens)
    refusal = r"^constraint: nothing that is allowed has the fixed tokens of row 1 \(of 1 such\)"
    with pytest.raises(DecodingError, match=refusal):
        own.distribution(output, tokens, start)
    tokens[1, 2] = 1
    assert own.distribution(output, tokens, start).batch_size == 3
    logits = output.logits.clone()
    logits[1:, 15, 1] = -torch.inf
    with pytest.raises(
        DecodingError, match=r"of row 2 \(of 1 such\) and elsewhere tokens to which"
    ):
        own.distribution(replace(output, logits=logits), tokens, start)


class Weighed(WrappedModel):
    """A model whose circuit has weights of its own for each window."""

    def distribution(self, *given: Any, **more: Any) -> Any:
        free = super().distribution(*given, **more)
        shared = free.parameters.by_name()
        own = {n: torch.stack((w, w.flip(-1))) for n, w in shared.items()}
        return replace(free, parameters=pc.prepare(free.plan, own))


def test_weights_of_windows_are_taken_from_the_distribution() -> None:
    model = Weighed(model_of(sharpness=3.0))
    everything = free(8, model.num_categories)
    tokens = torch.full((2, 16), model.mask_id)
    with torch.no_grad():
        expected = model.distribution(model.denoise(tokens), tokens, torch.tensor([8, 8]))
        found = asked(model, everything)
    torch.testing.assert_close(found.marginals(), expected.marginals())
    assert not torch.equal(found.marginals()[0], found.marginals()[1])


def test_weights_that_change_are_put_into_place_anew() -> None:
    model = model_of()
    own = ConstrainedModel(model, free(16, model.num_categories))
    tokens, start = torch.full((1, 16), model.mask_id), torch.tensor([4])
    with torch.no_grad():
        output = own.denoise(tokens)
        for sharpness in (1.0, 3.0):
            changed = {n: sharpness * w for n, w in model.circuit.log_parameters().items()}
            model.circuit.set_log_parameters({n: w.log_softmax(-1) for n, w in changed.items()})
            expected = model.distribution(output, tokens, start).marginals()
            for _ in range(2):
                found = own.distribution(output, tokens, start).marginals()
                torch.testing.assert_close(found, expected)


def test_few_windows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codd.decoding.constraints._MOST_KEPT", 2)
    model = model_of()
    counting = pc.families.automaton(MOVES, {0, 1}, 16, model.num_categories)
    own = ConstrainedModel(model, counting)
    tokens = torch.full((1, 16), model.mask_id)
    with torch.no_grad():
        output = own.denoise(tokens)
        first = own.distribution(output, tokens, torch.tensor([0])).marginals()
        for start in (*range(9), 0):
            found = own.distribution(output, tokens, torch.tensor([start])).marginals()
            assert len(own._restrictions) <= 2
    torch.testing.assert_close(found, first)


def test_windows_with_the_same_moves_share_their_slice() -> None:
    model = model_of()
    own = ConstrainedModel(model, free(16, model.num_categories))
    tokens = torch.full((9, 16), model.mask_id)
    found = own.distribution(own.denoise(tokens), tokens, torch.arange(9))
    assert isinstance(found, CoupledDistribution)


def test_a_denoiser_alone_may_be_constrained() -> None:
    model = UncoupledModel(model_of().denoiser, 8)
    size = model.num_categories
    only = pc.families.automaton([{2: 0, 3: 0}], {0}, 8, size)
    found = generate(model, rows([1]) * 20, 8, 2, constraint=only)
    assert set(found.completions.flatten().tolist()) == {2, 3}


@pytest.mark.parametrize("wrong", [0.0, 0.25, -0.5, 1.0, -1.5])
def test_what_is_no_single_weight_is_refused(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, found = pc.operators.multiply, []

    def multiply(*factors: Any) -> Any:
        both = whole(*factors)
        weights = {n: w.clone() for n, w in both.log_weights.items()}
        own = max(weights.values(), key=lambda w: float(w.max()))
        found.append(float(own.max()))
        own[own == own.max()] += wrong / 16
        return pc.WeightedCircuit(both.circuit, weights)

    monkeypatch.setattr(pc.operators, "multiply", multiply)
    circuits = pc.families.hmm(3, 2, SIZE), automaton(3)  # of 14 numbers
    if wrong == 0.0:
        OpenProduct.of(*circuits)
        assert found == [1 + 13 / 16]
    else:
        with pytest.raises(
            DecodingError,
            match=r"^constraint: parameter '.*' of the product has numbers that are not one",
        ):
            OpenProduct.of(*circuits)


def of_several_units() -> Slice:
    """Two tokens of which both are below two or neither is."""
    first, second = (
        pc.Input(i, num_units=2, num_categories=SIZE, supports=((0, 1), (2, 3))) for i in range(2)
    )
    return Slice(pc.Circuit(pc.Sum(pc.Product(first, second), num_units=1, weighted=False)))


@pytest.mark.parametrize(
    "part", [cut(Unrolled.of(automaton(6)), Place(0, 2, 5)), of_several_units()]
)
def test_potentials_of_units_are_carried_to_pairs_of_units(part: Slice) -> None:
    """The product under both factors' potentials is the product of both under their own."""
    length = part.circuit.num_variables
    left = pc.compile_circuit(pc.families.gated_hmm(length, 3, SIZE))
    product, right = OpenProduct.of(left.circuit, part.circuit), pc.compile_circuit(part.circuit)
    words = all_words(length)
    random = torch.Generator().manual_seed(0)

    def spread(*shape: int) -> Tensor:
        return torch.randn(len(words), *shape, generator=random, dtype=torch.float64)

    names = {name: node for node, name in left.circuit.node_names.items()}
    chosen = ["state_0", "state_1"]
    chosen += [n for n, node in names.items() if isinstance(node, pc.Input)][2:4]
    own = {name: spread(names[name].num_units) for name in chosen}
    its = part.latent(spread(4), spread(4))
    weights = pc.random_parameters(left, dtype=torch.float64)
    values = [
        pc.forward(plan, parameters, pc.Evidence(words, latent_log_potentials=latent))
        for plan, parameters, latent in (
            (product.plan, product.parameters(weights), product.latent(own, its)),
            (left, weights, own),
            (right, {}, its),
        )
    ]
    torch.testing.assert_close(values[0], values[1] + values[2], rtol=1e-9, atol=1e-9)
    assert bool(values[0].isfinite().any()) and bool(values[0].isneginf().any())
    with refused(
        "constraint: expected latent potentials of inputs and of sums over one token, found some "
        "of 'root'"
    ):
        product.latent({"suffix_0": torch.zeros(1, 3), "root": torch.zeros(1, 1), **own}, {})
