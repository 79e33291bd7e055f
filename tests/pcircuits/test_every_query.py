"""Every query of every kind of circuit against the list of all worlds, in float64.

Random circuits, irregular graphs, deterministic circuits and small instances of every family, with
evidence of every kind. The run of every day takes 200 circuits; a longer one takes as many as it
is told, and prints how many there were and the largest error of each query:

    PCIRCUITS_CIRCUITS=1000 python -m pytest tests/pcircuits/test_every_query.py -k enumeration
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from tests.support.circuits import SEEDS
from tests.support.evidence import Case, possible_part
from tests.support.kinds import FAMILIES, kinds
from tests.support.oracle import Tally, oracle_of
from tests.support.query_checks import CHECKS, Trial

TOLERANCE = 1e-9
CIRCUITS = int(os.environ.get("PCIRCUITS_CIRCUITS", "0"))
WANTED = CIRCUITS or 200
KINDS = {kind: (count, strategy) for kind, count, strategy in kinds(WANTED)}
MOST_WORLDS = {2: 2**12, 3: 3**7}

# Compared with another query in a test of its own, or no query of any circuit.
ELSEWHERE = {
    "log_leave_one_out",
    "log_input_values",
    "captured_step",
    "chain_latents",
    "chain_passes",
    "is_chain",
}

# Not circuits: formulas, and plans of regions that the families are made from.
OTHER_NAMES = {"And", "Literal", "Or"}


def test_every_family_is_asked() -> None:
    names = {name for name in pc.families.__all__ if not name.endswith("_regions")}
    assert names - OTHER_NAMES == set(FAMILIES)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """What all kinds of circuits add to; where none was left out, all was asked."""
    found = Tally()
    yield found
    if found.sources.keys() != KINDS.keys():
        return
    if CIRCUITS:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{found}")
    assert found.circuits >= WANTED
    asked = {name for name in pc.queries.__all__ if name[0].islower()} - ELSEWHERE
    assert asked == set(found.errors)


@pytest.mark.parametrize("kind", KINDS)
def test_every_query_equals_enumeration(kind: str, tally: Tally) -> None:
    count, strategy = KINDS[kind]
    own = Tally()
    _run(kind, count, strategy, own)
    tally.add(own)
    assert max(own.errors.values()) <= TOLERANCE, str(own)


def _run(kind: str, count: int, strategy: st.SearchStrategy[Case], tally: Tally) -> None:
    """Checks so many circuits of a kind; cases with impossible evidence have tests of their own."""

    @settings(max_examples=5 * count + 5)
    @given(strategy, SEEDS)
    def check(drawn: Case, seed: int) -> None:
        case = possible_part(drawn) if tally.circuits < count else None
        if case is None:
            return
        worlds = oracle_of(case)
        assert len(worlds.worlds) <= MOST_WORLDS[case.circuit.num_categories]
        trial = Trial(case, worlds, np.random.default_rng(seed), tally)
        for query in CHECKS:
            query(trial)
        tally.circuits += 1
        tally.sources[kind] = tally.circuits

    check()
