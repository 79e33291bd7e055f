"""Expectation-maximisation: how the expected counts of batches become parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.learning.flows import flows, maximise
from pcircuits.learning.rows import rows_of


@dataclass(frozen=True)
class EMState:
    """What mini-batch EM remembers between batches.

    Attributes:
        step: Batches seen.
        counts: Name -> running expected counts on the scale of the whole data; None at the start.

    Examples:
        >>> state = pc.EMState()
        >>> model = pc.CircuitModel(pc.families.factorized(2, num_categories=2))
        >>> settings = pc.EMSettings("online")
        >>> for batch in torch.tensor([[0, 0], [1, 1], [0, 1], [0, 1]]).split(2):
        ...     rows = pc.Evidence(batch)
        ...     weights, state, _ = pc.em_step(
        ...         model.plan, model.log_parameters(), state, rows, settings, num_rows=4
        ...     )
        ...     model.set_log_parameters(weights)
        >>> state.step
        2
    """

    step: int = 0
    counts: Mapping[str, Tensor] | None = None


Algorithm = Literal["plain", "online", "anemone"]


@dataclass(frozen=True)
class EMSettings:
    """How the expected counts of batches become parameters.

    - "plain": from the batch's counts alone. On all rows at once this is EM as it was published
      (Dempster, Laird and Rubin, JRSS B 1977), which never lowers the likelihood times the prior.
    - "online": from a running average of the batches' counts (Cappe and Moulines, "On-line
      expectation-maximization algorithm for latent data models", JRSS B 2009, section 2).
    - "anemone": from the batches' counts with momentum, joined with the counts that the current
      model expects of itself, so that one batch moves each distribution only so far as data
      reaches it (Liu and Van den Broeck, "Rethinking probabilistic circuit parameter learning",
      arXiv 2505.19982).

    Attributes:
        algorithm: Which of the three.
        decay: Exponent of online EM's step sizes (k + 1)^-decay, in (0.5, 1].
        warmup: Online EM's first batches, which are plainly averaged before the parameters are
            touched, so that a good starting point is not forgotten for one small batch.
        step_size: Share of the data's counts in Anemone's update, in (0, 1]; the rest are the
            model's own.
        momentum: Share of the earlier batches in Anemone's running counts, in [0, 1).
        pseudocount: Expected count added to each distribution, spread over its non-zero weights,
            on the scale of the whole data. Zero allows weights to become exactly zero, under which
            unseen data may be impossible.

    Examples:
        >>> rows = pc.Evidence(torch.tensor([[0, 0], [0, 0], [1, 1], [1, 0]]))
        >>> model = pc.CircuitModel(pc.families.factorized(2, num_categories=2))
        >>> settings = pc.EMSettings("plain", pseudocount=2.0)
        >>> weights, state, _ = pc.em_step(
        ...     model.plan, model.log_parameters(), pc.EMState(), rows, settings, num_rows=4
        ... )
        >>> weights["input_1"].exp().detach()  # (3 + 1) / 6, (1 + 1) / 6
        tensor([[0.6667, 0.3333]])
    """

    algorithm: Algorithm = "online"
    decay: float = 0.7
    warmup: int = 1
    step_size: float = 0.4
    momentum: float = 0.9
    pseudocount: float = 0.1

    def __post_init__(self) -> None:
        if self.algorithm not in ("plain", "online", "anemone"):
            raise ValueError(
                f"algorithm must be 'plain', 'online' or 'anemone'; found {self.algorithm!r}"
            )
        if not 0.5 < self.decay <= 1 or self.warmup < 1:
            raise ValueError(
                f"expected decay in (0.5, 1] and warmup >= 1; found {self.decay}, {self.warmup}"
            )
        if not 0 < self.step_size <= 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                f"expected step_size in (0, 1] and momentum in [0, 1); found {self.step_size}, "
                f"{self.momentum}"
            )
        if not (self.pseudocount >= 0 and math.isfinite(self.pseudocount)):
            raise ValueError(f"expected a finite pseudocount >= 0; found {self.pseudocount}")


def em_step(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    state: EMState,
    evidence: Evidence,
    settings: EMSettings,
    *,
    num_rows: float,
    weights: Tensor | None = None,
) -> tuple[dict[str, Tensor], EMState, Tensor]:
    """One step of EM on a batch; see `EMSettings` for the algorithms.

    Args:
        plan: The compiled circuit.
        parameters: Name -> current log-weights of the declared shape.
        state: What earlier steps left.
        evidence: Evidence about the batch.
        settings: Algorithm, step sizes and smoothing.
        num_rows: Rows N of the whole data (their total weight where they have weights), which the
            pseudocounts are relative to.
        weights: (B,) how often each row counts; default once.

    Returns:
        New log-weights, the new state, and the batch's (B,) log-values before the step.

    Raises:
        EvidenceError: If the evidence does not fit, weights are negative or not finite, or an
            example of positive weight is impossible.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(2, num_categories=2))
        >>> rows = pc.Evidence(torch.tensor([[0, 0], [0, 0], [0, 1], [1, 0]]))
        >>> settings = pc.EMSettings("plain", pseudocount=0.0)
        >>> weights, state, log_values = pc.em_step(
        ...     model.plan, model.log_parameters(), pc.EMState(), rows, settings, num_rows=4
        ... )
        >>> weights["input_0"].exp().detach()  # frequencies
        tensor([[0.7500, 0.2500]])
        >>> log_values.shape
        torch.Size([4])
    """
    batch = rows_of(plan, evidence, weights=weights)
    counts, value = flows(plan, parameters, evidence, weights=batch.weights)
    scaled = scaled_counts(counts, num_rows / batch.total_weight)
    found, new = em_update(plan, parameters, state, scaled, settings, num_rows=num_rows)
    return found, new, value


def em_update(
    plan: Plan,
    parameters: Mapping[str, Tensor],
    state: EMState,
    counts: dict[str, Tensor],
    settings: EMSettings,
    *,
    num_rows: float,
) -> tuple[dict[str, Tensor], EMState]:
    """Takes a batch's counts into the state and maximises.

    Args:
        plan: The compiled circuit.
        parameters: Name -> log-weights that the counts were taken under.
        state: What earlier steps left.
        counts: Name -> the batch's expected counts, scaled to the whole data.
        settings: Algorithm, step sizes and smoothing.
        num_rows: Rows N, or total weight, of the whole data.

    Returns:
        Name -> new log-weights of the same shapes, and the new state.

    Examples:
        >>> model = pc.CircuitModel(pc.families.factorized(1, num_categories=2))
        >>> rows = pc.Evidence(torch.tensor([[0], [0], [0], [1]]))
        >>> counts, _ = pc.flows(model.plan, model.log_parameters(), rows)
        >>> settings = pc.EMSettings("plain", pseudocount=0.0)
        >>> weights, state = pc.em_update(
        ...     model.plan, model.log_parameters(), pc.EMState(), counts, settings, num_rows=4
        ... )
        >>> weights["input_0"].exp().detach()
        tensor([[0.7500, 0.2500]])
    """
    step, target, kept = state.step + 1, counts, None
    if settings.algorithm == "online":
        warming = state.step < settings.warmup
        rate = 1.0 / step if warming else step**-settings.decay
        target = kept = _mix(state.counts, counts, rate)
        if step < settings.warmup:
            return dict(parameters), EMState(step, kept)
    elif settings.algorithm == "anemone":
        fresh = 1.0 - settings.momentum
        kept = _mix(state.counts or scaled_counts(counts, 0.0), counts, fresh)
        # The average starts at zero, so early it is too small by a known factor.
        target = scaled_counts(kept, 1.0 / (1.0 - settings.momentum**step))
        if settings.step_size < 1:
            own, _ = flows(plan, parameters, Evidence())
            target = _mix(scaled_counts(own, num_rows), target, settings.step_size)
    return maximise(plan, target, settings.pseudocount, parameters), EMState(step, kept)


def scaled_counts(counts: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Name -> counts, each multiplied by a number."""
    if scale == 1.0:
        return dict(counts)
    return {name: count * scale for name, count in counts.items()}


def _mix(
    running: Mapping[str, Tensor] | None, counts: dict[str, Tensor], rate: float
) -> dict[str, Tensor]:
    """Moves running counts towards others by a share."""
    if running is None or rate == 1.0:
        return counts
    return {n: (1 - rate) * running[n] + rate * count for n, count in counts.items()}
