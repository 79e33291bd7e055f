"""Numbers of categories, given for all variables at once or for each."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.errors import StructureError


def categories_of(num_categories: int | Sequence[int], length: int) -> tuple[int, ...]:
    """Numbers of categories of L variables, given as one number or one for each.

    Raises:
        StructureError: If there are not as many as variables.
    """
    if isinstance(num_categories, int):
        return (num_categories,) * length
    if len(num_categories) != length:
        raise StructureError(
            f"num_categories must be one number, or one for each of the {length} variables; found "
            f"{len(num_categories)} numbers"
        )
    return tuple(num_categories)
