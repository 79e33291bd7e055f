"""Descriptions changed by somebody who knows the format: with the checksum that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pcircuits as pc


def edit_description(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a description in place and puts its right checksum in."""
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    path.write_text(json.dumps(pc.files.with_checksum(description)), encoding="utf-8")
