"""Adaptive rules by name: how many tokens one step commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType

from codd.decoding.budgets import Budget, JointEntropy, TotalCorrelation
from codd.decoding.quotas import AdaptiveQuota, EntropyBound, Factor, Klass, Threshold
from codd.errors import DecodingError

Quota = AdaptiveQuota | Budget

QUOTAS: Mapping[str, Callable[..., Quota]] = MappingProxyType(
    {
        "threshold": Threshold,
        "factor": Factor,
        "entropy_bound": EntropyBound,
        "klass": Klass,
        "total_correlation": TotalCorrelation,
        "joint_entropy": JointEntropy,
    }
)


def quota_from_text(text: str) -> Quota:
    """Reads a rule such as "threshold=0.9", "klass=0.01,0.6" or "entropy_bound".

    Args:
        text: A name in `QUOTAS`, with its numbers in order if others than the default are wanted.

    Raises:
        DecodingError: If the name is unknown, or the numbers are too many, impossible or none.
    """
    name, _, numbers = text.partition("=")
    if name not in QUOTAS:
        listed = ", ".join(repr(known) for known in QUOTAS)
        raise DecodingError(f"quota: expected one of {listed}, found {text!r}")
    try:
        values = [float(number) for number in numbers.split(",")] if numbers else []
    except ValueError as error:
        raise DecodingError(f"quota: expected numbers after {name!r}, found {text!r}") from error
    most = len(fields(QUOTAS[name]))  # type: ignore[arg-type]
    if len(values) > most:
        raise DecodingError(
            f"quota: expected at most {most} numbers after {name!r}, found {text!r}"
        )
    return QUOTAS[name](*values)
