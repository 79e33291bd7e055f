"""From where on an implementation is taken, how work is shared out, and words on wrong input."""

from __future__ import annotations

import math
import re
import threading

import numpy as np
import pytest
import torch

import pcircuits as pc
from pcircuits.errors import EvidenceError, OutOfMemoryError, ParameterError
from pcircuits.execute import choice, eager
from pcircuits.execute.fused import conditions, memory
from pcircuits.execute.fused.program import program_of
from pcircuits.execute.numba import threads

OFF = -math.inf


def test_a_thousand_edges_of_single_nodes_are_many() -> None:
    """A chain of L variables and single states has 3 L - 2 edges."""
    for length, implementation in ((333, "eager"), (334, "numba")):
        model = pc.CircuitModel(pc.families.hmm(length, 1, 2))
        assert model.plan.num_edges == 3 * length - 2
        assert model.implementation(pc.Evidence()).implementation == implementation


def test_edges_as_many_as_the_limit_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pc.CircuitModel(pc.families.hmm(5, 1, 2))
    for limit, implementation in ((13, "numba"), (14, "eager")):
        monkeypatch.setattr(choice, "MANY_EDGES", limit)
        assert model.implementation(pc.Evidence()).implementation == implementation


def test_4096_values_are_many() -> None:
    plan = pc.compile_circuit(pc.families.hmm(32, 16, 2))
    per_row = program_of(plan).num_values
    enough = -(-(2**12) // per_row)
    assert enough > 1
    prepared = pc.prepare(plan, pc.random_parameters(plan))
    for batch in (enough - 1, enough):
        evidence = pc.Evidence(torch.zeros(batch, 32, dtype=torch.long))
        assert conditions.has_many_values(plan, prepared, evidence) is (batch == enough)


@pytest.mark.parametrize("number, most", [(1, 4), (7, 3), (6, 3), (3, 8), (100, 7), (5, 1)])
def test_parts_are_shared_out_evenly(
    number: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: most)
    ranges: dict[int, tuple[int, ...]] = {}
    here = threading.get_ident()
    own: list[bool] = []

    def run(parts: range) -> None:
        ranges[parts.start] = tuple(parts)
        own.append(threading.get_ident() == here)

    threads.in_threads(run, number)
    expected = min(number, most)
    assert threads.num_threads(number) == expected
    assert threads.num_threads(0) == 1
    assert len(ranges) == expected and own.count(True) == 1
    assert ranges[0][0] == 0
    assert [part for start in sorted(ranges) for part in ranges[start]] == list(range(number))
    sizes = [len(own) for own in ranges.values()]
    assert max(sizes) - min(sizes) <= 1


def test_an_error_of_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    def run(parts: range) -> None:
        if 2 in parts:
            raise ValueError("of another thread")

    with pytest.raises(ValueError, match="of another thread"):
        threads.in_threads(run, 3)


def test_a_pool_grows_and_is_kept() -> None:
    pool = threads._Pool()
    two = pool.of(2)
    assert pool.of(1) is two and pool.of(2) is two
    three = pool.of(3)
    assert three is not two and pool.of(3) is three
    pool.forget()
    assert pool.of(1) is not three


def test_arrays_of_a_block_begin_where_vectors_may(monkeypatch: pytest.MonkeyPatch) -> None:
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    monkeypatch.setattr(memory, "_FREE", [])
    wanted = [((3, 5), single), ((16,), single), ((2,), double)]
    block = memory.block_for(wanted)
    arrays = memory.carve(block, wanted)
    starts = [own.__array_interface__["data"][0] for own in arrays]
    # Multiples of 64 bytes, and 17 times 64 bytes between them.
    assert [start - starts[0] for start in starts] == [0, 64 + 1088, 128 + 2 * 1088]
    assert starts[0] % 64 == 0 and len(block) == 192 + 3 * 1088
    assert [own.shape for own in arrays] == [(3, 5), (16,), (2,)]
    assert [own.dtype for own in arrays] == [single, single, double]
    assert memory.array_of((0, 3), single).shape == (0, 3)


def test_blocks_are_kept_up_to_16_mebibytes_and_six_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free: list[object] = []
    monkeypatch.setattr(memory, "_FREE", free)
    largest = 1 << 24
    for size, kept in ((largest + 1, 0), (largest, 1)):
        block = memory._block(size)
        assert len(block) == size
        del block
        assert len(free) == kept
    assert len(memory._block(0)) == 0
    blocks = [memory._block(1000 + size) for size in range(8)]
    assert len(free) == 1
    del blocks
    assert len(free) == 6 and largest not in [len(own) for own in free]


def test_a_free_block_is_taken_by_those_it_is_not_far_too_large_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free: list[object] = []
    monkeypatch.setattr(memory, "_FREE", free)
    block = memory._block(4000)
    del block
    for size, taken in ((4001, False), (999, False), (1000, True), (4000, True)):
        lent = memory._block(size)
        assert (len(lent) == 4000) is taken
        assert (len(free) == 0) is taken
        del lent
        free[:] = [own for own in free if len(own) == 4000]


VALUES = torch.tensor([[0, 1, 2], [1, 0, 3]])
SOFT = torch.zeros(2, 3, 4)


def refused(kind: type[Exception], message: str) -> object:
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


def test_evidence_is_told_what_is_wrong_with_it() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    parameters = pc.random_parameters(plan)

    def forward(evidence: pc.Evidence) -> None:
        pc.forward(plan, parameters, evidence)

    infinite = SOFT.clone()
    infinite[1, 2, 3] = math.inf
    wrong = VALUES.clone()
    wrong[1, 2] = 4
    negative = VALUES.clone()
    negative[0, 1] = -1
    listed = torch.tensor([[[0, 4]] * 3] * 2)
    for message, make in {
        "values must be of type integer with 2 axes; found torch.float32 with shape (2, 3, 4)": (
            lambda: pc.Evidence(SOFT)
        ),
        "values must be a tensor; found list": lambda: pc.Evidence([[0]]),
        "observed has shape (2, 2); expected (2, 3)": (
            lambda: pc.Evidence(VALUES, VALUES[:, :2].bool())
        ),
        "observed is given without values; expected both": (
            lambda: pc.Evidence(observed=VALUES.bool())
        ),
        "log_potentials has shape (2, 2); expected (2, 3)": (
            lambda: pc.Evidence(VALUES, log_potentials=SOFT[:, :2])
        ),
        "log_potentials[1, 2, 3] is inf; expected log-potentials below +inf": (
            lambda: pc.Evidence(log_potentials=infinite)
        ),
        "categories has shape (2, 3, 2); expected (2, 3, 4)": (
            lambda: pc.Evidence(log_potentials=SOFT, categories=listed)
        ),
        "evidence is about no example; expected a batch of at least one": (
            lambda: pc.Evidence(VALUES[:0])
        ),
        "evidence mixes batch sizes [1, 2]; expected one": (
            lambda: pc.Evidence(VALUES, latent_log_potentials={"state_0": torch.zeros(1, 2)})
        ),
        "values has 2 variables; the circuit has 3": lambda: pc.Evidence(VALUES[:, :2]),
        "log_potentials has 4 variables; the circuit has 3": (
            lambda: pc.Evidence(log_potentials=torch.zeros(2, 4, 4))
        ),
        "log_potentials has 3 categories; the circuit has 4": (
            lambda: pc.Evidence(log_potentials=SOFT[..., :3])
        ),
        "values[1, 2] is 4; variable 2 has categories 0 .. 3": lambda: pc.Evidence(wrong),
        "values[0, 1] is -1; variable 1 has categories 0 .. 3": lambda: pc.Evidence(negative),
        "categories holds 0 .. 4; the circuit has categories 0 .. 3": (
            lambda: pc.Evidence(log_potentials=SOFT[..., :2], categories=listed)
        ),
        "categories holds -1 .. 3; the circuit has categories 0 .. 3": (
            lambda: pc.Evidence(log_potentials=SOFT[..., :2], categories=listed - 1)
        ),
        "latent_log_potentials['state_0'] has 3 units; node 'state_0' has 2": (
            lambda: pc.Evidence(latent_log_potentials={"state_0": torch.zeros(2, 3)})
        ),
        "latent_log_potentials names 'x'; the circuit's nodes are "
        + ", ".join(list(plan.places)[:8])
        + ", ...": lambda: pc.Evidence(latent_log_potentials={"x": torch.zeros(2, 3)}),
    }.items():
        with refused(EvidenceError, message):
            forward(make())


def test_values_that_do_not_count_may_be_anything() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    parameters = pc.random_parameters(plan)
    values = torch.tensor([[3, -7, 99]])
    seen = torch.tensor([[True, False, False]])
    for kind in (torch.int64, torch.int32, torch.int16, torch.int8):
        found = pc.forward(plan, parameters, pc.Evidence(values.to(kind), seen))
        expected = pc.forward(plan, parameters, pc.Evidence(values.clamp(0, 3), seen))
        torch.testing.assert_close(found, expected)
        with refused(EvidenceError, "values[0, 1] is -7; variable 1 has categories 0 .. 3"):
            pc.forward(plan, parameters, pc.Evidence(values.to(kind)))


def test_evidence_knows_its_batch_and_mask() -> None:
    assert pc.Evidence().batch_size == 1 and pc.Evidence().mask() is None
    assert pc.Evidence(VALUES).batch_size == 2 and pc.Evidence(VALUES).mask().all()
    latent = pc.Evidence(latent_log_potentials={"a": torch.zeros(5, 1)})
    assert latent.batch_size == 5 and latent.mask() is None
    rebound = pc.Evidence(VALUES, log_potentials=SOFT).rebound(SOFT + 1)
    assert rebound.log_potentials[0, 0, 0] == 1 and rebound.values is VALUES


def test_parameters_are_told_what_is_wrong_with_them() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=4))
    good = pc.random_parameters(plan)
    start = good["initial"]
    for message, change in {
        "parameters must be named ['emission', 'initial', 'transition']; missing ['initial'], "
        "unknown ['other']": {"initial": None, "other": start},
        "parameter 'initial' must be float32 or float64; found torch.float16": {
            "initial": start.half()
        },
        "parameter 'initial' must be float32 or float64; found list": {"initial": [0.0, 0.0]},
        "parameter 'initial' has shape (3,); expected (2,), or (B, ...) of it": {
            "initial": torch.zeros(3)
        },
        "parameter 'initial' has shape (0, 2); expected (2,), or (B, ...) of it": {
            "initial": torch.zeros(0, 2)
        },
        "parameter 'initial' has shape (1, 1, 2); expected (2,), or (B, ...) of it": {
            "initial": torch.zeros(1, 1, 2)
        },
        "parameter 'initial' is given for 3 examples, others for 2; expected one batch size": {
            "initial": torch.zeros(3, 2),
            "emission": torch.zeros(2, 2, 4),
        },
    }.items():
        changed = {name: own for name, own in {**good, **change}.items() if own is not None}
        order = ["emission", "transition", "initial", "other"]
        with refused(ParameterError, message):
            pc.prepare(plan, {name: changed[name] for name in order if name in changed})


