"""What decoding takes and refuses: defaults, the limits of every number, names that files give."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

import codd
from codd.decoding.arguments import SPELLINGS, given_value, read_spellings
from codd.decoding.checks import check_sequences
from codd.decoding.loop import generate, infill
from codd.decoding.options import MODES, DecodingOptions
from codd.decoding.quotas import Factor, Threshold
from codd.decoding.revision import (
    CappedRevision,
    ConfidentRevision,
    LoopRevision,
    RescaledRevision,
)
from codd.decoding.samplers import SAMPLERS, SamplingRule
from codd.decoding.schedules import (
    EvenSchedule,
    FixedSchedule,
    LoopSchedule,
    StochasticSchedule,
    split_evenly,
)
from codd.decoding.selection import SELECTIONS
from codd.errors import DecodingError
from tests.support.decoding import CountingModel, empty_prompts, mixture_model, refused, rows

INFINITE, NO_NUMBER = float("inf"), float("nan")


def options(**changes: Any) -> DecodingOptions:
    return DecodingOptions(**{"new_tokens": 8, "block_length": 4, "steps": 4, **changes})


def counting(**changes: int) -> CountingModel:
    return CountingModel(
        **{"num_categories": 10, "max_length": 8, "window": 6, "block": 4, **changes}
    )


def test_options_are_those_of_exact_sampling_in_blocks() -> None:
    found = DecodingOptions(4, 2, block_length=4)
    assert found == DecodingOptions(
        new_tokens=4,
        steps=2,
        tokens_per_step=None,
        quota=None,
        stochastic=False,
        mode="block",
        block_length=4,
        selection="low_confidence",
        sampler="exact",
        temperature=1.0,
        top_p=None,
        coupling=None,
        mask_ratio_limit=None,
        seed=0,
        capture=False,
        revision=None,
        guidance=0.0,
        end_id=None,
        stop=(),
        log_probs=False,
        cache="none",
        lookahead=False,
    )
    assert found.rule == SamplingRule() and found.lockstep
    assert not found.ends and not found.keeps_log_probs
    assert (found.region_length, found.num_regions) == (4, 1)


@pytest.mark.parametrize(
    ("changes", "lockstep"),
    [
        ({}, True),
        ({"steps": None, "tokens_per_step": 4}, True),
        ({"mode": "full", "block_length": None}, False),
        ({"steps": None, "quota": Threshold()}, False),
        ({"stochastic": True}, False),
        ({"end_id": 0}, False),
        ({"stop": ((1,),)}, False),
        ({"mask_ratio_limit": 0.0}, False),
    ],
)
def test_rows_go_in_lockstep_where_nothing_sets_them_apart(
    changes: dict[str, Any], lockstep: bool
) -> None:
    found = options(**changes)
    assert found.lockstep == lockstep
    assert found.ends == ("end_id" in changes or "stop" in changes)
    assert found.num_regions == (1 if found.mode == "full" else 2)


def test_schedules_of_regions() -> None:
    assert options(steps=5).schedules() == [EvenSchedule(3), EvenSchedule(2)]
    assert options(stochastic=True).schedules() == [StochasticSchedule(2)] * 2
    assert options(steps=None, tokens_per_step=3).schedules() == [FixedSchedule(3)] * 2
    assert options(steps=None, quota=Threshold()).schedules() == [FixedSchedule(1)] * 2
    loop = options(revision=LoopRevision(0.1, 0.6, 0.2, 0.7)).schedules()
    assert loop == [LoopSchedule(2, 0.6, 0.2, 0.7)] * 2
    assert options(revision=CappedRevision()).schedules() == [EvenSchedule(2)] * 2
    kept = [
        options(revision=own).keeps_log_probs
        for own in (None, CappedRevision(), RescaledRevision(), ConfidentRevision(), LoopRevision())
    ]
    assert kept == [False, False, False, True, False]
    assert options(log_probs=True).keeps_log_probs
    masked, random = torch.tensor([5, 0, 9]), torch.Generator()
    for schedule, steps in (
        (EvenSchedule(3), 3),
        (StochasticSchedule(4), 4),
        (FixedSchedule(3), 2),
    ):
        assert schedule.num_steps(5) == steps
        assert schedule.quota(masked, 1, random).tolist()[1] == 0
    assert LoopSchedule(5, 0.5, 0.1, 0.5).num_steps(99) == 5
    assert StochasticSchedule(4).quota(masked, 1, random).tolist() == [5, 0, 9]
    assert split_evenly(8, 3) == [3, 3, 2] and split_evenly(2, 4) == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "edge",
    [
        {"steps": 2},
        {"steps": 8},
        {"steps": None, "tokens_per_step": 1},
        {"steps": None, "tokens_per_step": 4},
        {"new_tokens": 1, "block_length": 1, "steps": 1},
        {"block_length": 1, "steps": 8},
        {"block_length": 8, "steps": 1},
        {"sampler": "latent", "temperature": 0.0},
        {"sampler": "latent", "temperature": 0.25},
        {"sampler": "map", "temperature": 0.0},
        {"sampler": "map", "temperature": 1.0},
        {"sampler": "any_order", "top_p": 1.0},
        {"sampler": "any_order", "top_p": 1e-9},
        {"mask_ratio_limit": 0.0},
        {"mask_ratio_limit": 1.0},
        {"guidance": 0.0},
        {"guidance": 1e9},
        {"stop": ((1,), (2, 3))},
        {"capture": True},
        {"capture": True, "sampler": "latent"},
        {"stochastic": True, "revision": CappedRevision()},
    ],
    ids=str,
)
def test_all_up_to_the_limits_is_taken(edge: dict[str, Any]) -> None:
    found = options(**edge)
    assert all(getattr(found, name) == value for name, value in edge.items())
    with pytest.raises(FrozenInstanceError):
        found.seed = 3  # type: ignore[misc]


ONE = "steps, tokens_per_step: expected exactly one of them, found "
FINITE = "expected a finite number of at least 0, found "
BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"new_tokens": 0}, "new_tokens: expected at least 1, found 0"),
    ({"new_tokens": -1}, "new_tokens: expected at least 1, found -1"),
    ({"steps": 1}, "steps: expected 2 (one a block) to 8 (one a token), found 1"),
    ({"steps": 9}, "steps: expected 2 (one a block) to 8 (one a token), found 9"),
    ({"steps": None}, ONE + "None and None"),
    ({"tokens_per_step": 2}, ONE + "4 and 2"),
    ({"steps": None, "tokens_per_step": 0}, "tokens_per_step: expected 1 to 4, found 0"),
    ({"steps": None, "tokens_per_step": 5}, "tokens_per_step: expected 1 to 4, found 5"),
    (
        {"quota": Factor()},
        "steps, tokens_per_step, quota: expected exactly one of them, found 4, None and "
        "Factor(factor=1.0)",
    ),
    (
        {"quota": Factor(), "steps": None, "tokens_per_step": 2},
        "steps, tokens_per_step, quota: expected exactly one of them, found None, 2 and "
        "Factor(factor=1.0)",
    ),
    ({"block_length": None}, "block_length: expected at least 1 in mode 'block', found None"),
    ({"block_length": 0}, "block_length: expected at least 1 in mode 'block', found 0"),
    ({"block_length": -4}, "block_length: expected at least 1 in mode 'block', found -4"),
    ({"block_length": 3}, "block_length: expected a divisor of new_tokens = 8, found 3"),
    ({"mode": "full"}, "block_length: expected none in mode 'full', found 4"),
    ({"guidance": -0.5}, "guidance: " + FINITE + "-0.5"),
    ({"guidance": INFINITE}, "guidance: " + FINITE + "inf"),
    ({"guidance": NO_NUMBER}, "guidance: " + FINITE + "nan"),
    ({"temperature": -0.5}, "temperature: " + FINITE + "-0.5"),
    ({"temperature": INFINITE}, "temperature: " + FINITE + "inf"),
    (
        {"sampler": "map", "temperature": 0.5},
        "temperature: expected none with sampler 'map', found 0.5",
    ),
    *(
        (
            {"temperature": value},
            "temperature: expected 1 with sampler 'exact' (no sharper joint can be drawn "
            f"exactly; 'latent' and 'any_order' take one), found {value}",
        )
        for value in (0.0, 2.0)
    ),
    *(
        ({"sampler": "any_order", "top_p": p}, f"top_p: expected 0 < top_p <= 1, found {p}")
        for p in (0.0, -0.5, 1.5)
    ),
    *(
        (
            {"sampler": sampler, "top_p": 1.0},
            f"top_p: expected none with sampler {sampler!r} (only 'any_order' can truncate), "
            "found 1.0",
        )
        for sampler in ("exact", "latent", "map")
    ),
    ({"mask_ratio_limit": -0.5}, "mask_ratio_limit: expected 0 to 1, found -0.5"),
    ({"mask_ratio_limit": 1.5}, "mask_ratio_limit: expected 0 to 1, found 1.5"),
    ({"stop": ((1,), ())}, "stop: expected sequences of at least one token, found none in one"),
    (
        {"capture": True, "sampler": "any_order"},
        "capture: expected sampler 'exact' or 'latent' ('any_order' conditions its window token by "
        "token), found 'any_order'",
    ),
    (
        {"revision": CappedRevision(), "steps": None, "tokens_per_step": 2},
        "revision: expected `steps`, which say when to stop, found none",
    ),
    (
        {"stochastic": True, "steps": None, "tokens_per_step": 2},
        "stochastic: expected `steps`, which say when to stop, found none",
    ),
    (
        {"stochastic": True, "revision": LoopRevision()},
        "stochastic: expected False with a revision that has its own schedule, found True",
    ),
    (
        {"sampler": "best"},
        f"sampler: expected one of {', '.join(map(repr, SAMPLERS))}, found 'best'",
    ),
    (
        {"coupling": "glue"},
        f"coupling: expected one of {', '.join(map(repr, codd.COUPLING_NAMES))}, found 'glue'",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BEYOND, ids=lambda value: str(value)[:40])
def test_all_beyond_the_limits_is_refused_in_full(changes: dict[str, Any], message: str) -> None:
    with refused(message):
        options(**changes)


# Texts that a file gives are equal to the names in the code, and not the same objects.
def of_a_file(names: Any) -> list[str]:
    return list(json.loads(json.dumps(list(names))))


@pytest.mark.parametrize("sampler", of_a_file(SAMPLERS))
@pytest.mark.parametrize("mode", of_a_file(MODES))
def test_names_may_be_texts_of_a_file(sampler: str, mode: str) -> None:
    same = {known: known for known in (*SAMPLERS, *MODES, *SELECTIONS)}
    assert same[sampler] is not sampler and same[mode] is not mode
    if sampler == "map":
        return
    model = mixture_model(4, 3, window=4, block=4, seed=2)
    for selection, coupling in zip(
        of_a_file(SELECTIONS), of_a_file(["factorised"] * 5), strict=True
    ):
        found, expected = (
            generate(model, empty_prompts(6), 4, 3, mode=m, sampler=s, selection=c, coupling=k)
            for m, s, c, k in (
                (mode, sampler, selection, coupling),
                (same[mode], same[sampler], same[selection], "factorised"),
            )
        )
        assert torch.equal(found.completions, expected.completions)
    for name in (sampler, mode):
        with pytest.raises(DecodingError, match="mode: expected one of 'block', 'full', found"):
            options(mode=name + "s")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"remasking": "low_confidence"}, {"selection": "low_confidence"}),
        ({"alg": "maskgit_plus"}, {"selection": "low_confidence"}),
        ({"alg": "topk_margin"}, {"selection": "margin"}),
        ({"remasking": "confidence"}, {"selection": "low_confidence"}),
        ({"alg": "left-to-right"}, {"selection": "left_to_right"}),
        ({"alg": "entropy"}, {"selection": "entropy"}),
        ({"threshold": 0.5}, {"quota": Threshold(0.5)}),
        ({"factor": 2.0}, {"quota": Factor(2.0)}),
        ({"eos_token_id": 0}, {"end_id": 0}),
        ({"output_history": False}, {"record_history": False}),
        ({"max_gen_len": 4, "cfg_scale": 0.5}, {"new_tokens": 4, "guidance": 0.5}),
        ({"alg": None, "threshold": None}, {}),
        (
            {"alg": None, "threshold": 0.5, "gen_length": 3},
            {"quota": Threshold(0.5), "new_tokens": 3},
        ),
    ],
)
def test_spellings_are_read(given: dict[str, Any], expected: dict[str, Any]) -> None:
    own = dict.fromkeys(SPELLINGS.values())
    found = read_spellings(own, {of_a_file([name])[0]: value for name, value in given.items()})
    assert {name: value for name, value in found.items() if value is not None} == expected
    assert read_spellings({"selection": of_a_file(["origin"])[0]}, {})["selection"] == "random"
    assert given_value(of_a_file(["new_tokens"])[0], {"gen_length": 4}) == 4
    assert given_value("new_tokens", {"num_steps": 4, "new_tokens": None}) is None


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (
            rows([10, 1], [10] * 9, [10] * 8),
            "sequences[1]: expected at most 8 tokens, found 9",
        ),
        (
            rows([10, 9], [0, 10, 11, -1], [12]),
            "sequences[1]: expected ids 0 to 9 or the mask id 10, found 11",
        ),
        (rows([0], [0, -1]), "sequences[1]: expected ids 0 to 9 or the mask id 10, found -1"),
        (
            [*rows([1]), torch.zeros(2)],
            "sequences[1]: expected int64 of one dimension, found torch.float32 of shape (2,)",
        ),
        (
            [torch.zeros(1, 2, dtype=torch.int64)],
            "sequences[0]: expected int64 of one dimension, found torch.int64 of shape (1, 2)",
        ),
        (
            rows([10, 10], [10, 10, 10, 1], [10]),
            "steps: expected 1 to 3, the most masked tokens of a sequence, found 4",
        ),
    ],
)
def test_sequences_are_named_by_their_number(sequences: Any, message: str) -> None:
    model = counting()
    with refused(message):
        infill(model, sequences, 4)
    check_sequences(rows([10, 10], [10, 10, 10, 1], [10] * 8), 8, model)
    check_sequences(rows([10, 10], [10, 10, 10, 1]), 3, model)
    check_sequences(rows([1]), None, model)
    with refused("prompts[2]: expected ids 0 to 9, found 10"):
        generate(model, rows([0], [9, 9], [10]), 4, 1)
    assert generate(model, rows([0], [9, 9], [9]), 4, 1).denoiser_calls == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("new_tokens", 4), ("mode", "full"), ("block_length", 2), ("end_id", 0), ("stop", [[1]])],
)
def test_what_is_about_prompts_is_none_of_infilling(name: str, value: Any) -> None:
    with refused(f"{name}: expected none when filling in, found {value!r}"):
        infill(counting(), rows([10, 1]), 1, **{name: value})
    with refused("new_tokens: expected none when filling in, found 4"):
        infill(counting(), rows([10, 1]), 1, stop=[[1]], end_id=0, new_tokens=4)


def test_the_model_s_limits_are_named() -> None:
    model = counting()
    for given, message in (
        (
            {"block_length": 7, "new_tokens": 7},
            "block_length: expected at most the model's window, 6, found 7",
        ),
        (
            {"mode": "full", "new_tokens": 9},
            "new_tokens: expected at most the model's longest sequence, 8, found 9",
        ),
    ):
        with refused(message):
            generate(model, rows([0]), steps=3, **given)  # type: ignore[arg-type]
    longest = "block_length: expected at most the model's longest sequence, 5, found 6"
    with refused(longest):
        generate(counting(max_length=5), rows([0]), 6, 3, block_length=6)
    whole = generate(model, rows([0]), 8, 3, mode="full")
    assert whole.completions.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    six = generate(model, rows([0]), 6, 3, block_length=6)
    assert six.completions.tolist() == [[1, 2, 3, 4, 5, 6]]
    with refused("capture: expected a model whose step can be captured, found CountingModel"):
        generate(model, rows([0]), 4, 1, capture=True)
    with refused("new_tokens: expected how many tokens to generate, found None"):
        generate(model, rows([0]), steps=1)
