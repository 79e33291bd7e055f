"""Tries a property on random circuits of every kind, and keeps how many and how well it held.

A property is a function of a `Trial`. `over_circuits` makes a test of it:

    @over_circuits("an all-missing row equals log Z")
    def test_missing_rows(trial: Trial) -> None:
        trial.compare(found, expected)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from pcircuits.parameters import check_log_weights
from tests.support.evidence import Case, possible_part
from tests.support.kinds import kinds
from tests.support.oracle import Oracle, oracle_of

# Circuits that are drawn, at least one of each family, and how many each property is tried on,
# others for each; or so many as are asked for.
DRAWN, FEW = 40, 14
CIRCUITS = int(os.environ.get("PCIRCUITS_CIRCUITS", "0"))
IMPLEMENTATIONS = ("reference", "eager", "fused", "numba", "triton")
# Interpreted without a device, a kernel takes a thousand times as long: one case of so many.
_INTERPRETED = 12


class NotApplicable(Exception):
    """The property says nothing of a circuit, which then is not counted."""


@dataclass
class Record:
    """What a run has seen of one property.

    Attributes:
        circuits: Circuits it was tried on.
        compared: Numbers compared.
        error: Largest error, relative to numbers above one.
        tolerance: What that may be.
        implementations: Implementation -> circuits that it evaluated.
    """

    circuits: int = 0
    compared: int = 0
    error: float = 0.0
    tolerance: float = 0.0
    implementations: dict[str, int] = field(default_factory=dict)


RECORDS: dict[str, Record] = {}


@dataclass(frozen=True)
class Trial:
    """A random case, and dice for what else a property needs.

    Attributes:
        case: Circuit, parameters and evidence.
        dice: Random numbers.
        record: Where comparisons are counted.
        triton: Whether kernels for CUDA devices are tried as well.
    """

    case: Case
    dice: np.random.Generator
    record: Record
    triton: bool = False

    @property
    def circuit(self) -> pc.Circuit:
        return self.case.circuit

    @property
    def length(self) -> int:
        return self.circuit.num_variables

    @cached_property
    def plan(self) -> pc.Plan:
        return pc.compile_circuit(self.circuit)

    @cached_property
    def worlds(self) -> Oracle:
        """All worlds, in plain sums."""
        return oracle_of(self.case)

    @property
    def batch(self) -> int:
        """Examples B of evidence and parameters together."""
        return len(self.worlds.weights)

    @property
    def given(self) -> tuple[pc.Plan, dict[str, Tensor], pc.Evidence]:
        """The first arguments of most queries."""
        return self.plan, self.case.parameters, self.case.evidence

    def shared(self) -> Trial:
        """The trial with parameters that all examples share: those of the first example.

        Examples that are impossible under these are left out.

        Raises:
            NotApplicable: If there are no others.
        """
        shapes = self.circuit.parameter_shapes
        own = self.case.parameters
        first = {n: t[0] if t.ndim > len(shapes[n]) else t for n, t in own.items()}
        possible = possible_part(Case(self.circuit, first, self.case.evidence))
        if possible is None:
            raise NotApplicable
        return self.of(possible)

    def normalised(self) -> Trial:
        """The trial with weights that are distributions.

        Raises:
            NotApplicable: If some row has no weight above zero.
        """
        own = self.case.parameters
        try:
            check_log_weights(self.plan, own)
        except pc.errors.ParameterError as error:
            raise NotApplicable from error
        normal = {n: pc.normalise_parameter(self.plan, n, t) for n, t in own.items()}
        return self.of(Case(self.circuit, normal, self.case.evidence))

    def of(self, case: Case) -> Trial:
        """The same dice for another case."""
        return replace(self, case=case)

    def applies(self, condition: object) -> None:
        """Leaves the circuit out unless the condition is true.

        Raises:
            NotApplicable: If it is not.
        """
        if not condition:
            raise NotApplicable

    @cached_property
    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed())

    def seed(self) -> int:
        return int(self.dice.integers(2**31))

    def normal(self, *shape: int) -> Tensor:
        return torch.as_tensor(self.dice.normal(size=shape))

    def implementations(self, case: Case | None = None) -> list[str]:
        """Those that can evaluate a case, by default the trial's own."""
        own = case or self.case
        found = []
        for name in IMPLEMENTATIONS:
            if name == "triton" and not self.triton:
                continue
            if name != "reference":
                try:
                    plan = self.plan if own is self.case else pc.compile_circuit(own.circuit)
                    pc.choose_implementation(plan, own.parameters, own.evidence, impl=name)
                except pc.errors.BackendError:
                    continue
            found.append(name)
        return found

    def evaluations(self, case: Case | None = None) -> dict[str, Tensor]:
        """Implementation -> (B,) log-values of a case."""
        own = case or self.case
        plan = self.plan if own.circuit is self.circuit else pc.compile_circuit(own.circuit)
        names = self.implementations(case)
        for name in names:
            known = self.record.implementations
            known[name] = known.get(name, 0) + 1
        return {name: pc.forward(plan, own.parameters, own.evidence, impl=name) for name in names}

    def compare(self, found: object, expected: object, *, scale: float = 1.0) -> None:
        """Keeps the largest error; infinities have to agree, and nothing may be NaN.

        Args:
            found: Numbers.
            expected: Numbers of the same shape.
            scale: Size of what they were computed from, which rounding is relative to.
        """
        left, right = _array(found), _array(expected)
        assert left.shape == right.shape, f"shape {left.shape}, expected {right.shape}"
        assert not np.isnan(left).any() and not np.isnan(right).any(), f"NaN: {left}, {right}"
        infinite = np.isinf(right)
        assert (left[infinite] == right[infinite]).all(), f"{left} is not {right}"
        size = np.maximum(scale, abs(right[~infinite]))
        error = float((np.abs(left[~infinite] - right[~infinite]) / size).max(initial=0.0))
        record = self.record
        record.error, record.compared = max(record.error, error), record.compared + right.size
        assert error <= record.tolerance, f"off by {error:.3g}:\n{left}\nis not\n{right}"

    def equal(self, found: Tensor, expected: Tensor) -> None:
        """The same bits."""
        assert torch.equal(found, expected), f"{found} is not {expected}"
        self.record.compared += expected.numel()

    def holds(self, condition: object, what: str = "") -> None:
        """Counts a claim that is true or false."""
        assert bool(condition), what
        self.record.compared += 1


