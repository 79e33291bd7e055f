"""Has small circuits evaluated as large ones are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pcircuits.execute import choice
from pcircuits.execute.fused import conditions


@contextmanager
def fast_choice(wanted: bool = True) -> Iterator[None]:
    """Fused and compiled passes for circuits of any size, where they apply at all.

    Args:
        wanted: False changes nothing.
    """
    before = choice.MANY_EDGES, conditions._MANY_VALUES
    if wanted:
        choice.MANY_EDGES = conditions._MANY_VALUES = 0
    try:
        yield
    finally:
        choice.MANY_EDGES, conditions._MANY_VALUES = before
