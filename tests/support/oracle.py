"""Every query's answer from the list of all worlds, in plain numpy sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.support.enumeration import enumerate_worlds
from tests.support.evidence import Case

Array = np.ndarray


@dataclass(frozen=True)
class Oracle:
    """All worlds of a case whose evidence is possible.

    Attributes:
        worlds: (W, L) integers.
        weights: (B, W) weight of each world, evidence included.
        bare: (B, W) the same without the evidence on variables.
        factors: (B, W, L) factors of each variable's own evidence.
        categories: Number of categories of each variable.
    """

    worlds: Array
    weights: Array
    bare: Array
    factors: Array
    categories: tuple[int, ...]

    @property
    def posterior(self) -> Array:
        """(B, W) probability of each world."""
        return self.weights / self.weights.sum(1, keepdims=True)

    def table(self, variables: Sequence[int]) -> Array:
        """(B, V, V', ...) joint posterior of some variables."""
        found = np.zeros((len(self.weights), *(self.categories[v] for v in variables)))
        at = (slice(None), *(self.worlds[:, v] for v in variables))
        np.add.at(found, at, self.posterior)
        return found

    def entropy(self, variables: Sequence[int]) -> Array:
        """(B,) entropy of some variables together, in nats."""
        if not variables:
            return np.zeros(len(self.weights))
        return entropy(self.table(variables).reshape(len(self.weights), -1))

    def information(
        self, first: Sequence[int], second: Sequence[int], given: Sequence[int]
    ) -> Array:
        """(B,) conditional mutual information of sets of variables."""
        return (
            self.entropy([*first, *given])
            + self.entropy([*second, *given])
            - self.entropy([*first, *second, *given])
            - self.entropy([*given])
        )

    def additive(self, functions: Array) -> Array:
        """(F, W) values of additive functions (F, L, V)."""
        length = self.worlds.shape[1]
        return sum(functions[:, i, self.worlds[:, i]] for i in range(length))

    def place(self, values: Array) -> Array:
        """(B,) index of whole assignments (B, L) in the list of worlds."""
        return np.ravel_multi_index(np.asarray(values).T, self.categories)


def oracle_of(case: Case) -> Oracle:
    """Visits all worlds of a case."""
    found = enumerate_worlds(case.circuit, case.parameters, case.evidence)
    weights = found.weights * found.factors.prod(axis=2)
    return Oracle(found.worlds, weights, found.weights, found.factors, case.circuit.categories)


def entropy(probabilities: Array) -> Array:
    """Entropy of the last axis in nats."""
    positive = probabilities > 0
    return -(probabilities * np.log(np.where(positive, probabilities, 1.0))).sum(-1)


@dataclass
class Tally:
    """How many answers were compared, and the largest error of each query.

    Attributes:
        circuits: Circuits so far.
        compared: Query -> numbers compared.
        errors: Query -> largest error, relative to numbers above one.
        sources: Kind of circuit -> how many.
    """

    circuits: int = 0
    compared: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)

    def compare(self, query: str, found: object, expected: object) -> None:
        """Keeps the largest error; infinities have to agree, and nothing may be NaN."""
        left = np.asarray(found.detach().numpy() if hasattr(found, "detach") else found, float)
        right = np.asarray(expected, float)
        assert left.shape == right.shape, f"{query}: shape {left.shape}, expected {right.shape}"
        assert not np.isnan(left).any() and not np.isnan(right).any(), f"{query}: NaN"
        infinite = np.isinf(right)
        assert (left[infinite] == right[infinite]).all(), f"{query}: {left} is not {right}"
        errors = np.abs(left[~infinite] - right[~infinite]) / np.maximum(1, abs(right[~infinite]))
        largest = float(errors.max(initial=0.0))
        self.errors[query] = max(self.errors.get(query, 0.0), largest)
        self.compared[query] = self.compared.get(query, 0) + right.size

    def holds(self, query: str, condition: bool | np.bool_) -> None:
        """Counts a claim that is true or false."""
        assert condition, query
        self.compare(query, 0.0, 0.0)

    def add(self, other: Tally) -> None:
        """Takes in what another one has counted."""
        self.circuits += other.circuits
        self.sources |= other.sources
        for query, error in other.errors.items():
            self.errors[query] = max(self.errors.get(query, 0.0), error)
            self.compared[query] = self.compared.get(query, 0) + other.compared[query]

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.sources.items()))
        rows = [
            f"{query:32s} {self.compared[query]:12,d} {self.errors[query]:14.2e}"
            for query in sorted(self.errors)
        ]
        head = f"{'query':32s} {'compared':>12s} {'largest error':>14s}"
        worst = max(self.errors.values(), default=0.0)
        return "\n".join(
            [f"{self.circuits:,} circuits ({kinds})", head, *rows, f"largest of all: {worst:.2e}"]
        )
