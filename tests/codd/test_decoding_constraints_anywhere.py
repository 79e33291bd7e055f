"""Constraints on windows anywhere among the new tokens: laws by enumeration, a thousand samples."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.distribution import FactorisedDistribution
from codd.coupling.rowwise import RowwiseDistribution
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import generate, infill
from codd.decoding.selection import SELECTIONS
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError
from codd.model import CoupledModel
from codd.modulators.registry import make_modulator
from tests.codd.test_decoding_constraints import SIZE, TEXTS, make_model
from tests.support.decoding import assert_follows, rows

WINDOW, LENGTH = 3, 7
PATTERN = r"(ab|1|b1a)*(a1?|b{2,})?"
MASK = SIZE


def constraint_of(pattern: str = PATTERN, length: int = LENGTH) -> pc.Circuit:
    return pc.families.regular_expression(pattern, length, [*TEXTS[:-1], None])


MEMBERS = (
    (pc.families.hmm, "parametric"),
    (pc.families.hmm, "static"),
    (pc.families.monarch_hmm, "latent"),
)


def several() -> CoupledModel:
    """Three circuits, of which the mask ratio chooses one, each with its own modulator."""
    one = make_model("static", WINDOW)
    pairs = []
    for seed, (family, kind) in enumerate(MEMBERS):
        circuit = pc.CircuitModel(family(WINDOW, 4, SIZE), seed=seed)
        torch.manual_seed(seed)
        modulator = make_modulator(kind, circuit.plan, one.denoiser.hidden_size, rank=2)
        for weights in modulator.parameters():
            torch.nn.init.normal_(weights, std=0.5)
        pairs.append((circuit, modulator))
    return CoupledModel(
        one.denoiser,
        *pairs[0],
        one.vocabulary,
        alternatives=pairs[1:],
        choice=codd.CircuitChoice("mask_ratio", edges=(0.5, 0.9)),
        block_length=WINDOW,
    ).eval()


def model_of(kind: str) -> CoupledModel:
    found = several() if kind == "several" else make_model(kind, WINDOW)
    return found.double()


# Two tokens before the new ones; "." is masked, "-" is padding.
CANVAS = {
    "masked on both sides": ("1a" + "..a....", 4),
    "in the middle, all masked": ("bb" + ".......", 4),
    "a hole within": ("ab" + "a..1..b", 4),
    "fixed on both sides": ("1a" + "ab...1.", 4),
    "reaches into the prompt": ("-a" + "..1....", 1),
    "begins with the padding": ("--" + ".......", 0),
    "the last": ("11" + "...1...", 6),
    "the first new tokens": ("1b" + ".....b1", 2),
    "one of three": ("ba" + ".1.ba..", 4),
}


def read(text: str) -> list[int]:
    return [MASK if c in ".-" else TEXTS.index(c) for c in text]


def canvas() -> tuple[Tensor, Tensor, Tensor]:
    texts = [text for text, _ in CANVAS.values()]
    tokens = torch.tensor([read(text) for text in texts])
    valid = torch.tensor([[c != "-" for c in text] for text in texts])
    return tokens, torch.tensor([start for _, start in CANVAS.values()]), valid


@torch.no_grad()
def test_positions_are_chosen_by_what_the_constraint_leaves_of_each_token() -> None:
    model = model_of("static")
    tokens, _, valid = canvas()
    log_probs = model.denoise(tokens, valid).logits[:, 2:].log_softmax(-1)
    tokens = tokens[:, 2:]
    found = ConstrainedModel(model, constraint_of()).alone(log_probs, tokens).exp()
    worlds = torch.tensor(list(itertools.product(range(SIZE - 1), repeat=LENGTH)))
    texts = ["".join(TEXTS[token] for token in world) for world in worlds.tolist()]
    worlds = worlds[[re.fullmatch(PATTERN, text) is not None for text in texts]]
    each = log_probs[:, torch.arange(LENGTH), worlds]  # (B, worlds, N)
    masked = (tokens == MASK)[:, None]
    fits = ((worlds == tokens[:, None]) | masked).all(2)
    chances = each.masked_fill(~masked, 0.0).sum(2).masked_fill(~fits, -torch.inf).softmax(1)
    for token in range(SIZE):
        expected = (chances[..., None] * (worlds == token)).sum(1)
        torch.testing.assert_close(found[..., token][masked[:, 0]], expected[masked[:, 0]])


def test_what_the_constraint_decides_is_fixed_at_once() -> None:
    texts = ["1ababbb", "babb1ab"]
    found = generate(
        make_model("static", WINDOW),
        rows([0]) * 20,
        LENGTH,
        mode="full",
        quota="threshold=0.99",
        constraint=constraint_of("|".join(texts)),
    )
    drawn = {"".join(TEXTS[token] for token in row) for row in found.completions.tolist()}
    # First what both have in common, then one that tells them apart, then the rest.
    assert drawn == set(texts) and found.denoiser_calls == 3


def test_whoever_wraps_a_constrained_model_asks_it_too() -> None:
    model = make_model("static", WINDOW)
    own = WrappedModel(ConstrainedModel(model, constraint_of("(ab1)*[ab]{2}", 8)))
    prompts = rows([0], [1, 2]) * 20
    for options in ({"mode": "full"}, {"block_length": 2}):
        found = generate(own, prompts, 8, 4, **options)
        texts = ["".join(TEXTS[token] for token in row) for row in found.completions.tolist()]
        assert all(re.fullmatch("(ab1)*[ab]{2}", text) for text in texts)
    log_probs, tokens = torch.zeros(1, 8, SIZE), torch.full((1, 8), MASK)
    assert bool((own.alone(log_probs, tokens)[0, 2, :2] == -torch.inf).all())
    plain = WrappedModel(model)
    assert plain.alone(log_probs, tokens) is log_probs and plain.region(0, 4) is plain
    at_once = ConstrainedModel(model, constraint_of("[ab]*", WINDOW), at_once=True)
    assert at_once.alone(log_probs, tokens) is log_probs  # its windows say it themselves


def test_padding_among_the_new_tokens_is_refused() -> None:
    own = ConstrainedModel(make_model("static", WINDOW), constraint_of())
    sequences = [torch.full((LENGTH,), MASK), torch.full((LENGTH - 1,), MASK)]
    with pytest.raises(DecodingError, match="expected no padding among the new tokens"):
        infill(own, sequences, 2)
    found = infill(own, sequences[:1] * 20, 2)
    texts = ["".join(TEXTS[token] for token in row) for row in found.completions.tolist()]
    assert all(re.fullmatch(PATTERN, text) for text in texts)


def exactly(distribution: Any) -> Any:
    """The same with its potentials in float64."""
    if isinstance(distribution, RowwiseDistribution):
        return replace(distribution, parts=tuple(map(exactly, distribution.parts)))
    name = "log_probs" if isinstance(distribution, FactorisedDistribution) else "log_potentials"
    return replace(distribution, **{name: getattr(distribution, name).double()})


def of_all_worlds(distribution: Any) -> dict[tuple[int, ...], Tensor]:
    """World of a window -> (B,) its log-probability."""
    worlds = itertools.product(range(SIZE), repeat=WINDOW)
    own, count = exactly(distribution), distribution.batch_size
    return {world: own.log_prob(torch.tensor([world] * count)) for world in worlds}


def by_enumeration(
    free: dict[tuple[int, ...], Tensor], output: DenoiserOutput, row: int, text: str, start: int
) -> dict[tuple[int, ...], float]:
    """World of one row's window -> its probability, summed over all worlds that match."""
    log_probs = output.logits[row].log_softmax(-1).tolist()
    window = range(start, start + WINDOW)
    outside = [i for i, c in enumerate(text) if c == "." and i not in window]
    found: dict[tuple[int, ...], float] = {}
    for world, log_prob in free.items():
        if any(text[i] == "-" and t for i, t in zip(window, world, strict=True)):
            continue  # padding is no token: any one stands for it
        found[world] = 0.0
        for rest in itertools.product(range(SIZE - 1), repeat=len(outside)):
            filled = dict(zip(window, world, strict=True)) | dict(zip(outside, rest, strict=True))
            whole = [filled[i] if c == "." else None for i, c in enumerate(text)]
            letters = [c if t is None else TEXTS[t] for c, t in zip(text, whole, strict=True)]
            if re.fullmatch(PATTERN, "".join(letters[2:])):
                score = sum(log_probs[i][t] for i, t in zip(outside, rest, strict=True))
                found[world] += math.exp(float(log_prob[row]) + score)
    total = sum(found.values())
    return {world: probability / total for world, probability in found.items()}


