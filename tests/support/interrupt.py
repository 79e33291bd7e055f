"""Ctrl-C at a chosen step of a training loop."""

from __future__ import annotations

import signal
from types import ModuleType

import pytest


def interrupt_during(monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: int) -> None:
    """Raises SIGINT while a loop module seeds the given step, counted from 0."""
    real = module.step_seed

    def seed(base: int, current: int) -> int:
        if current == step:
            signal.raise_signal(signal.SIGINT)
        return int(real(base, current))

    monkeypatch.setattr(module, "step_seed", seed)
