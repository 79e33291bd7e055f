"""The closed-form tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from codd.errors import ConfigError
from codd.evaluation.tasks.base import ClosedTask
from codd.evaluation.tasks.copy import Copy
from codd.evaluation.tasks.latin_square import LatinSquare
from codd.evaluation.tasks.replace import Replace
from codd.evaluation.tasks.reverse import Reverse
from codd.evaluation.tasks.shuffle import Shuffle

TASKS: Mapping[str, type[ClosedTask]] = MappingProxyType(
    {task.name: task for task in (Copy, Replace, Reverse, Shuffle, LatinSquare)}
)


def make_task(name: str, *, num_items: int = 4, num_letters: int = 8) -> ClosedTask:
    """A task by its name.

    Args:
        name: A key of `TASKS`.
        num_items: Letters of a list, or the order of a Latin square.
        num_letters: Letters of the alphabet that lists are drawn from.

    Raises:
        ConfigError: If there is no such task, or a size is impossible.
    """
    if name not in TASKS:
        raise ConfigError(f"task: expected one of {', '.join(TASKS)}, found {name!r}")
    return TASKS[name](num_items=num_items, num_letters=num_letters)
