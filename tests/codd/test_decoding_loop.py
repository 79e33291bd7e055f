"""The decoding loop against explicit joints, and its bookkeeping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from codd.decoding.loop import Generation, StepRecord, generate, infill, stream
from codd.decoding.selection import SELECTIONS
from codd.errors import DecodingError
from tests.support.decoding import (
    Call,
    CountingModel,
    MixtureModel,
    assert_follows,
    chi_square,
    conditional,
    empty_prompts,
    joint_table,
    mixture_model,
    rows,
)

COUNT = 8_000
LENGTH, SIZE = 4, 3


@pytest.fixture(scope="module")
def model() -> MixtureModel:
    return mixture_model(LENGTH, SIZE, window=LENGTH, block=LENGTH, seed=2)


def decode(model: MixtureModel, **options: Any) -> Generation:
    return generate(model, empty_prompts(COUNT), LENGTH, **options)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("mode", ["block", "full"])
def test_one_token_a_step_factorised_reproduces_the_joint(
    model: MixtureModel, selection: str, mode: str
) -> None:
    found = decode(model, steps=LENGTH, selection=selection, coupling="factorised", mode=mode)
    assert found.denoiser_calls == LENGTH
    assert_follows(found.completions, joint_table(model))


@pytest.mark.parametrize("sampler", ["exact", "latent", "any_order"])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("mode", ["block", "full"])
def test_coupled_steps_reproduce_the_joint(
    model: MixtureModel, sampler: str, steps: int, mode: str
) -> None:
    found = decode(model, steps=steps, sampler=sampler, coupling="copula", mode=mode)
    assert_follows(found.completions, joint_table(model))


def test_one_factorised_step_is_the_product_of_marginals_and_not_the_joint(
    model: MixtureModel,
) -> None:
    joint = joint_table(model)
    found = decode(model, steps=1, coupling="factorised")
    laws = [conditional(joint, {}, i) for i in range(LENGTH)]
    assert_follows(found.completions, np.einsum("a,b,c,d->abcd", *laws))
    assert chi_square(found.completions, joint) < 1e-12


def test_blocks_from_left_to_right_reproduce_the_joint() -> None:
    model = mixture_model(4, 3, window=2, block=2, seed=4)
    found = generate(model, empty_prompts(COUNT), 4, 2, coupling="copula")
    assert bool((found.fixed_at == torch.tensor([0, 0, 1, 1])).all())
    # The first block is drawn before the second is looked at, so both steps are exact.
    assert_follows(found.completions, joint_table(model))


def test_block_window_reaches_back_over_visible_tokens() -> None:
    model = mixture_model(5, 2, window=3, block=2, seed=5)
    prompts = [torch.tensor([1])] * COUNT
    found = generate(model, prompts, 4, 2, coupling="copula")
    expected = joint_table(model)[1]
    assert_follows(found.completions, expected / expected.sum())


@pytest.mark.parametrize("window", [2, 3])
def test_windows_drawn_one_after_the_other_are_exact(window: int) -> None:
    """Later windows see what earlier ones fixed; the fake couples them to everything visible."""
    model = mixture_model(5, 2, window=window, block=window, seed=6)
    found = generate(model, empty_prompts(COUNT), 5, 1, mode="full", coupling="copula")
    assert found.denoiser_calls == 1
    assert_follows(found.completions, joint_table(model))


def test_infilling_reproduces_the_conditional_joint(model: MixtureModel) -> None:
    sequences = rows([model.mask_id, 0, model.mask_id, model.mask_id]) * COUNT
    found = infill(model, sequences, 2, coupling="copula")
    filled = torch.stack(found.tokens)
    expected = joint_table(model)[:, 0]
    assert bool((filled[:, 1] == 0).all())
    assert bool((found.fixed_at[:, 1] == -1).all())
    assert_follows(filled[:, [0, 2, 3]], expected / expected.sum())


@pytest.mark.parametrize("limit", [0.0, 0.5, 0.51, 1.0, None])
def test_mask_ratio_limit_chooses_the_coupling_by_row(
    model: MixtureModel, limit: float | None
) -> None:
    model.calls.clear()
    m = model.mask_id
    sequences = rows([m, m, m, m], [0, m, 1, m], [0, 0, m, 0])
    infill(model, sequences, 1, coupling="copula", mask_ratio_limit=limit)
    ratios = [1.0, 0.5, 0.25]
    coupled = sum(limit is None or ratio < limit for ratio in ratios)
    expected = [Call(coupled, "copula"), Call(3 - coupled, "factorised")]
    assert model.calls == [call for call in expected if call.rows]


def test_mask_ratio_limit_counts_in_the_block(model: MixtureModel) -> None:
    model.calls.clear()
    generate(model, empty_prompts(2), 4, 4, coupling="product", mask_ratio_limit=0.6)
    used = [call.coupling for call in model.calls]
    assert used == ["factorised", "factorised", "product", "product"]


def test_same_seed_same_tokens(model: MixtureModel) -> None:
    first, again, other = (
        generate(model, empty_prompts(50), 4, 2, selection="random", seed=seed)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.completions, again.completions)
    assert not torch.equal(first.completions, other.completions)


def test_global_generator_is_left_alone(model: MixtureModel) -> None:
    before = torch.get_rng_state()
    generate(model, empty_prompts(5), 4, 2, selection="random", sampler="any_order")
    assert torch.equal(torch.get_rng_state(), before)


def test_history_and_callback_tell_every_step(model: MixtureModel) -> None:
    told: list[StepRecord] = []
    found = generate(
        model, empty_prompts(7), 4, tokens_per_step=3, callback=told.append, record_history=True
    )
    assert [record.step for record in told] == [0, 1]
    assert all(record.num_steps == 2 for record in told)
    assert [record.fixed.sum(dim=1).tolist() for record in told] == [[3] * 7, [1] * 7]
    assert torch.equal(told[-1].tokens, found.completions)
    for told_record, kept in zip(told, found.history, strict=True):
        assert told_record is kept
        assert torch.equal(kept.fixed, found.fixed_at == kept.step)
        assert torch.equal(kept.tokens != model.mask_id, found.fixed_at <= kept.step)
    assert found.denoiser_calls == 2
    assert found.denoiser_seconds > 0 and found.coupling_seconds > 0
    assert generate(model, empty_prompts(1), 4, 1).history == ()


COUNTING = {"num_categories": 10, "max_length": 8, "window": 6, "block": 4}


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("sampler", ["exact", "latent", "any_order"])
def test_ragged_prompts_continue_each_by_itself(mode: str, sampler: str) -> None:
    model = CountingModel(**COUNTING)
    prompts = rows([3], [7, 8, 9], [1, 2], [5, 6, 7, 8, 9, 0, 1])
    found = generate(model, prompts, 4, 2, mode=mode, sampler=sampler)
    assert [row.tolist() for row in found.tokens] == [
        [3, 4, 5, 6, 7],
        [7, 8, 9, 0, 1, 2, 3],
        [1, 2, 3, 4, 5, 6],
        [5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5],
    ]


def test_context_slides_and_no_call_is_longer_than_the_model() -> None:
    model = CountingModel(**COUNTING)
    found = generate(model, rows([4], list(range(10)) * 3), 16, 8)
    assert found.completions.tolist() == [
        [(5 + i) % 10 for i in range(16)],
        [i % 10 for i in range(16)],
    ]
    assert model.lengths == [8] * 8


def test_short_prompts_alone_are_padded_to_the_window() -> None:
    model = CountingModel(**COUNTING)
    found = generate(model, rows([4]), 4, 4)
    assert found.tokens[0].tolist() == [4, 5, 6, 7, 8]
    assert set(model.lengths) == {6}


def test_ragged_infilling_returns_rows_without_padding() -> None:
    model = CountingModel(**COUNTING)
    found = infill(model, rows([3, 10, 10, 6], [1, 10, 3, 4, 10, 10, 10]), 2)
    assert [row.tolist() for row in found.tokens] == [[3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]]


def test_steps_are_spread_over_blocks() -> None:
    model = CountingModel(**COUNTING)
    found = generate(model, rows([0]), 8, 5)
    assert found.fixed_at.tolist() == [[0, 0, 1, 2, 3, 3, 4, 4]]


def test_prompts_are_not_changed() -> None:
    model, prompts = CountingModel(**COUNTING), rows([0], [1, 2])
    generate(model, prompts, 4, 1)
    assert [p.tolist() for p in prompts] == [[0], [1, 2]]


def test_fewer_tokens_than_a_block_are_one_block() -> None:
    model = CountingModel(**COUNTING)
    assert model.block > 2
    shorter, whole = (
        generate(model, rows([0]), 2, 1, block_length=length, seed=0) for length in (None, 2)
    )
    assert torch.equal(shorter.completions, whole.completions)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"steps": 0}, "steps: expected 1 .* to 4 .*found 0"),
    ({"steps": -2}, "steps: expected 1 .* found -2"),
    ({"steps": 5}, "steps: expected 1 .* to 4 .*found 5"),
    ({"steps": 1, "block_length": 2}, "steps: expected 2 .one a block. to 4"),
    ({"steps": None}, "exactly one of them, found None and None"),
    ({"tokens_per_step": 2}, "exactly one of them, found 2 and 2"),
    ({"steps": None, "tokens_per_step": 5}, "tokens_per_step: expected 1 to 4, found 5"),
    ({"steps": None, "tokens_per_step": 0}, "tokens_per_step: expected 1 to 4, found 0"),
    ({"new_tokens": 0}, "new_tokens: expected at least 1, found 0"),
    ({"new_tokens": 6}, "block_length: expected a divisor of new_tokens = 6, found 4"),
    ({"block_length": 0}, "block_length: expected at least 1"),
    ({"mode": "full", "block_length": 2}, "block_length: expected none in mode 'full', found 2"),
    ({"mode": "ful"}, "mode: expected one of 'block', 'full', found 'ful'"),
    ({"selection": "best"}, "selection: expected one of 'random', 'low_confidence', .*'best'"),
    ({"sampler": "joint"}, "sampler: expected one of 'exact', 'latent', 'any_order', 'map', found"),
    ({"coupling": "none"}, "coupling: expected one of 'factorised', 'product', .* found 'none'"),
    ({"temperature": -0.1}, "temperature: expected a finite number of at least 0, found -0.1"),
    ({"temperature": float("nan")}, "temperature: expected a finite"),
    ({"temperature": 0.5}, "temperature: expected 1 with sampler 'exact'"),
    ({"sampler": "any_order", "top_p": 0.0}, "top_p: expected 0 < top_p <= 1, found 0.0"),
    ({"top_p": 0.9}, "top_p: expected none with sampler 'exact'"),
    ({"mask_ratio_limit": 1.5}, "mask_ratio_limit: expected 0 to 1, found 1.5"),
    ({"mask_ratio_limit": -0.5}, "mask_ratio_limit: expected 0 to 1, found -0.5"),
    ({"prompts": []}, "prompts: expected at least one, found none"),
    ({"prompts": rows([0], [3])}, r"prompts\[1\]: expected ids 0 to 2, found 3"),
    ({"prompts": rows([-1])}, r"prompts\[0\]: expected ids 0 to 2, found -1"),
    ({"prompts": [torch.zeros(2)]}, r"prompts\[0\]: expected int64 of one dimension"),
    ({"prompts": [torch.zeros(1, 2, dtype=torch.int64)]}, "expected int64 of one dimension"),
    (
        {"prompts": [*rows([0]), torch.zeros(2, dtype=torch.int64, device="meta")]},
        r"prompts\[1\]: expected device cpu, found meta",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_are_refused_before_any_call(changes: dict[str, Any], message: str) -> None:
    model = CountingModel(num_categories=3, max_length=8, window=4, block=4)
    arguments: dict[str, Any] = {"prompts": rows([0]), "new_tokens": 4, "steps": 2, **changes}
    with pytest.raises(DecodingError, match=message):
        generate(model, **arguments)
    assert model.lengths == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 6, "block_length": 6}, "block_length: .* at most the model's window, 4"),
        ({"new_tokens": 9, "mode": "full"}, "new_tokens: .* model's longest sequence, 8, found 9"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(options: dict[str, Any], message: str) -> None:
    model = CountingModel(num_categories=3, max_length=8, window=4, block=4)
    with pytest.raises(DecodingError, match=message):
        generate(model, rows([0]), steps=3, **options)


@pytest.mark.parametrize(
    ("sequences", "steps", "message"),
    [
        ([], 1, "sequences: expected at least one"),
        (rows([0, 4]), 1, r"sequences\[0\]: expected ids 0 to 2 or the mask id 3, found 4"),
        (rows([3] * 9), 1, r"sequences\[0\]: expected at most 8 tokens, found 9"),
        (rows([0, 3, 3]), 3, "steps: expected 1 to 2, the most masked tokens of a sequence"),
        (rows([0, 3, 3]), 0, "steps: expected 1 to 2"),
    ],
)
def test_bad_infilling_is_refused(sequences: Any, steps: int, message: str) -> None:
    model = CountingModel(num_categories=3, max_length=8, window=4, block=4)
    with pytest.raises(DecodingError, match=message):
        infill(model, sequences, steps)


def test_a_stream_yields_what_a_callback_is_told_and_returns_the_whole(model: MixtureModel) -> None:
    told: list[StepRecord] = []
    whole = generate(
        model, empty_prompts(7), 4, tokens_per_step=3, callback=told.append, log_probs=True
    )
    steps = stream(
        model,
        empty_prompts(7),
        gen_length=4,
        tokens_per_step=3,
        log_probs=True,
        record_history=True,
    )
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            found = end.value
            break
    assert [record.tokens.tolist() for record in seen] == [r.tokens.tolist() for r in told]
    assert found.completions.tolist() == whole.completions.tolist()
    assert found.history == tuple(seen) and seen[0].num_steps == 2
    first, last = (record.log_probs for record in seen)
    assert first is not None and last is not None and found.log_probs is not None
    torch.testing.assert_close((first + last).to(found.log_probs.dtype), found.log_probs)


def test_a_stream_checks_at_once_and_computes_only_what_is_asked_for(model: MixtureModel) -> None:
    with pytest.raises(DecodingError, match="steps, tokens_per_step"):
        stream(model, empty_prompts(1), new_tokens=4)
    model.calls.clear()
    steps = stream(model, empty_prompts(1), new_tokens=4, steps=4)
    assert not model.calls
    next(steps)
    assert len(model.calls) == 1


def test_stochastic_steps_fix_each_token_at_a_uniform_step() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(
        model, empty_prompts(3000), 4, 4, stochastic=True, selection="random", coupling="copula"
    )
    assert_follows(found.completions, joint_table(model))
    shares = torch.bincount(found.fixed_at.flatten(), minlength=4).double() / found.fixed_at.numel()
    assert float((shares - 0.25).abs().max()) < 4 * (0.25 * 0.75 / 12_000) ** 0.5
    together = (found.fixed_at == 0).sum(dim=1)
    assert sorted(set(together.tolist())) == [0, 1, 2, 3, 4]
    with pytest.raises(DecodingError, match="stochastic: expected `steps`"):
        generate(model, empty_prompts(1), 4, tokens_per_step=1, stochastic=True)


@pytest.mark.parametrize(
    "options",
    [
        {"quota": "threshold=0.6"},
        {"tokens_per_step": 1, "remasking": "random"},
        {"num_steps": 3, "revision": "remdm_cap=0.5"},
        {"steps": 2, "guidance": 0.5, "log_probs": True},
        {"steps": 3, "stochastic": True},
    ],
    ids=str,
)
def test_infilling_takes_the_options_of_generation(
    model: MixtureModel, options: dict[str, Any]
) -> None:
    told: list[StepRecord] = []
    sequences = rows([3, 1, 3, 3], [0, 3, 3, 3])
    found = infill(model, sequences, callback=told.append, record_history=True, **options)
    assert bool((found.completions < 3).all()) and found.history == tuple(told)
    assert [int(row[at]) for row, at in zip(found.tokens, (1, 0), strict=True)] == [1, 0]
    assert found.fixed_at[0, 1] == found.fixed_at[1, 0] == -1
    assert (found.log_probs is not None) == ("log_probs" in options)


def test_infilling_refuses_what_is_about_prompts(model: MixtureModel) -> None:
    with pytest.raises(DecodingError, match="block_length: expected none when filling in, found 2"):
        infill(model, rows([3, 1, 3, 3]), 1, block_length=2)
