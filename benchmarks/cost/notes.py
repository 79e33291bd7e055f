"""What a run has finished, so that an interrupted one continues."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import write_text


class Notes:
    """Results by name and by everything that they depend on, a JSON file each.

    Args:
        folder: Where they are; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, name: str, depends: Mapping[str, Any], compute: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The result, computed if it is not noted for the same dependencies.

        Args:
            name: What it is.
            depends: JSON values.
            compute: Gives JSON values.
        """
        key = json.dumps({"name": name, **depends}, sort_keys=True)
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
        if path.is_file():
            noted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["result"]
            return noted
        result = compute()
        write_text(path, json.dumps({"key": json.loads(key), "result": result}, indent=1))
        return result


class ProcessorClock:
    """Processor seconds of a stage at its checkpoints, over all its resumed parts.

    Wall time would count what else the machine had to do.

    Args:
        path: JSON file: step -> seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = time.process_time()

    def mark(self, step: int) -> None:
        """Says that a step is done whose checkpoint is about to be written."""
        now, marks = time.process_time(), self.seconds()
        before = max((done for done in marks if done < step), default=0)
        marks[step] = marks.get(before, 0.0) + now - self.last
        self.last = now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(marks))

    def seconds(self) -> dict[int, float]:
        """Step -> seconds since the stage began."""
        if not self.path.is_file():
            return {}
        read = json.loads(self.path.read_text(encoding="utf-8"))
        return {int(step): seconds for step, seconds in read.items()}
