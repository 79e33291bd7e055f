"""Checks that all families share."""

from collections.abc import Sequence

from pcircuits.errors import StructureError


def check_length(length: int) -> None:
    """Checks a number of variables.

    Raises:
        StructureError: If it is not an integer of at least 1.
    """
    check_at_least("length", length, 1)


def check_at_least(what: str, value: int, least: int) -> None:
    """Checks a size.

    Raises:
        StructureError: If it is not an integer or below the least allowed.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise StructureError(f"{what} must be an integer >= {least}; found {value!r}")


def categories_of(num_categories: int | Sequence[int], length: int) -> Sequence[int]:
    """Numbers of categories of L variables, given as one number or one for each.

    Raises:
        StructureError: If there are not as many as variables.
    """
    if isinstance(num_categories, int):
        return [num_categories] * length
    if len(num_categories) != length:
        raise StructureError(
            f"num_categories must be one number, or one for each of the {length} variables; found "
            f"{len(num_categories)} numbers"
        )
    return num_categories
