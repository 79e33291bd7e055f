"""Checks that all families share."""

from pcircuits.errors import StructureError


def check_length(length: int) -> None:
    """Checks a number of variables.

    Raises:
        StructureError: If it is not an integer of at least 1.
    """
    if not isinstance(length, int) or length < 1:
        raise StructureError(f"length must be an integer >= 1; found {length!r}")
