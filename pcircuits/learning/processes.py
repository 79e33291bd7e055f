"""Learning by several processes: each evaluates its share of every batch, sums are added up.

All processes are given the same data and walk through the same batches, so the result is that of
one process but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pcircuits.errors import CircuitError


@dataclass(frozen=True)
class Processes:
    """This process and those it works with.

    Attributes:
        group: The processes, or None for this one alone.
        device: Where tensors that are sent must be: the parameters' device.

    Examples:
        >>> alone = pc.Processes(group=None, device=torch.device("cpu"))
        >>> alone.rank, alone.size
        (0, 1)
        >>> alone.share(torch.arange(4))  # this process evaluates all rows of a batch
        tensor([0, 1, 2, 3])
        >>> alone.add({"counts": torch.tensor([2.0])})["counts"]
        tensor([2.])
    """

    group: dist.ProcessGroup | None
    device: torch.device

    @property
    def rank(self) -> int:
        """Number of this process among them, from 0."""
        return 0 if self.group is None else dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """How many there are."""
        return 1 if self.group is None else dist.get_world_size(self.group)

    def share(self, index: Tensor) -> Tensor:
        """The part of a batch's row indices that this process evaluates; may be empty."""
        return index if self.group is None else index[self.rank :: self.size]

    def add(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum over all processes of tensors of the same names, shapes and type."""
        if self.group is None:
            return dict(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors.values()])
        dist.all_reduce(flat, group=self.group)
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        return {n: p.view_as(t) for (n, t), p in zip(tensors.items(), parts, strict=True)}

    def add_number(self, number: float) -> float:
        """Sum over all processes of a number."""
        if self.group is None:
            return number
        total = torch.tensor([number], dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=self.group)
        return float(total)

    def any(self, flag: bool) -> bool:
        """Whether some process says so."""
        return flag if self.group is None else self.add_number(float(flag)) > 0

    def fail_together(self, error: CircuitError | None) -> None:
        """Raises in all processes if one has an error, so that none waits for another in vain.

        Raises:
            CircuitError: This process's error, or one that says that another failed.
        """
        failed = self.any(error is not None)
        if error is not None:
            raise error
        if failed:
            raise CircuitError("another process could not evaluate its rows; see its error")

    @torch.no_grad()
    def agree(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrites tensors by those of the first process."""
        if self.group is not None:
            for tensor in tensors.values():
                dist.broadcast(tensor, group=self.group, group_src=0)
