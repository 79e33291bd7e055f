"""Processes that a launcher as `torchrun` started: how they meet, who has which rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from codd.errors import ConfigError


def torchrun_share() -> tuple[int, int]:
    """(rank, size) as the launcher set them in the environment; (0, 1) without one.

    Raises:
        ConfigError: If they are no numbers, or the rank is not below the size.
    """
    words = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, size = (int(word) for word in words)
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE: expected numbers, found {words}") from error
    if not 0 <= rank < size:
        raise ConfigError(f"RANK, WORLD_SIZE: expected rank below size, found {words}")
    return rank, size


@contextmanager
def launched_group(device_type: str = "cpu") -> Iterator[dist.ProcessGroup | None]:
    """All processes of the launcher, joined while the context lasts; None for one alone.

    Use it in a function: a group that a global name still holds on to when the interpreter ends may
    abort the process, since its threads run on.

    Args:
        device_type: Where they train: "cuda" joins them by nccl, each with the device of its
            `LOCAL_RANK`; "cpu" by gloo.
    """
    if torchrun_share()[1] == 1:
        yield None
        return
    on_gpu = device_type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def check_shares(group: dist.ProcessGroup | None, batch_size: int) -> None:
    """Checks that every process has a row of every batch.

    Raises:
        ConfigError: If there are more processes than rows.
    """
    size = 1 if group is None else dist.get_world_size(group)
    if batch_size < size:
        raise ConfigError(
            f"batch_size: expected at least one row for each of {size} processes, found "
            f"{batch_size}"
        )


def micro_batches(rows: Tensor, count: int) -> Iterator[Tensor]:
    """A process's rows of a batch in at most `count` nearly equal parts, none of them empty."""
    for part in rows.tensor_split(count):
        if len(part):
            yield part
