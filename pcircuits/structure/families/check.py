"""Checks that all families share."""

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
