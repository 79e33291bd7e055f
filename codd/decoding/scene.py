"""What a step of decoding starts from, works on, and remembers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from codd.coupling.conditioner import require_possible
from codd.decoding.schedules import Schedule
from codd.denoisers.base import DenoiserOutput


@dataclass(frozen=True, eq=False)
class Scene:
    """What one step starts from.

    Attributes:
        rows: (B,) int64, which rows of the whole batch these are.
        tokens: (B, L) ids in view.
        valid: (B, L) bool, False at padding.
        padded: Whether any row has padding.
        given: (B, L) bool, True at prompts and visible tokens that were never to be generated.
        schedule: How many tokens to fix, if the quota is not adaptive.
        steps_left: Steps left in this region, this one included.
        steps: Steps of this region.
        first: The column of the whole batch at which the view begins.
        ahead: Masked tokens after the region that the denoiser sees too.
        log_probs: (B, L) of each committed token when it was; None if nothing asks for them.
    """

    rows: Tensor
    tokens: Tensor
    valid: Tensor
    padded: bool
    given: Tensor
    schedule: Schedule
    steps_left: int
    steps: int
    first: int
    ahead: int
    log_probs: Tensor | None


@dataclass(frozen=True, eq=False)
class Draft:
    """Tokens in view while a step fixes them.

    Attributes:
        output: What the denoiser said.
        scene: What the step started from.
        coupled: (B,) bool, False where the row is decoded factorised.
        tokens: (B, L) ids, more and more of them fixed.
        log_probs: (B, L) of the tokens that this step fixed, else zero; None if not asked for.
    """

    output: DenoiserOutput
    scene: Scene
    coupled: Tensor
    tokens: Tensor
    log_probs: Tensor | None


class Memory:
    """What steps leave to later ones: marginals to compare with, and what is to be checked.

    Args:
        num_rows: Rows of the whole batch.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._marginals: Tensor | None = None
        self._least_partition: Tensor | None = None

    def forget(self) -> None:
        """Forgets marginals: the next step looks at another window."""
        self._marginals = None

    def exchange(self, rows: Tensor, marginals: Tensor) -> Tensor:
        """Remembers (b, W, V) marginals of rows (b,); returns those before, NaN where none were."""
        if self._marginals is None:
            self._marginals = marginals.new_full((self._num_rows, *marginals.shape[1:]), torch.nan)
        before = self._marginals[rows]
        self._marginals[rows] = marginals
        return before

    def keep_partition(self, rows: Tensor, log_partition: Tensor) -> None:
        """Keeps log Z (b,) of windows of rows (b,) that nothing has looked at yet."""
        if self._least_partition is None:
            self._least_partition = log_partition.new_zeros(self._num_rows)
        least = torch.minimum(self._least_partition[rows], log_partition)
        self._least_partition = self._least_partition.index_copy(0, rows, least)

    def require_possible(self) -> None:
        """Checks the windows that were kept, of all steps at once.

        Raises:
            CouplingError: If a circuit gave some window's visible tokens probability zero.
        """
        if self._least_partition is not None:
            require_possible(self._least_partition)
