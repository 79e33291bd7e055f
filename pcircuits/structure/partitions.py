"""Splits of a region, a set of variables, into disjoint smaller ones."""

from __future__ import annotations

from collections.abc import Iterable

from pcircuits.errors import StructureError
from pcircuits.structure.scope import Scope

Partition = tuple[Scope, ...]
"""The parts that a region is split into."""

RegionLike = Scope | Iterable[int] | int
"""A region as a scope, as its variables, or as its one variable."""


def as_region(region: RegionLike) -> Scope:
    """A region as a scope.

    Raises:
        StructureError: If a variable is named twice.
    """
    if isinstance(region, Scope):
        return region
    variables = (region,) if isinstance(region, int) else tuple(region)
    scope = Scope.of(variables)
    if len(scope) != len(variables):
        raise StructureError(f"a region names each variable once; found {list(variables)}")
    return scope


def check_partitions(region: Scope, partitions: tuple[Partition, ...]) -> None:
    """Checks the partitions of a region.

    Raises:
        StructureError: If there is none, one is no partition of it, or two are the same.
    """
    if not partitions:
        raise StructureError(f"region {region} has an empty list of partitions; leave a leaf out")
    for partition in partitions:
        _check_partition(region, partition)
    # Parts in another order are the same split.
    if len({frozenset(partition) for partition in partitions}) < len(partitions):
        raise StructureError(f"region {region} is given the same partition twice")


def _check_partition(region: Scope, partition: Partition) -> None:
    problem = _problem(region, partition)
    if problem:
        parts = " | ".join(map(repr, partition)) or "nothing"
        raise StructureError(f"partition of region {region} into {parts}: {problem}")


def _problem(region: Scope, partition: Partition) -> str | None:
    if region in partition:
        return "a cycle, the region would be a part of itself"
    if len(partition) < 2 or not all(partition):
        return "expected at least two parts, none of them empty"
    union = Scope()
    for part in partition:
        if union & part:
            return f"the parts overlap in {union & part}"
        union = union | part
    return None if union == region else f"the parts differ from the region in {union ^ region}"


def first_region(regions: Iterable[Scope]) -> Scope:
    """The smallest of some regions, to be named in a message."""
    return min(regions, key=lambda region: (len(region), region.bits))