@pytest.mark.parametrize(
    ("raised", "is_told"),
    [
        (MemoryError("of Python"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (OutOfMemoryError("told already"), False),
        (RuntimeError("another"), False),
    ],
)
def test_too_little_memory_is_told_once(
    raised: Exception, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(*_: object) -> None:
        raise raised

    monkeypatch.setattr(eager, "log_value", evaluate)
    plan = pc.compile_circuit(pc.families.factorized(2, num_categories=3))
    parameters = pc.random_parameters(plan, seed=0)
    rows = pc.Evidence(torch.zeros(5, 2, dtype=torch.int64))
    with pytest.raises(type(raised) if not is_told else OutOfMemoryError) as found:
        pc.forward(plan, parameters, rows, impl="eager")
    if is_told:
        assert found.value.__cause__ is raised
        assert "for 5 examples at once: expected fewer rows a call" in str(found.value)
    else:
        assert found.value is raised


@pytest.mark.parametrize("impl", ["eager", "fused", "numba", "reference"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_a_weight_that_is_no_number_is_named(
    impl: str, number: float, learned: bool, soft: bool
) -> None:
    states = 1 if impl == "numba" else 3
    plan = pc.compile_circuit(pc.families.hmm(4, states, 5))
    evidence = pc.Evidence(torch.tensor([[0, 1, 2, 3], [2, 2, 4, 2]]))
    if soft:
        evidence = pc.Evidence(log_potentials=torch.zeros(2, 4, 5))
    for name in ("emission",) if impl == "fused" else ("transition", "emission"):
        parameters = pc.random_parameters(plan)
        place = [size - 1 for size in parameters[name].shape]
        parameters[name][tuple(place)] = number
        given = {own: log.requires_grad_(learned) for own, log in parameters.items()}
        with pytest.raises(ParameterError, match=re.escape(f"'{name}'{place} is {number};")):
            pc.forward(plan, given, evidence, impl=impl)
        if name == "emission" and impl != "reference":  # which reads what it does not need
            pc.forward(plan, given, pc.Evidence(torch.zeros(2, 4, dtype=torch.long)), impl=impl)


def test_posteriors_say_which_weight_is_no_number() -> None:
    plan = pc.compile_circuit(pc.families.hmm(8, 16, 6))
    parameters = pc.random_parameters(plan)
    parameters["emission"][3, 2] = math.nan
    prepared, evidence = pc.prepare(plan, parameters), pc.Evidence(torch.full((64, 8), 2))
    assert pc.choose_implementation(plan, prepared, evidence).implementation == "fused"
    with pytest.raises(ParameterError, match=re.escape("'emission'[3, 2] is nan;")):
        pc.queries.latent_marginals(plan, prepared, evidence, ["state_0"])
