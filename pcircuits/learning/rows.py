"""The rows to learn from: evidence of any kind about N examples, and how much each counts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError
from pcircuits.execute.evidence import Evidence, check_evidence


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked data.

    Attributes:
        evidence: Evidence about N examples.
        weights: (N,) positive weights, or None where every row counts once.
    """

    evidence: Evidence
    weights: Tensor | None

    def __len__(self) -> int:
        return self.evidence.batch_size

    @property
    def total_weight(self) -> float:
        """Sum of the weights."""
        return float(len(self)) if self.weights is None else float(self.weights.double().sum())

    def weight_of(self, index: Tensor) -> float:
        """Sum of the weights of some rows."""
        weights = self.weights
        return float(len(index)) if weights is None else float(weights[index].double().sum())

    def select(self, index: Tensor | slice) -> Rows:
        """Some of the rows."""
        weights = None if self.weights is None else self.weights[index]
        return Rows(select_rows(self.evidence, index), weights)

    def chunks(self, size: int) -> Iterator[Rows]:
        """All rows in order, at most `size` at once."""
        return (self.select(slice(i, i + size)) for i in range(0, len(self), size))

    def sum(self, log_values: Tensor) -> float:
        """Weighted sum of (N,) log-values."""
        values = log_values.detach().double()
        return float(values.sum() if self.weights is None else values @ self.weights.to(values))

    def fingerprint(self) -> str:
        """SHA-256 of all that is in the rows, to recognise them by."""
        digest = hashlib.sha256()
        evidence = self.evidence
        latent = sorted((evidence.latent_log_potentials or {}).items())
        tensors = (evidence.values, evidence.observed, evidence.log_potentials, evidence.categories)
        for tensor in (*tensors, self.weights, *(t for _, t in latent)):
            if tensor is None:
                digest.update(b"none")
            else:
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        digest.update(repr([name for name, _ in latent]).encode())
        return digest.hexdigest()


def rows_of(
    plan: Plan,
    data: Tensor | Evidence,
    observed: Tensor | None = None,
    weights: Tensor | None = None,
) -> Rows:
    """Checks data, before any work is done with it.

    Args:
        plan: The compiled circuit.
        data: (N, L) integers, or evidence of any kind about N examples.
        observed: (N, L) bool, True = observed; for integers only.
        weights: (N,) how often each row counts; default once.

    Returns:
        The rows, without those of weight zero.

    Raises:
        EvidenceError: If data does not fit the circuit, or weights do not fit the data or are
            negative, not finite, or all zero.
    """
    if isinstance(data, Evidence):
        if observed is not None:
            raise EvidenceError(
                "observed is given beside evidence, which has its own; expected one"
            )
        evidence = data
    else:
        evidence = Evidence(data, observed)
    check_evidence(plan, evidence)
    if weights is None:
        return Rows(evidence, None)
    rows = Rows(evidence, _checked(weights, evidence.batch_size))
    kept = weights > 0
    # A row of weight zero may be impossible, and would then spoil sums.
    return rows if bool(kept.all()) else rows.select(kept)


def select_rows(evidence: Evidence, index: Tensor | slice) -> Evidence:
    """Evidence about some of the examples."""

    def chosen(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[index]

    latent = evidence.latent_log_potentials
    return Evidence(
        values=chosen(evidence.values),
        observed=chosen(evidence.observed),
        log_potentials=chosen(evidence.log_potentials),
        latent_log_potentials=None if latent is None else {n: t[index] for n, t in latent.items()},
        categories=chosen(evidence.categories),
    )


def batches(num_rows: int, batch_size: int | None, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """Row indices of an epoch's mini-batches, in a seeded random order; without size all rows."""
    if batch_size is None:
        return (torch.arange(num_rows),)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    parts: tuple[Tensor, ...] = torch.randperm(num_rows, generator=generator).split(batch_size)
    return parts


def _checked(weights: Tensor, num_rows: int) -> Tensor:
    if not isinstance(weights, Tensor) or tuple(weights.shape) != (num_rows,):
        found = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise EvidenceError(f"weights must be a tensor of shape ({num_rows},); found {found}")
    weights = weights.detach()
    if not bool(((weights >= 0) & (weights < torch.inf)).all()):
        row = int((~((weights >= 0) & (weights < torch.inf))).nonzero()[0])
        raise EvidenceError(f"weights[{row}] is {float(weights[row])}; expected finite and >= 0")
    if not bool((weights > 0).any()):
        raise EvidenceError("all weights are zero; expected a positive one")
    return weights