@pytest.mark.parametrize("kind", ["static", "latent", "parametric", "several"])
@pytest.mark.parametrize("coupling", ["factorised", "product", "local", "copula"])
@torch.no_grad()
def test_a_window_is_the_joint_with_all_that_is_outside(coupling: str, kind: str) -> None:
    model = model_of(kind)
    tokens, start, valid = canvas()
    output = model.denoise(tokens, valid)
    free, bound = (
        each.distribution(output, tokens, start, coupling=coupling, valid=valid)
        for each in (model, ConstrainedModel(model, constraint_of()))
    )
    known, found = of_all_worlds(free), of_all_worlds(bound)
    for row, (what, (text, first)) in enumerate(CANVAS.items()):
        expected = by_enumeration(known, output, row, text, first)
        assert sum(p > 0 for p in expected.values()) > 0
        for world, probability in expected.items():
            assert float(found[world][row].exp()) == pytest.approx(probability, abs=1e-9), what
    assert torch.equal(bound.observed, free.observed)
    if kind == "several" and coupling != "factorised":
        assert [len(own) for own in free.rows] == [1, 3, 5]


WAYS: list[dict[str, Any]] = [
    {"sampler": "exact", "coupling": "local", "mask_ratio_limit": 0.7},
    {"sampler": "latent", "coupling": "copula", "temperature": 0.2},
    {"sampler": "any_order", "coupling": "copula", "temperature": 0.5, "top_p": 0.8},
    {"sampler": "map", "coupling": "product"},
]


