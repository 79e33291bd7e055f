"""Libraries that only some files need."""

from __future__ import annotations

import importlib
from typing import Any

from pcircuits.errors import FormatError


def pandas() -> Any:
    """The module pandas, with what it reads and writes Parquet with.

    Raises:
        FormatError: If one of the two is not installed.
    """
    try:
        module = importlib.import_module("pandas")
        importlib.import_module("pyarrow")
    except ImportError as error:
        raise FormatError(
            "Parquet files need pandas and pyarrow, which are not installed"
        ) from error
    return module
