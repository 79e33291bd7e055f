"""Single steps: which rows and windows they work on, and what they ask of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from codd.coupling.distribution import FactorisedDistribution
from codd.decoding.loop import generate, infill
from codd.decoding.revision import LoopRevision
from codd.decoding.samplers import SAMPLERS, SamplingRule
from codd.decoding.schedules import EvenSchedule, LoopSchedule
from codd.denoisers.base import DenoiserOutput
from tests.support.decoding import (
    Call,
    CountingModel,
    MixtureDistribution,
    MixtureModel,
    mixture_model,
    rows,
)


def test_even_steps_by_hand() -> None:
    masked, random = torch.tensor([0, 1, 3, 5, 8, 9]), torch.Generator()
    for left, expected in (
        (1, [0, 1, 3, 5, 8, 9]),
        (2, [0, 1, 2, 3, 4, 5]),
        (3, [0, 1, 1, 2, 3, 3]),
        (4, [0, 1, 1, 2, 2, 3]),
    ):
        assert EvenSchedule(4).quota(masked, left, random).tolist() == expected


def test_a_loop_s_shares_by_hand() -> None:
    """800 tokens, ten steps: to 3/4 by time 0.6, on from time 0.2."""
    loop, left, found = LoopSchedule(10, 0.6, 0.2, 0.75), torch.tensor([800]), []
    for steps_left in range(10, 0, -1):
        found.append(int(loop.quota(left, steps_left, torch.Generator())))
        left = left - found[-1]
    assert found == [150] * 4 + [0] * 4 + [100] * 2


@dataclass(frozen=True)
class Captured(MixtureModel):
    """A model whose steps can be recorded; it says what it was asked for."""

    reason: str | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)

    def why_not_captured(self, coupling: Any) -> str | None:
        return self.reason

    def captured_distribution(
        self, output: DenoiserOutput, tokens: Tensor, start: Tensor, **more: Any
    ) -> MixtureDistribution:
        self.asked.append({"rows": len(tokens), **more})
        own = {name: more[name] for name in ("coupling", "valid")}
        return self.distribution(output, tokens, start, **own)


def captured(**more: Any) -> Captured:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    return Captured(model.weights, model.components, 4, 4, **more)


def test_a_captured_step_is_asked_for_where_there_is_a_circuit() -> None:
    model, mask = captured(), 3
    sequences = rows([mask] * 4, [0, mask, 1, mask], [0, 0, mask, 0])
    options: dict[str, Any] = {"coupling": "copula", "mask_ratio_limit": 0.6, "capture": True}
    infill(model, sequences, 1, sampler="latent", temperature=0.5, **options)
    (asked,) = model.asked
    assert isinstance(asked.pop("generator"), torch.Generator)
    assert asked == {"rows": 2, "coupling": "copula", "valid": None, "temperature": 0.5}
    assert model.calls == [Call(2, "copula"), Call(1, "factorised")]
    plain = captured()
    infill(plain, sequences, 1, coupling="copula")
    assert plain.asked == [] and plain.calls == [Call(3, "copula")]
    with pytest.raises(Exception, match=r"^capture: no chain$"):
        infill(captured(reason="no chain"), sequences, 1, **options)


def test_tokens_of_earlier_blocks_stay() -> None:
    model, prompts = mixture_model(12, 3, window=8, block=4, seed=2), rows([0, 1, 2, 0]) * 5
    found = generate(model, prompts, 8, 8, revision="remdm_cap=1", record_history=True, seed=1)
    masked = [(record.tokens == model.mask_id).sum(dim=1).tolist() for record in found.history]
    assert masked == [[left] * 5 for left in (7, 6, 5, 4, 3, 2, 1, 0)]
    done = found.history[3].tokens[:, :4]
    assert all(torch.equal(record.tokens[:, :4], done) for record in found.history[3:])
    assert bool((found.fixed_at[:, :4] < 4).all()) and bool((found.fixed_at[:, 4:] >= 4).all())
    begun = infill(
        model, rows([1, 3, 3, 3, 3, 2, 0, 3]), 5, revision="remdm_cap=1", record_history=True
    )
    for record in begun.history:
        assert record.tokens[0, [0, 5, 6]].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("window", "expected"),
    [(3, [0, 0, 0, 1, 1, 2, 2]), (4, [0, 0, 0, 0, 1, 1, 1]), (7, [0] * 7)],
)
def test_a_budget_takes_the_window_around_the_best_position(
    window: int, expected: list[int]
) -> None:
    model = mixture_model(7, 3, window=window, block=window, seed=2)
    found = infill(model, rows([3] * 7), quota="total_correlation=1000", selection="left_to_right")
    assert found.fixed_at.tolist() == [expected]


class Certain(CountingModel):
    """Token 2 is impossible, and token 1 is without the prompt alone."""

    def denoise(self, tokens: Tensor, attention_mask: Any = None) -> DenoiserOutput:
        seen = (tokens[:, 0] != self.mask_id)[:, None, None]
        given = torch.tensor([0.25, 0.75, 0.0]).log()
        alone = torch.tensor([1.0, 0.0, 0.0]).log()
        self.lengths.append(len(tokens))
        logits = torch.where(seen, given, alone).expand(*tokens.shape, 3)
        return DenoiserOutput(logits=logits, hidden=seen.expand(*tokens.shape, 1))

    def distribution(self, output: DenoiserOutput, *args: Any, **more: Any) -> Any:
        self.lengths.append(output.logits.softmax(-1))  # type: ignore[arg-type]
        assert output.hidden.shape[:2] == output.logits.shape[:2]
        assert bool(output.hidden.all()), "what is coupled goes by the prompt"
        return super().distribution(output, *args, **more)


class Silent(CountingModel):
    """Says nothing of visible tokens, nor of padding."""

    def denoise(self, tokens: Tensor, attention_mask: Any = None) -> DenoiserOutput:
        said = super().denoise(tokens, attention_mask)
        said.logits[tokens != self.mask_id] = torch.nan
        return said

    def distribution(self, output: DenoiserOutput, *given: Any, **more: Any) -> Any:
        known = DenoiserOutput(output.logits.nan_to_num(0.0), output.hidden)
        return super().distribution(known, *given, **more)


@pytest.mark.parametrize("quota", ["threshold=0.9", "klass", "total_correlation=1", None])
def test_what_is_said_of_visible_tokens_does_not_count(quota: str | None) -> None:
    model = Silent(num_categories=10, max_length=8, window=4, block=4)
    given = rows([3, 10, 10, 6, 10], [1, 10, 3, 4, 10, 10, 10])
    found = infill(model, given, None if quota else 2, quota=quota)
    assert [row.tolist() for row in found.tokens] == [[3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]]


def test_guidance_away_from_the_impossible() -> None:
    """What the prompt alone makes possible is as likely as it says, what nothing does is not."""
    model = Certain(num_categories=3, max_length=8, window=4, block=3)
    for weight, calls in ((0.5, 4), (0.0, 2)):
        model.lengths.clear()
        generate(model, rows([1], [0]), 3, 1, guidance=weight)
        batch, probabilities = model.lengths
        assert batch == calls
        law = probabilities[0, 1].tolist()  # type: ignore[index]
        assert law == pytest.approx([0.25, 0.75, 0.0] if weight == 0.0 else [1 / 7, 6 / 7, 0.0])


def test_shares_of_masked_tokens_are_of_the_block() -> None:
    """What stands before it does not count."""
    model = mixture_model(8, 3, window=8, block=4, seed=2)
    for limit, coupled in ((1.0, 3), (0.75, 2), (0.7, 2), (0.5, 1), (0.26, 1), (0.25, 0)):
        model.calls.clear()
        generate(model, rows([0, 1, 2, 0]), 4, 4, coupling="product", mask_ratio_limit=limit)
        used = [call.coupling for call in model.calls]
        assert used == ["factorised"] * (4 - coupled) + ["product"] * coupled, limit


def test_no_distribution_is_made_where_nothing_is_fixed() -> None:
    model = mixture_model(16, 3, window=16, block=16, seed=2)
    found = infill(
        model, rows([3] * 16), 10, revision=LoopRevision(0.0, 0.6, 0.2, 0.75), record_history=True
    )
    fixed = [int(record.fixed.sum()) for record in found.history]
    assert len(model.calls) == sum(number > 0 for number in fixed) < 10
    assert sum(fixed) == 16
    model.calls.clear()
    options: dict[str, Any] = {"mask_ratio_limit": 1.0, "record_history": True}
    written = generate(
        model, rows([]) * 2, 16, 10, revision=LoopRevision(0.0, 0.6, 0.2, 0.75), **options
    )
    fixed = [int(record.fixed.sum()) for record in written.history]
    assert len(model.calls) == sum(number > 0 for number in fixed) < 10


@pytest.mark.parametrize("name", ["exact", "latent", "map"])
def test_a_window_is_drawn_once(name: str) -> None:
    shares = torch.tensor([[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]] * 3)
    hidden = torch.zeros(3, 2, dtype=torch.bool)
    joint = FactorisedDistribution(shares.log(), hidden.long(), hidden)
    temperature = {"exact": 1.0, "latent": 0.5, "map": 0.0}[name]
    random = [torch.Generator().manual_seed(3) for _ in range(2)]
    rule = SamplingRule("random", temperature=0.5)
    found = SAMPLERS[name](joint, ~hidden, torch.full((3,), 2), rule, random[0])
    expected = joint.sample(1, temperature=temperature, generator=random[1])[:, 0]
    assert torch.equal(found.tokens, expected)
    assert name != "map" or found.tokens.tolist() == [[1, 0]] * 3


def test_log_probabilities_are_of_tokens_that_stand() -> None:
    """Zero for what was visible, or taken back before its text ended."""
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    options: dict[str, Any] = {"log_probs": True, "selection": "random", "coupling": "product"}
    given = infill(model, rows([3, 1, 3, 3]), 3, **options)
    assert given.log_probs is not None and float(given.log_probs[0, 1]) == 0.0
    assert bool((given.log_probs[0, [0, 2, 3]] < 0).all())
    ended = generate(
        model,
        rows([]) * 300,
        4,
        4,
        end_id=0,
        revision="remdm_cap=1",
        record_history=True,
        **options,
    )
    assert ended.log_probs is not None
    gone = ended.fixed_at < 0
    assert bool((ended.log_probs[gone] == 0).all()) and bool((ended.log_probs[~gone] < 0).all())
    was = torch.stack([record.fixed for record in ended.history]).any(dim=0)
    assert bool((was & gone).any()), "some were taken back and never written again"


def test_nothing_said_means_the_first_seed() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    found = [
        generate(model, rows([]) * 50, 4, 2, **more).completions
        for more in ({}, {"seed": 0, "temperature": 1.0}, {"seed": 1})
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    filled = [
        infill(model, rows([3] * 4) * 50, 2, **more).completions for more in ({}, {"seed": 0})
    ]
    assert torch.equal(*filled)


class Unasked(FactorisedDistribution):
    """A distribution of which no marginals may be asked."""

    def marginals(self) -> Tensor:
        raise AssertionError("all positions are taken, whatever their marginals are")


@pytest.mark.parametrize("name", ["exact", "latent", "map"])
def test_where_all_are_taken_no_marginals_are_needed(name: str) -> None:
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    joint = Unasked(torch.zeros(2, 3, 2), hidden.long(), hidden)
    candidates = torch.tensor([[True, False, True], [True, True, True]])
    for counts in ([2, 3], [3, 4]):
        given = (candidates, torch.tensor(counts), SamplingRule(), torch.Generator())
        assert torch.equal(SAMPLERS[name](joint, *given).chosen, candidates)
        with pytest.raises(AssertionError, match="whatever their marginals"):
            SAMPLERS[name](joint, candidates, torch.tensor([counts[0], 2]), *given[2:])