def assert_all_match(model: CoupledModel, **options: Any) -> set[str]:
    """A thousand texts in mode "full"; those that differ."""
    prompts = rows([0], [1, 2, 0, 2, 2]) * 500
    found = generate(
        model, prompts, LENGTH, mode="full", constraint=constraint_of(), seed=1, **options
    )
    texts = ["".join(TEXTS[token] for token in row) for row in found.completions.tolist()]
    assert len(texts) == 1000
    assert all(re.fullmatch(PATTERN, text) for text in texts)
    return set(texts)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way['sampler']}-{way['coupling']}")
def test_all_of_a_thousand_samples_match(selection: str, way: dict[str, Any]) -> None:
    found = assert_all_match(make_model("static", WINDOW), steps=4, selection=selection, **way)
    if way["sampler"] == "exact":
        assert len(found) > 20


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("latent", {"steps": 3, "stochastic": True}),
        ("parametric", {"quota": "threshold=0.5"}),
        ("static", {"quota": "klass=0.1,0.4", "coupling": "factorised"}),
        ("static", {"quota": "entropy_bound=1"}),
        ("latent", {"quota": "total_correlation=0.5"}),
        ("static", {"steps": 5, "revision": "remdm_cap=0.3"}),
        ("static", {"steps": 5, "revision": "remdm_conf", "log_probs": True}),
        ("several", {"steps": 3, "coupling": "product", "guidance": 0.5}),
        ("several", {"tokens_per_step": 2, "sampler": "map", "coupling": "local"}),
    ],
    ids=str,
)
def test_all_of_a_thousand_samples_match_whatever_the_pace(
    kind: str, options: dict[str, Any]
) -> None:
    model = several() if kind == "several" else make_model(kind, WINDOW)
    found = assert_all_match(model, **options)
    assert len(found) > 20 or options.get("sampler") == "map"


def test_one_step_in_one_window_follows_the_joint_of_all_that_match() -> None:
    """What is drawn is what the law of the window says, through the whole of decoding."""
    model = make_model("static", LENGTH)
    worlds = torch.tensor(list(itertools.product(range(SIZE - 1), repeat=LENGTH)))
    texts = ["".join(TEXTS[token] for token in world) for world in worlds.tolist()]
    allowed = torch.tensor([re.fullmatch(PATTERN, text) is not None for text in texts])
    masked = torch.full((1, LENGTH + 1), MASK)
    masked[:, 0] = 2
    with torch.no_grad():
        free = model.distribution(model.denoise(masked), masked, torch.tensor([1]))
        table = torch.cat([free.log_prob(world[None]).exp() for world in worlds]).double()
    table = (table * allowed / (table * allowed).sum()).view((SIZE - 1,) * LENGTH)
    found = generate(model, rows([2]) * 8_000, LENGTH, 1, mode="full", constraint=constraint_of())
    assert_follows(found.completions, table.numpy())
