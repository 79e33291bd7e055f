"""All harnesses by name."""

from __future__ import annotations

from tests.fuzz.circuit_targets import CIRCUIT_TARGETS
from tests.fuzz.codd_targets import CODD_TARGETS

TARGETS = {target.name: target for target in (*CIRCUIT_TARGETS, *CODD_TARGETS)}
