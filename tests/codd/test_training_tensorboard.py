"""Validations become TensorBoard's curves."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from codd.errors import ConfigError
from codd.training.run_state import HistoryEntry
from codd.training.tensorboard import tensorboard_log


def test_every_validation_is_two_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            points.append((name, value, step))

        def flush(self) -> None:
            points.append(("flushed", 0.0, 0))

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", Writer, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)

    tensorboard_log(tmp_path, "circuit")(HistoryEntry(20, 1.5, 2.5, 3.0))

    assert points == [
        ("circuit/train_loss", 1.5, 20),
        ("circuit/valid_loss", 2.5, 20),
        ("flushed", 0.0, 0),
    ]


def test_its_absence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    with pytest.raises(ConfigError, match="extra `train`"):
        tensorboard_log(tmp_path, "circuit")
