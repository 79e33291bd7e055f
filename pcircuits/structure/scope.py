"""The set of variables that a node is a function of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pcircuits.errors import StructureError


@dataclass(frozen=True, slots=True)
class Scope:
    """Immutable set of variable indices.

    Kept as one integer whose bit `i` says that variable `i` is a member, so that the scopes of a
    chain of 10,000 variables take megabytes and not gigabytes.

    Args:
        bits: The members as a bit mask.

    Examples:
        >>> scope = pc.Scope.of([0, 2, 5])
        >>> 2 in scope, len(scope), sorted(scope)
        (True, 3, [0, 2, 5])
        >>> scope.bits == 2**0 + 2**2 + 2**5
        True
    """

    bits: int = 0

    @classmethod
    def of(cls, variables: Iterable[int]) -> Scope:
        """Makes the scope of the given variables.

        Raises:
            StructureError: If a variable is negative.
        """
        bits = 0
        for variable in variables:
            if variable < 0:
                raise StructureError(f"a scope holds variables 0, 1, 2, ...; found {variable}")
            bits |= 1 << variable
        return cls(bits)

    def __or__(self, other: Scope) -> Scope:
        return Scope(self.bits | other.bits)

    def __and__(self, other: Scope) -> Scope:
        return Scope(self.bits & other.bits)

    def __xor__(self, other: Scope) -> Scope:
        return Scope(self.bits ^ other.bits)

    def __contains__(self, variable: object) -> bool:
        return isinstance(variable, int) and variable >= 0 and bool(self.bits >> variable & 1)

    def __len__(self) -> int:
        return self.bits.bit_count()

    def __iter__(self) -> Iterator[int]:
        bits = self.bits
        while bits:
            lowest = bits & -bits
            yield lowest.bit_length() - 1
            bits ^= lowest

    def __repr__(self) -> str:
        return "{" + ", ".join(_runs(self)) + "}"


def _runs(scope: Scope) -> Iterator[str]:
    """Writes members as runs, `0-3`, so that messages about long scopes stay short."""
    start = previous = None
    for variable in scope:
        if previous is not None and variable == previous + 1:
            previous = variable
            continue
        if start is not None:
            yield str(start) if start == previous else f"{start}-{previous}"
        start = previous = variable
    if start is not None:
        yield str(start) if start == previous else f"{start}-{previous}"
