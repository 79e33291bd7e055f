"""Every harness with its seeds and some thousand changed ones: the quick part of fuzzing."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest

from tests.fuzz.__main__ import added
from tests.fuzz.choices import HOSTILE, Choices, changed_json
from tests.fuzz.target import ALLOWED, Target
from tests.fuzz.targets import TARGETS

# A run of these builds a network.
SLOW = {"network-config": 4, "shard-index": 20, "coupled-model": 15, "cache": 40, "shard": 20}


def changed(seed: bytes, source: random.Random) -> bytes:
    """The seed with one to eight bytes set, cut out or said again."""
    data = bytearray(seed)
    for _ in range(source.randint(1, 8)):
        place = source.randrange(len(data) + 1)
        match source.randrange(4):
            case 0 if data:
                data[place % len(data)] = source.randrange(256)
            case 1 if data:
                data[place % len(data)] ^= 1 << source.randrange(8)
            case 2:
                del data[place : place + source.randint(1, 9)]
            case _:
                start = source.randrange(len(data) + 1)
                data[place:place] = data[start : start + source.randint(1, 9)]
    return bytes(data)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_libraries_own_errors(name: str) -> None:
    target, source = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    for seed in seeds[: SLOW.get(name, 60)]:
        with contextlib.suppress(*ALLOWED):
            target.run(seed)
    for _ in range(SLOW.get(name, 120)):
        data = changed(source.choice(seeds), source)
        with contextlib.suppress(*ALLOWED):
            target.run(data)


# Their files name tensors that are not there.
REFUSED = ("codd-checkpoint", "model-bytes")
ACCEPTED = [target for target in TARGETS.values() if target.name not in REFUSED]


@pytest.mark.parametrize("target", ACCEPTED, ids=lambda target: target.name)
def test_some_seed_is_read(target: Target) -> None:
    """A harness all of whose inputs are refused at once would test nothing."""
    for seed in target.seeds():
        with contextlib.suppress(*ALLOWED):
            target.run(seed)
            return
    pytest.fail(f"every seed of {target.name} is refused")


def test_choices_end_with_the_bytes() -> None:
    choices = Choices(b"\x05\x07")
    assert [choices.below(4), choices.below(300), choices.below(10)] == [1, 7 * 256 % 300, 0]
    assert choices.left == 0


def test_changed_json_changes_a_copy() -> None:
    value = {"a": [1, {"b": 2}], "c": "d"}
    found = [changed_json(value, Choices(bytes([i, 3, i, 7, i]))) for i in range(64)]
    assert value == {"a": [1, {"b": 2}], "c": "d"}
    assert any(each != value for each in found)


def test_runs_add_up_until_a_finding() -> None:
    first = {"name": "a", "seconds": 10.5, "executions": 7, "finding": ""}
    wrong = {**first, "finding": "IndexError"}
    other = {**first, "name": "b"}
    twice = added(added([first], other), first)
    assert twice == [{**first, "seconds": 21.0, "executions": 14}, other]
    assert added(twice, wrong) == [wrong, other]
    assert added([wrong], first) == [first]


def test_a_planted_finding_is_seen() -> None:
    run: Callable[[bytes], None] = lambda data: [][len(data)]  # noqa: E731
    with pytest.raises(IndexError), contextlib.suppress(*ALLOWED):
        run(b"")
    assert HOSTILE
