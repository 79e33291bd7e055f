"""Ends of texts, revision, guidance, log-probabilities, and other spellings of arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from codd.decoding.endings import text_lengths
from codd.decoding.loop import generate
from codd.decoding.revision import (
    CappedRevision,
    ConfidentRevision,
    LoopRevision,
    RescaledRevision,
    largest_probability,
    revision_from_text,
    shared_out,
    take_back,
)
from codd.decoding.schedules import LoopSchedule
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError
from tests.support.decoding import (
    CountingModel,
    assert_follows,
    empty_prompts,
    joint_table,
    mixture_model,
    rows,
)

COUNTING = {"num_categories": 10, "max_length": 8, "window": 6, "block": 4}
MASK = 10


def test_texts_end_at_the_first_end_before_which_nothing_is_masked() -> None:
    tokens = torch.tensor(
        [[1, 9, 2, 9], [1, MASK, 9, 3], [1, 2, 3, 4], [5, 6, 7, 9], [5, 6, MASK, 9]]
    )
    assert text_lengths(tokens, MASK, 9, ()).tolist() == [2, 4, 4, 4, 4]
    assert text_lengths(tokens, MASK, None, [(5, 6), (3,)]).tolist() == [4, 4, 3, 2, 2]
    assert text_lengths(tokens, MASK, None, [(1, 2, 3, 4, 5)]).tolist() == [4] * 5
    later = torch.tensor([[9, 1, 2, 3, 4, 9], [1, 2, 3, 4, 9, 9], [1, 2, 3, 9, 4, 9]])
    assert text_lengths(later, MASK, None, [(1, 2, 3, 4)]).tolist() == [5, 4, 6]


@pytest.mark.parametrize("ends", [{"end_id": 5}, {"stop": [[4, 5]]}, {"eos_token_id": 5}])
def test_ended_rows_are_left_alone_and_the_others_go_on(ends: dict[str, Any]) -> None:
    model = CountingModel(**COUNTING)
    found = generate(model, rows([2], [6]), 12, 6, **ends)
    assert found.tokens[0].tolist() == [2, 3, 4, 5]
    assert found.tokens[1].tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]
    assert found.lengths is not None and found.lengths.tolist() == [3, 9]
    assert bool((found.completions[0, 4:] == MASK).all())
    assert bool((found.fixed_at[0, 4:] == -1).all())


def test_decoding_stops_when_every_row_has_ended() -> None:
    model = CountingModel(**COUNTING)
    found = generate(model, rows([2], [3]), 16, 8, end_id=5)
    assert found.denoiser_calls == 2


def test_largest_probability_keeps_the_schedule() -> None:
    assert [largest_probability(left, 4) for left in (4, 3, 2, 1)] == [1.0, 1.0, 0.5, 0.0]
    assert CappedRevision(0.3).probability(2, 4) == 0.3
    assert RescaledRevision(0.3).probability(2, 4) == 0.15


def test_no_more_is_taken_back_than_there_is_room() -> None:
    generator = torch.Generator().manual_seed(0)
    committed = torch.tensor([[True, True, False, True]] * 2000)
    room = torch.tensor([0, 1, 2, 3]).repeat(500)
    all_of = take_back(committed, room, 1.0, generator)
    assert torch.equal(all_of.sum(dim=1), room)
    assert not bool((all_of & ~committed).any())
    some = take_back(committed, torch.full((2000,), 4), 0.25, generator)
    assert some.sum().item() / 6000 == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("revision", "left"),
    [
        ("remdm_cap=1", [3, 2, 1, 0]),
        ("remdm_rescale=0.5", [3, 2, 1, 0]),
        ("remdm_loop=1,0.75,0.25,0.5", [2, 2, 2, 0]),
    ],
)
@pytest.mark.parametrize("mode", ["block", "full"])
def test_revision_keeps_the_schedule_and_the_joint(
    revision: str, left: list[int], mode: str
) -> None:
    """Exact single-token conditionals: what is taken back is drawn anew from the joint."""
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(
        model,
        empty_prompts(8000),
        4,
        4,
        selection="random",
        revision=revision,
        mode=mode,
        coupling="copula",
        record_history=True,
    )
    masked = [int((r.tokens == model.mask_id).sum(dim=1).amax()) for r in found.history]
    assert masked == left
    taken_back = (found.history[0].tokens != model.mask_id) & (found.fixed_at > 0)
    assert bool(taken_back.any())
    assert_follows(found.completions, joint_table(model))


def test_doubtful_tokens_are_taken_back_first() -> None:
    """ReMDM-conf: the shares follow softmax(-ψ) over what is committed, and sum to σ."""
    committed = torch.tensor([[True, True, False, True], [False] * 4])
    sure = torch.tensor([0.9, 0.1, 0.5, 0.4])
    shares = shared_out(0.5, sure.log().expand(2, 4), committed)
    expected = torch.tensor([-0.9, -0.1, -torch.inf, -0.4]).exp()
    torch.testing.assert_close(shares[0], 0.5 * expected / expected.sum())
    assert bool((shares[1] == 0).all())
    generator = torch.Generator().manual_seed(0)
    rows = 20_000
    taken = take_back(
        committed[:1].expand(rows, 4),
        torch.full((rows,), 4),
        shares[:1].expand(rows, 4),
        generator,
    )
    assert taken.double().mean(dim=0).tolist() == pytest.approx(shares[0].tolist(), abs=0.01)


def test_a_token_is_taken_back_by_its_probability_when_it_was_committed() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    arguments: dict[str, Any] = {"selection": "random", "revision": "remdm_conf"}
    found = generate(
        model, empty_prompts(8000), 4, 4, log_probs=True, record_history=True, **arguments
    )
    psi = torch.zeros(found.completions.shape)
    for record in found.history[:2]:
        assert record.log_probs is not None
        psi = torch.where(record.fixed, record.log_probs.exp(), psi)
    before, after = (record.tokens == model.mask_id for record in found.history[1:3])
    assert (~before).sum(dim=1).eq(2).all()  # of two committed tokens
    gone = after & ~before
    both = torch.where(before, 0.0, psi)
    rows = gone.any(dim=1)
    weight = torch.where(before, 0.0, (-psi).exp())
    expected = (weight / weight.sum(dim=1, keepdim=True) * both).sum(dim=1)[rows].mean()
    taken = both[gone].mean()
    assert float(taken) == pytest.approx(float(expected), abs=0.006)
    assert float(taken) < float(both[rows].sum() / 2 / rows.sum()) - 0.006
    quiet = generate(model, empty_prompts(2), 4, 4, record_history=True, **arguments)
    assert quiet.log_probs is None and quiet.history[0].log_probs is None


def test_loop_commits_most_then_corrects_then_finishes() -> None:
    rule = LoopRevision(rate=1.0, on=0.6, off=0.2, visible=0.75)
    schedule = rule.schedule(10)
    assert schedule is not None
    left, masked, shares = torch.tensor([80]), [], []
    for steps_left in range(10, 0, -1):
        left = left - schedule.quota(left, steps_left, torch.Generator())
        masked.append(int(left))
        shares.append(rule.probability(steps_left, 10))
    assert masked == [65, 50, 35, 20, 20, 20, 20, 20, 10, 0]
    third = pytest.approx(1 / 3)
    assert shares == [0, 0, 0, 0, third, third, third, third, 0, 0]
    for steps, many, expected in ((10, 300, 40), (10, 450, 60), (20, 300, 20)):
        loop = LoopSchedule(steps, 0.55, 0.05, 0.6)  # the exact share is a whole number of tokens
        assert int(loop.quota(torch.tensor([many]), steps, torch.Generator())) == expected


class Guided(CountingModel):
    """Logits that tell whether the prompt is seen."""

    def denoise(self, tokens: torch.Tensor, attention_mask: Any = None) -> DenoiserOutput:
        seen = (tokens[:, 0] != self.mask_id)[:, None, None]
        with_prompt = torch.tensor([0.5, 0.3, 0.2]).log()
        without = torch.tensor([0.2, 0.3, 0.5]).log()
        logits = torch.where(seen, with_prompt, without).expand(*tokens.shape, 3)
        return DenoiserOutput(logits=logits, hidden=torch.zeros(*tokens.shape, 1))

    def distribution(self, output: DenoiserOutput, *args: Any, **more: Any) -> Any:
        self.lengths.append(output.logits)  # type: ignore[arg-type]
        return super().distribution(output, *args, **more)


@pytest.mark.parametrize("name", ["guidance", "cfg_scale"])
def test_guidance_moves_logits_away_from_those_without_the_prompt(name: str) -> None:
    model = Guided(num_categories=3, max_length=8, window=4, block=3)
    found = generate(model, rows([1]), 3, 1, **{name: 2.0})
    given, free = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    logits: Any = model.lengths[0]
    torch.testing.assert_close(logits[0, 1], given + 2.0 * (given - free))
    assert found.denoiser_calls == 1


def test_log_probabilities_are_those_of_the_step_s_marginals() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = generate(
        model, empty_prompts(50), 4, 4, selection="left_to_right", coupling="copula", log_probs=True
    )
    joint = torch.tensor(joint_table(model))
    expected = joint[tuple(found.completions.T)].log()
    assert found.log_probs is not None
    torch.testing.assert_close(found.log_probs.sum(dim=1).double(), expected, atol=1e-5, rtol=1e-5)
    assert generate(model, empty_prompts(1), 4, 4).log_probs is None


SPELLED: list[dict[str, Any]] = [
    {"gen_length": 4, "num_steps": 2, "remasking": "random"},
    {"max_new_tokens": 4, "steps": 2, "alg": "origin"},
    {"new_tokens": 4, "diffusion_steps": 2, "selection": "random", "block_size": 4},
    {"new_tokens": 4, "gen_length": 4, "steps": 2, "num_steps": 2, "remasking": "random"},
]


@pytest.mark.parametrize("arguments", SPELLED)
def test_spellings_mean_the_same(arguments: dict[str, Any]) -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    ours = generate(model, empty_prompts(9), 4, 2, selection="random", seed=5)
    theirs = generate(model, empty_prompts(9), **arguments, seed=5)
    assert torch.equal(ours.completions, theirs.completions)
    assert torch.equal(ours.fixed_at, theirs.fixed_at)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"new_tokens": 4, "steps": 2, "num_steps": 3}, "steps, num_steps: .* found 2 and 3"),
        ({"gen_length": 4, "max_new_tokens": 3, "steps": 2}, "gen_length, max_new_tokens: .* 4 an"),
        ({"new_tokens": 4, "steps": 2, "remasking": "random", "alg": "entropy"}, "remasking, alg"),
        ({"new_tokens": 4, "step": 2}, "no argument 'step'; known are new_tokens, steps"),
        ({"steps": 2}, "new_tokens: expected how many tokens"),
        ({"new_tokens": 4, "threshold": 0.9, "factor": 1.0}, "threshold, factor: two spellings"),
        ({"new_tokens": 4, "tokens_per_step": 1, "revision": "remdm_cap"}, "revision: expected `s"),
        (
            {"new_tokens": 4, "steps": 2, "stochastic": True, "revision": "remdm_loop"},
            "stochastic: expected False with a revision",
        ),
        ({"new_tokens": 4, "steps": 2, "guidance": -1.0}, "guidance: expected a finite number"),
        ({"new_tokens": 4, "steps": 2, "stop": [[]]}, "stop: expected sequences of at least one"),
    ],
)
def test_arguments_that_contradict_are_refused(arguments: dict[str, Any], message: str) -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    with pytest.raises(DecodingError, match=message):
        generate(model, empty_prompts(1), **arguments)


def test_revision_texts() -> None:
    assert revision_from_text("remdm_cap=0.1") == CappedRevision(0.1)
    assert revision_from_text("remdm_rescale") == RescaledRevision()
    assert revision_from_text("remdm_conf") == ConfidentRevision()
    assert revision_from_text("remdm_loop=0.1,0.5") == LoopRevision(0.1, 0.5)
    for text in ("cap", "remdm_cap=x", "remdm_cap=2", "remdm_cap=1,1", "remdm_loop=1,0.1,0.2"):
        with pytest.raises(DecodingError, match=r"(revision|LoopRevision): expected"):
            revision_from_text(text)