def over_circuits(
    name: str, *, tolerance: float = 1e-9, possible: bool = True, few: int = FEW
) -> Callable[[Callable[[Trial], None]], Callable[[], None]]:
    """Makes a test of a property: it tries it on random circuits of every kind.

    Args:
        name: The property in words, under which it is counted.
        tolerance: Largest error.
        possible: Whether examples with impossible evidence are left out.
        few: Circuits where no number is asked for.
    """

    def decorate(check: Callable[[Trial], None]) -> Callable[[], None]:
        def test() -> None:
            record = RECORDS.setdefault(name, Record(tolerance=tolerance))
            share = 1 if torch.cuda.is_available() else _INTERPRETED
            for place, (kind, case) in _chosen(name, few):
                own = possible_part(case) if possible else case
                if own is None:
                    continue
                dice = np.random.default_rng([_number(name), place])
                try:
                    check(Trial(own, dice, record, place % share == 0))
                except NotApplicable:
                    continue
                except Exception as error:
                    error.add_note(f"{name}: case {place}, {kind}: {own.circuit!r}")
                    raise
                record.circuits += 1

        test.__name__, test.__doc__ = check.__name__, check.__doc__ or name
        test.__module__ = check.__module__
        return test

    return decorate


def _chosen(name: str, few: int) -> list[tuple[int, tuple[str, Case]]]:
    """The cases that a property is tried on, with their places among all."""
    every = list(enumerate(pool(CIRCUITS or DRAWN)))
    step = 1 if CIRCUITS else len(every) // few
    return every[_number(name) % step :: step]


@cache
def pool(wanted: int) -> tuple[tuple[str, Case], ...]:
    """At least so many random cases with their kinds; all properties are tried on the same."""
    found: list[tuple[str, Case]] = []
    for kind, count, strategy in kinds(wanted, most=3):
        found += [(kind, case) for case in _drawn(count, strategy, _number(kind))]
    return tuple(found)


def _drawn(count: int, strategy: st.SearchStrategy[Case], start: int) -> list[Case]:
    found: list[Case] = []

    @seed(start)
    @settings(max_examples=count + 1)
    @given(strategy)
    def collect(case: Case) -> None:
        found.append(case)

    if count:
        collect()
    # hypothesis begins with the simplest case of all, which says little.
    return found[-count:] if count else []


def _number(name: str) -> int:
    """A seed of its own for each name, the same on every run."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")


def table() -> str:
    """Markdown: property, circuits tried, numbers compared, largest error, largest allowed one."""
    rows = [
        f"| {name} | {r.circuits:,} | {r.compared:,} | {r.error:.1e} | {r.tolerance:.0e} |"
        for name, r in RECORDS.items()
    ]
    head = "| property | circuits tried | numbers compared | worst error | allowed |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def _array(numbers: object) -> np.ndarray:
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().double().numpy()
    return np.asarray(numbers, float)
