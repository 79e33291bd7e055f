"""Constraints multiplied into the circuit: every sample satisfies them, and figures are exact."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

import pcircuits as pc
from codd.decoding.automata import Unrolled
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import generate
from codd.decoding.selection import SELECTIONS
from codd.decoding.slices import at_the_end
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import DecodingError
from codd.model import CoupledModel
from codd.modulators.registry import make_modulator
from codd.vocabulary import CharacterVocabulary
from tests.support.decoding import assert_follows, rows

TEXTS = ("a", "b", "1", "\ufffd")
SIZE, WINDOW, LENGTH = len(TEXTS), 6, 5
PATTERN = r"(a|b)+1+a?"
ALLOWED = [
    world
    for world in itertools.product(range(SIZE), repeat=LENGTH)
    if re.fullmatch(PATTERN, "".join(TEXTS[token] for token in world))
]


def make_model(kind: str = "static", window: int = WINDOW) -> CoupledModel:
    config = TransformerConfig(SIZE, max_length=10, width=16, num_layers=1, num_heads=2)
    circuit = pc.CircuitModel(
        pc.families.hmm(length=window, num_states=3, num_categories=SIZE), seed=3
    )
    torch.manual_seed(1)
    denoiser = TransformerDenoiser(config).eval()
    modulator = make_modulator(kind, circuit.plan, denoiser.hidden_size, rank=2)
    with torch.no_grad():  # a new head changes nothing: it would not be seen
        for parameter in modulator.parameters():
            parameter += torch.randn_like(parameter)
    return CoupledModel(
        denoiser, circuit, modulator, CharacterVocabulary(TEXTS), block_length=min(window, LENGTH)
    )


@pytest.fixture(scope="module")
def model() -> CoupledModel:
    return make_model()


@pytest.fixture(scope="module")
def pattern() -> pc.Circuit:
    return pc.families.regular_expression(PATTERN, LENGTH, [*TEXTS[:-1], None])


WAYS: list[dict[str, Any]] = [
    {"sampler": "exact", "coupling": "factorised"},
    {"sampler": "exact", "coupling": "product"},
    {"sampler": "latent", "coupling": "copula", "temperature": 0.2},
    {"sampler": "any_order", "coupling": "copula", "temperature": 0.5, "top_p": 0.8},
    {"sampler": "map", "coupling": "copula"},
]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way['sampler']}-{way['coupling']}")
def test_all_of_a_thousand_samples_match(
    model: CoupledModel, pattern: pc.Circuit, selection: str, way: dict[str, Any]
) -> None:
    prompts = rows([0], [1, 2, 3, 0, 0, 0, 2]) * 500
    found = generate(
        model, prompts, LENGTH, 3, selection=selection, constraint=pattern, seed=1, **way
    )
    texts = ["".join(TEXTS[t] for t in row) for row in found.completions.tolist()]
    assert len(texts) == 1000
    assert all(re.fullmatch(PATTERN, text) for text in texts)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("kind", ["latent", "parametric"])
def test_all_of_a_thousand_samples_match_with_a_modulator(
    pattern: pc.Circuit, selection: str, kind: str
) -> None:
    prompts = rows([0], [1, 2, 3, 0, 0, 0, 2]) * 500
    found = generate(
        make_model(kind), prompts, LENGTH, 3, selection=selection, constraint=pattern, seed=1
    )
    texts = ["".join(TEXTS[t] for t in row) for row in found.completions.tolist()]
    assert len(texts) == 1000
    assert all(re.fullmatch(PATTERN, text) for text in texts)


@pytest.mark.parametrize("kind", ["static", "latent", "parametric"])
@pytest.mark.parametrize("coupling", ["factorised", "product", "local", "copula"])
def test_log_probability_equals_enumeration(pattern: pc.Circuit, coupling: str, kind: str) -> None:
    model = make_model(kind)
    worlds = torch.tensor(list(itertools.product(range(SIZE), repeat=LENGTH)))
    visible = torch.full((len(worlds), 1), 2)
    masked = torch.cat((visible, torch.full_like(worlds, model.mask_id)), dim=1)
    start = torch.zeros(len(worlds), dtype=torch.int64)
    whole = torch.cat((visible, worlds), dim=1)
    with torch.no_grad():
        output = model.denoise(masked)
        free = model.distribution(output, masked, start, coupling=coupling).log_prob(whole)
        bound = ConstrainedModel(model, pattern, at_once=True).distribution(
            output, masked, start, coupling=coupling
        )
        found = bound.log_prob(whole)
    allowed = torch.tensor([tuple(world) in set(ALLOWED) for world in worlds.tolist()])
    expected = torch.where(allowed, free - free[allowed].logsumexp(0), -torch.inf)
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", ["exact", "any_order"])
def test_one_step_follows_the_constrained_joint(
    model: CoupledModel, pattern: pc.Circuit, sampler: str
) -> None:
    worlds = torch.tensor(list(itertools.product(range(SIZE), repeat=LENGTH)))
    visible = torch.full((len(worlds), 1), 2)
    masked = torch.cat((visible, torch.full_like(worlds, model.mask_id)), dim=1)
    start = torch.zeros(len(worlds), dtype=torch.int64)
    with torch.no_grad():
        free = model.distribution(model.denoise(masked), masked, start)
        table = free.log_prob(torch.cat((visible, worlds), dim=1)).exp().double()
    table *= torch.tensor([tuple(world) in set(ALLOWED) for world in worlds.tolist()])
    found = generate(model, rows([2]) * 8_000, LENGTH, 1, sampler=sampler, constraint=pattern)
    expected = (table / table.sum()).view((SIZE,) * LENGTH).numpy()
    assert_follows(found.completions, expected)


def test_an_automaton_over_ids_is_a_constraint(model: CoupledModel) -> None:
    two = pc.families.automaton([{2: 1, None: 0}, {2: 2, None: 1}, {None: 2}], {2}, LENGTH, SIZE)
    found = generate(model, rows([0]) * 200, LENGTH, 5, selection="random", constraint=two)
    assert bool(((found.completions == 2).sum(dim=1) >= 2).all())


def test_what_stands_before_is_free(pattern: pc.Circuit) -> None:
    moved = pc.compile_circuit(at_the_end(pattern, WINDOW + 1).circuit)
    tokens = torch.tensor([[3, 0, 0, 1, 0, 2, 2], [3, 0, 2, 1, 0, 2, 2], [3, 0, 2, 1, 0, 3, 2]])
    values = pc.forward(moved, {}, pc.Evidence(tokens))
    assert values.tolist() == [0.0, -torch.inf, -torch.inf]


LONG_LENGTH, BLOCK = 6, 2
# The first is in one state before each block, the second in one of several.
LONG = ("(ab|1a|b1){2}(a1?|1b+)?b?", "(a|b1|1ab)*(ba)?")
LONG_TEXTS = {
    pattern: [
        text
        for world in itertools.product(TEXTS[:-1], repeat=LONG_LENGTH)
        if re.fullmatch(pattern, text := "".join(world))
    ]
    for pattern in LONG
}


def long_constraint(pattern: str) -> pc.Circuit:
    found = pc.families.regular_expression(pattern, LONG_LENGTH, [*TEXTS[:-1], None])
    states = Unrolled.of(found).num_states[BLOCK:-1:BLOCK]
    assert [count > 1 for count in states] == [pattern != LONG[0]] * 2
    return found


@pytest.mark.parametrize(
    ("pattern", "selection"), [*((LONG[0], each) for each in SELECTIONS), (LONG[1], "random")]
)
@pytest.mark.parametrize("kind", ["static", "latent", "parametric"])
def test_a_constraint_is_carried_from_block_to_block(
    pattern: str, selection: str, kind: str
) -> None:
    model, constraint, known = make_model(kind), long_constraint(pattern), LONG_TEXTS[pattern]
    for coupling in ("factorised", "copula"):
        found = generate(
            model,
            rows([0], [1, 2]) * 500,
            LONG_LENGTH,
            tokens_per_step=1,
            block_length=BLOCK,
            selection=selection,
            coupling=coupling,
            constraint=constraint,
        )
        texts = ["".join(TEXTS[t] for t in row) for row in found.completions.tolist()]
        assert len(texts) == 1000 and set(texts) <= set(known)
        assert len(set(texts)) > len(known) / 2


@pytest.mark.parametrize("number", range(LONG_LENGTH // BLOCK))
@pytest.mark.parametrize("kind", ["static", "latent", "parametric"])
@pytest.mark.parametrize(
    ("pattern", "coupling"),
    [(LONG[0], "copula"), (LONG[1], "copula"), (LONG[1], "factorised")],
)
def test_a_block_is_the_free_joint_of_what_can_be_completed(
    pattern: str, coupling: str, kind: str, number: int
) -> None:
    model, constraint = make_model(kind), long_constraint(pattern)
    first = number * BLOCK
    prefixes = sorted({text[:first] for text in LONG_TEXTS[pattern]})
    worlds = list(itertools.product(range(SIZE), repeat=BLOCK))
    tokens = torch.tensor(
        [
            [2] * (WINDOW - BLOCK) + [TEXTS.index(c) for c in prefix] + list(world)
            for prefix in prefixes
            for world in worlds
        ]
    )
    masked = tokens.clone()
    masked[:, -BLOCK:] = model.mask_id
    start = torch.full((len(tokens),), tokens.shape[1] - WINDOW)
    with torch.no_grad():
        output = model.denoise(masked)
        own = ConstrainedModel(
            model,
            constraint,
        ).region(first, first + BLOCK)
        free, found = (
            each.distribution(output, masked, start, coupling=coupling).log_prob(
                tokens[:, -WINDOW:]
            )
            for each in (model, own)
        )
    possible = {text[: first + BLOCK] for text in LONG_TEXTS[pattern]}
    allowed = torch.tensor(
        [p + "".join(TEXTS[t] for t in w) in possible for p in prefixes for w in worlds]
    )
    table = free.masked_fill(~allowed, -torch.inf).view(len(prefixes), -1)
    expected = table - table.logsumexp(dim=1, keepdim=True)
    found = found.view_as(expected).to(expected)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert 0 < int(allowed.sum()) < len(allowed)


def test_more_tokens_than_the_window_are_decoded_in_blocks(model: CoupledModel) -> None:
    pattern = "(a|b1)*1"
    constraint = pc.families.regular_expression(pattern, 2 * LENGTH, [*TEXTS[:-1], None])
    assert model.window < 2 * LENGTH
    found = generate(model, rows([]) * 50, 2 * LENGTH, 4, constraint=constraint)
    texts = ["".join(TEXTS[t] for t in row) for row in found.completions.tolist()]
    assert all(re.fullmatch(pattern, text) for text in texts) and len(set(texts)) > 5
    assert max(found.fixed_at[:, :LENGTH].flatten()) < min(found.fixed_at[:, LENGTH:].flatten())


def test_patterns_are_texts_for_a_model_with_a_vocabulary(model: CoupledModel) -> None:
    texts = model.generate(["a", "b1"], new_tokens=LENGTH, steps=2, constraint=PATTERN, seed=4)
    assert all(re.fullmatch(f"(a|b1){PATTERN}", text) for text in texts)
    ended = model.generate_tokens(
        ["a"] * 40, new_tokens=LENGTH, steps=5, constraint="a*b", eos_token_id=2, seed=4
    )
    endings = {model.vocabulary.decode(row[1:]) for row in ended.tokens}
    assert len(endings) > 1 and all(re.fullmatch("a*b1?", text) for text in endings)
    with pytest.raises(DecodingError, match=r"constraint: no text of 5 tokens: .*a\{9\}"):
        model.generate("a", new_tokens=LENGTH, steps=2, constraint="a{9}")


def test_constraints_that_decide_in_another_order_have_no_state(model: CoupledModel) -> None:
    parts = [pc.Input(i, num_units=1, num_categories=SIZE, supports=((0, 1),)) for i in range(4)]
    tree = pc.Circuit(pc.Product(pc.Product(parts[0], parts[1]), pc.Product(parts[2], parts[3])))
    with pytest.raises(DecodingError, match="decide tokens from left to right"):
        generate(model, rows([0]), 4, 4, block_length=2, constraint=tree)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 4}, "expected one over the 4 new tokens, found 5"),
    ],
)
def test_constraints_that_do_not_fit_are_refused(
    model: CoupledModel, pattern: pc.Circuit, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DecodingError, match=message):
        generate(
            model,
            rows([0]),
            **{"new_tokens": LENGTH, **options},
            tokens_per_step=1,
            constraint=pattern,
        )
