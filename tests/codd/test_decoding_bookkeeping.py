"""What decoding counts, remembers and tells: clocks, records, views, what is ahead, defaults."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.distribution import FactorisedDistribution
from codd.decoding.automata import Unrolled
from codd.decoding.budgets import JointEntropy, TotalCorrelation
from codd.decoding.calls import DenoiserCalls, View
from codd.decoding.canvas import lay_out
from codd.decoding.clock import Clock
from codd.decoding.loop import generate, infill
from codd.decoding.messages import AutomatonMessages
from codd.decoding.options import DecodingOptions
from codd.decoding.products import OpenProduct
from codd.decoding.quotas import EntropyBound, Factor, Klass, QuotaView, Threshold, divergence
from codd.decoding.revision import (
    CappedRevision,
    ConfidentRevision,
    LoopRevision,
    RescaledRevision,
)
from codd.decoding.samplers import SAMPLERS, SamplingRule
from codd.decoding.scene import Memory
from codd.decoding.schedules import (
    EvenSchedule,
    FixedSchedule,
    LoopSchedule,
    StochasticSchedule,
)
from codd.decoding.selection import CONFIDENCES, select
from codd.decoding.slices import Place, cut
from codd.decoding.stepping import Stepper
from codd.decoding.texts import growing_texts, paced, read_texts
from codd.decoding.uncoupled import UncoupledModel
from codd.decoding.windows import minimum_cover
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError
from codd.vocabulary import CharacterVocabulary
from tests.support.coupled import tiny_model
from tests.support.decoding import CountingModel, empty_prompts, mixture_model, rows


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock's hands: every look at it comes at the next of these seconds."""
    seconds: Iterator[float] = iter((1.0, 3.0, 4.0, 7.5, 10.0, 11.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(seconds))


@pytest.mark.usefixtures("ticks")
def test_a_clock_adds_up_what_it_measured() -> None:
    clock = Clock(torch.device("cpu"))
    assert (clock.seconds("a"), clock.count("a")) == (0.0, 0)
    for name in ("a", "a", "b"):
        with clock.measure(name):
            pass
    assert (clock.seconds("a"), clock.count("a")) == (5.5, 2)
    assert (clock.seconds("b"), clock.count("b")) == (1.0, 1)


def test_a_clock_reads_a_cuda_device_s_events_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits while parts run; the sum waits for the last event of that name."""
    hands: Iterator[float] = iter((1.0, 3.0, 4.0, 4.5, 10.0, 20.0))
    waited: list[float] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"
            self.at = next(hands)

        def synchronize(self) -> None:
            waited.append(self.at)

        def elapsed_time(self, end: Event) -> float:
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = Clock(torch.device("cuda:1"))
    for name in ("a", "a", "b"):
        with clock.measure(name):
            pass
    assert waited == []
    assert (clock.seconds("a"), clock.count("a")) == (2.5, 2) and waited == [4.5]
    assert (clock.seconds("b"), clock.count("b")) == (10.0, 1)
    assert (clock.seconds("c"), clock.count("c")) == (0.0, 0)


def test_a_generation_says_what_it_cost() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    one, two = (generate(model, empty_prompts(number), 4, 2) for number in (1, 2))
    assert repr(one) == ("Generation(1 text of 4 new tokens; 2 denoiser calls, 2 tokens each)")
    assert repr(two).startswith("Generation(2 texts of 4 new tokens; 2 denoiser calls")
    assert (one.vocabulary, one.log_probs, one.history) == (None, None, ())
    with pytest.raises(DecodingError, match="expected a generation by a model with a vocabulary"):
        _ = one.texts
    idle = infill(model, rows([1, 2, 0, 1]), quota="threshold")
    assert (idle.denoiser_calls, idle.tokens_per_forward) == (0, 0.0)
    assert idle.fixed_at.tolist() == [[-1] * 4] and idle.lengths is None
    ended = generate(CountingModel(10, 8, 6, 4), rows([2], [6]), 12, 6, end_id=5)
    assert ended.calls.tolist() == [2, 5]
    assert ended.tokens_per_forward == pytest.approx(14 / 7)
    assert [
        steps.num_steps
        for steps in generate(
            CountingModel(10, 8, 6, 4), rows([2]), 12, 5, record_history=True
        ).history
    ] == [5] * 5


def test_what_was_drawn_in_place_of_tokens_taken_back() -> None:
    """With σ = 1 every token goes as long as there is room: the n-th step fixes n."""
    model = mixture_model(8, 3, window=8, block=8, seed=2)
    for mode in ("block", "full"):
        found = generate(
            model, empty_prompts(3), 8, 8, revision="remdm_cap=1", mode=mode, record_history=True
        )
        fixed = [record.fixed.sum(dim=1).tolist() for record in found.history]
        assert fixed[:4] == [[1] * 3, [2] * 3, [3] * 3, [4] * 3]
        masked = [(r.tokens == model.mask_id).sum(dim=1).tolist() for r in found.history]
        assert masked == [[7 - step] * 3 for step in range(8)]


def test_no_call_with_what_is_ahead_is_longer_than_the_model() -> None:
    model = CountingModel(10, 8, 6, 4)
    found = generate(model, rows([3], [1, 2]), 12, 6, lookahead=True)
    assert found.completions.tolist() == [
        [(4 + i) % 10 for i in range(12)],
        [(3 + i) % 10 for i in range(12)],
    ]
    assert model.lengths == [8] * 6
    model.lengths.clear()
    generate(model, rows([3]), 4, 2, lookahead=True)
    assert model.lengths == [6] * 2


def test_what_is_ahead_is_seen_beside_padding() -> None:
    """A row says the same with a longer one beside it."""
    model = tiny_model(modulator="static")
    options: dict[str, Any] = {
        "new_tokens": 8,
        "steps": 2,
        "lookahead": True,
        "coupling": "factorised",
        "sampler": "any_order",
        "temperature": 0.0,
        "log_probs": True,
    }
    prompts = rows([1, 2, 3, 4, 5], [4])
    both = generate(model, prompts, **options)
    for row, prompt in enumerate(prompts):
        alone = generate(model, [prompt], **options)
        assert alone.log_probs is not None and both.log_probs is not None
        torch.testing.assert_close(both.log_probs[row], alone.log_probs[0], atol=1e-5, rtol=0)
    assert both.log_probs is not None and not both.log_probs.requires_grad


def test_rows_beside_others_keep_an_order() -> None:
    """As long as a batch has fewer than 2**31 rows."""
    kept = torch.tensor([0, 5, 2**31])
    view = View(kept, torch.zeros(3, 2).long(), None, 1, 0, 0, True)
    both = view.beside(torch.ones(3, 2).long())
    assert both.rows[:3].tolist() == kept.tolist()
    assert bool((both.rows.diff() > 0).all()) and both.attention_mask is None
    assert both.tokens.tolist() == [[0, 0]] * 3 + [[1, 1]] * 3
    mask = torch.tensor([[False, True], [True, True], [False, True]])
    both = replace(view, attention_mask=mask).beside(view.tokens)
    assert both.attention_mask is not None
    assert both.attention_mask.tolist() == [*mask.tolist(), *mask.tolist()]


def test_a_canvas_is_as_long_as_its_longest_prompt() -> None:
    found = lay_out(rows([1, 2, 3], [4], []), 2, context=2, least=1, mask_id=9)
    assert found.tokens.tolist() == [[2, 3, 9, 9], [9, 4, 9, 9], [9, 9, 9, 9]]
    assert found.valid.tolist() == [[True] * 4, [False, True, True, True], [False] * 2 + [True] * 2]
    assert found.prompt_length == 2
    wide = lay_out(rows([1], [2]), 1, context=5, least=3, mask_id=9)
    assert wide.tokens.tolist() == [[9, 9, 1, 9], [9, 9, 2, 9]] and wide.prompt_length == 3
    assert lay_out(rows([1], [2]), 1, context=0, least=0, mask_id=9).tokens.tolist() == [[9], [9]]


def test_a_memory_gives_back_what_it_had_of_a_row() -> None:
    memory = Memory(3)
    first, second = torch.rand(2, 4, 5), torch.rand(3, 4, 5)
    assert bool(memory.exchange(torch.tensor([2, 0]), first).isnan().all())
    before = memory.exchange(torch.tensor([0, 1, 2]), second)
    assert torch.equal(before[[2, 0]], first) and bool(before[1].isnan().all())
    assert torch.equal(memory.exchange(torch.tensor([1]), first[:1])[0], second[1])
    memory.forget()
    assert bool(memory.exchange(torch.tensor([1]), first[:1]).isnan().all())


def view_of(table: Tensor, **more: Any) -> QuotaView:
    hidden = torch.zeros(table.shape[:2], dtype=torch.bool)
    joint = FactorisedDistribution(table.log(), hidden.long(), hidden)
    return QuotaView(joint, joint.marginals, ~hidden, table.amax(-1), **more)


def test_rules_at_their_limits() -> None:
    """Numbers that are exact in binary: what is at the limit is taken, or not, as is written."""
    table = torch.tensor(
        [[[0.75, 0.25], [0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]]
    ).double()

    def chosen(rule: Any, **more: Any) -> list[int]:
        found: list[int] = rule.choose(view_of(table, **more))[0].nonzero().flatten().tolist()
        return found

    assert chosen(Threshold(0.75)) == [0, 1, 3, 4]
    assert chosen(Factor(1.0)) == [3, 4]  # 4 (1 - .75) is not below 1
    assert chosen(Factor(1.25)) == [0, 3, 4]  # 5 (1 - .75) is not below 1.25
    assert chosen(EntropyBound(0.0)) == [0, 3, 4]
    before = table.clone()
    before[0, 2] = torch.tensor([0.75, 0.25])
    gap = float(divergence(table, before)[0, 2])
    assert chosen(Klass(gap, 0.5), previous=before) == [0, 1, 2, 3, 4]
    assert chosen(Klass(gap * (1 - 1e-9), 0.5), previous=before) == [0, 1, 3, 4]
    assert chosen(Klass(1.0, 0.75), previous=before) == [0, 1, 3, 4]
    never = torch.tensor([[[0.0, 1.0]]]).double()
    assert float(divergence(table[:, :1], never)) > 500
    assert float(divergence(never, never)) == 0.0


def test_budgets_end_at_their_limit_and_a_little_slack() -> None:
    spent = torch.tensor([[1.0, 1.0 + 1e-5, 1.0 + 2e-5]], dtype=torch.float64)
    none = torch.zeros_like(spent)
    assert TotalCorrelation(1.0).fits(spent, none).tolist() == [[True, True, False]]
    assert JointEntropy(1.0).fits(spent, none).tolist() == [[True, True, False]]
    assert JointEntropy(0.5).fits(spent, none + 0.5).tolist()[0][2] is False
    assert JointEntropy(1.0).fits(spent + 1, none + 1).tolist()[0][0] is True


def test_of_many_equal_scores_the_leftmost_win() -> None:
    """A short row would not tell a stable order from another one."""
    scores, every = torch.zeros(2, 400), torch.ones(2, 400, dtype=torch.bool)
    every[1, :100] = False
    picked = select(scores, every, torch.tensor([150, 150]))
    assert [row.nonzero().flatten().tolist() for row in picked] == [
        list(range(150)),
        list(range(100, 250)),
    ]
    view = view_of(torch.full((2, 400, 2), 0.5))
    assert torch.equal(view.order, torch.arange(400).expand(2, -1))
    some = replace(view, candidates=every)
    assert some.order[1].tolist() == [*range(100, 400), *range(100)]
    law = torch.full((3000, 400), 1 / 400)
    # The nucleus of equal tokens has the first ones.
    found = SAMPLERS["any_order"](
        FactorisedDistribution(
            law.log()[:, None], torch.zeros(3000, 1).long(), ~every[:1, :1].expand(3000, 1)
        ),
        torch.ones(3000, 1, dtype=torch.bool),
        torch.ones(3000).long(),
        SamplingRule("random", 1.0, 0.25),
        torch.Generator().manual_seed(0),
    )
    assert int(found.tokens.max()) <= 100


def test_scores_of_two_kinds_of_token() -> None:
    table = torch.tensor([[[0.75, 0.25], [0.5, 0.5]]])
    assert CONFIDENCES["margin"](table).tolist() == [[0.5, 0.0]]
    assert CONFIDENCES["margin"](torch.full((1, 2, 1), 0.5)).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("name", SAMPLERS)
def test_nothing_is_drawn_where_nothing_is_wanted(name: str) -> None:
    for size in (0, 2):
        hidden = torch.zeros(size, 3, dtype=torch.bool)
        joint = FactorisedDistribution(torch.zeros(size, 3, 2), hidden.long(), hidden)
        for wanted in (0, -1):
            counts = torch.full((size,), wanted)
            given = (joint, ~hidden, counts, SamplingRule("random"), torch.Generator())
            found = SAMPLERS[name](*given)
            assert found.chosen.shape == found.tokens.shape == (size, 3)
            assert not bool(found.chosen.any())


def test_the_map_sampler_needs_a_circuit() -> None:
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    with pytest.raises(DecodingError, match="expected a circuit's distribution, found MixtureDist"):
        generate(model, empty_prompts(1), 4, 1, sampler="map")


def test_paces_and_lengths_have_defaults() -> None:
    assert paced(None, {}) == 8 and paced(3, {}) == 3
    for name in ("quota", "threshold", "tokens_per_step", "num_steps"):
        assert paced(None, {name: 1}) is None
    vocabulary, device = CharacterVocabulary(tuple("ab\ufffd")), torch.device("cpu")
    encoded, said = read_texts(vocabulary, 5, "ba", None, {"seed": 2}, device)
    assert [row.tolist() for row in encoded] == [[1, 0]] and said == {"new_tokens": 5, "seed": 2}
    assert read_texts(vocabulary, 5, ["a"], 3, {}, device)[1] == {"new_tokens": 3}
    given = read_texts(vocabulary, 5, ["a", "b"], None, {"gen_length": 4}, device)[1]
    assert given == {"new_tokens": 4, "gen_length": 4}
    model = mixture_model(4, 2, window=4, block=4, seed=2)
    found = generate(model, empty_prompts(2), 4, 4, record_history=True)
    prompts = [torch.tensor([0]), torch.tensor([1, 0])]
    texts = list(growing_texts(vocabulary, prompts, found.history))
    assert len(texts) == 4 and [text[:1] for text in texts[-1]] == ["a", "b"]
    assert [len(text) for text in texts[-1]] == [5, 6]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        list(growing_texts(vocabulary, prompts[:1], found.history))


class Fixed(torch.nn.Module):
    """A denoiser of six tokens at most."""

    num_categories, mask_id, max_length, hidden_size = 3, 3, 6, 1

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        return DenoiserOutput(torch.zeros(*tokens.shape, 3), torch.zeros(*tokens.shape, 1))


def test_a_denoiser_alone_takes_blocks_up_to_its_length() -> None:
    for block in (1, 6):
        model = UncoupledModel(Fixed(), block)
        assert (model.window, model.block, model.max_length) == (block, block, 6)
        assert generate(model, rows([1]), block, 1).completions.shape == (1, block)
    for wrong in (0, 7, -1):
        with pytest.raises(DecodingError, match=f"^block: expected 1 to 6, found {wrong}$"):
            UncoupledModel(Fixed(), wrong)
    with pytest.raises(
        DecodingError, match="expected 'factorised' without a circuit, found 'copula'"
    ):
        generate(model, rows([1]), 6, 1, coupling="copula")


def test_a_model_around_a_model_is_like_it() -> None:
    model = tiny_model(modulator="static")
    own = WrappedModel(model)
    for name in ("mask_id", "num_categories", "max_length", "window", "block", "has_caches"):
        assert getattr(own, name) == getattr(model, name), name
    assert own.attention_block == model.attention_block
    plain = WrappedModel(CountingModel(10, 8, 6, 4))
    assert plain.has_caches is False and plain.attention_block is None
    found, expected = (
        generate(each, rows([1, 2]), 8, 4, cache=cache, seed=3).completions
        for each in (own, model)
        for cache in ("dual",)
    )
    assert torch.equal(found, expected)


def seen_inside(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a generation makes for itself: stepper, scene, draft, view and what a cache keeps."""
    found: list[Any] = []
    commit, call = Stepper._commit, DenoiserCalls.__call__

    def committed(self: Stepper, draft: Any, *more: Any) -> Any:
        found.extend((self, draft, draft.scene, self.options, draft.scene.schedule))
        return commit(self, draft, *more)

    def called(self: DenoiserCalls, view: View) -> Any:
        said = call(self, view)
        found.extend((view, self._kept))
        return said

    monkeypatch.setattr(Stepper, "_commit", committed)
    monkeypatch.setattr(DenoiserCalls, "__call__", called)
    model = tiny_model(modulator="static")
    whole = generate(model, rows([1, 2]), 4, 1, cache="dual", record_history=True)
    return [*found, whole, whole.history[0]]


def test_what_decoding_works_with_is_not_changed_once_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And what holds tensors is equal to itself alone, so that it can be compared and kept."""
    inside = seen_inside(monkeypatch)
    assert len({type(each) for each in inside}) == 9
    quota = view_of(torch.full((1, 2, 2), 0.5))
    assert bool(Threshold(0.5).choose(quota).all())
    covered = minimum_cover(torch.eye(4, dtype=torch.bool), 2)[0]
    assert bool(covered.active.all())
    automaton = pc.families.automaton([{None: 0}], {0}, 2, 3)
    product = OpenProduct.of(pc.families.hmm(2, 2, 3), automaton)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    given = (quota.distribution, nothing, torch.zeros(1).long(), SamplingRule(), torch.Generator())
    for each in (
        *(own for own in inside if type(own) not in (Stepper, DecodingOptions, EvenSchedule)),
        quota,
        covered,
        Unrolled.of(automaton),
        lay_out(rows([1]), 1, context=1, least=1, mask_id=3),
        product,
        next(iter(product.sources.values())),
        next(iter(product._pairs)),
        cut(Unrolled.of(automaton), Place(0, 0, 2)),
        AutomatonMessages.of(Unrolled.of(automaton), torch.device("cpu")),
        SAMPLERS["exact"](*given),
    ):
        assert_frozen(each)
        name = next(iter(type(each).__dataclass_fields__))
        assert each != replace(each, **{name: getattr(each, name)}), "it holds tensors"
    for each in inside[:4]:
        assert_frozen(each)


def assert_frozen(each: Any) -> None:
    name = next(iter(type(each).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(each, name, getattr(each, name))
    assert isinstance(hash(each), int)


def test_rules_are_values() -> None:
    masked, random = torch.tensor([4]), torch.Generator()
    schedules: list[Any] = [
        EvenSchedule(2),
        FixedSchedule(2),
        StochasticSchedule(2),
        LoopSchedule(2, 0.6, 0.2, 0.7),
    ]
    for schedule in schedules:
        assert int(schedule.quota(masked, 1, random)) >= 2
    revisions: list[Any] = [
        CappedRevision(),
        RescaledRevision(),
        ConfidentRevision(),
        LoopRevision(),
    ]
    for revision in revisions:
        assert 0.0 <= revision.probability(1, 2) <= 1.0
    budgets: list[Any] = [TotalCorrelation(), JointEntropy()]
    for budget in budgets:
        assert bool(budget.fits(torch.ones(1), torch.ones(1)))
    quotas: list[Any] = [Threshold(), Factor(), EntropyBound(), Klass(), SamplingRule()]
    for rule in (*schedules, *revisions, *budgets, *quotas):
        assert_frozen(rule)
        assert rule == replace(rule)
