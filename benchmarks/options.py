"""Values of command-line options, checked."""

from __future__ import annotations

import argparse
from pathlib import Path


def positive(text: str) -> int:
    """A number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1; found {text!r}")
    return int(text)


def json_file(text: str) -> Path:
    """A file for JSON."""
    if not text.endswith(".json"):
        raise argparse.ArgumentTypeError(f"expected a file that ends in .json; found {text!r}")
    return Path(text)
