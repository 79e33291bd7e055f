"""Validations as curves in TensorBoard, which is imported only here and only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codd.errors import ConfigError
from codd.training.run_state import HistoryEntry


def tensorboard_log(folder: str | Path, name: str) -> Callable[[HistoryEntry], None]:
    """What `optimise` and the other loops take as `log`.

    A resumed run goes on in the same folder; a step that was logged twice is drawn twice.

    Args:
        folder: Where TensorBoard looks.
        name: Prefix of the curves, such as the stage.

    Raises:
        ConfigError: If the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("logging to TensorBoard needs the extra `train`") from error
    writer = SummaryWriter(str(folder))

    def log(entry: HistoryEntry) -> None:
        for kind, value in (("train", entry.train_loss), ("valid", entry.valid_loss)):
            writer.add_scalar(f"{name}/{kind}_loss", value, entry.step)
        writer.flush()

    return log
