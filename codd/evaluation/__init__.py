"""Evaluation: how much of the factorised output's loss a coupling gives back, and at what price.

Examples:
    >>> from codd.evaluation import GapProtocol
    >>> GapProtocol(block=32).masked_counts  # of a block of 32, at eighths
    (4, 8, 12, 16, 20, 24, 28, 32)
"""

from codd.evaluation.gap import GapProtocol, GapResult, GapVariant, measure_gap

__all__ = ["GapProtocol", "GapResult", "GapVariant", "measure_gap"]
