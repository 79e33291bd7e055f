"""Accuracy over tokens per forward, and the one figure that the field makes of such a curve.

AUP, accuracy under parallelism (Qian et al. 2026, d3LLM, arXiv 2601.07568): of points with
parallelism r_1 < ... < r_m in tokens per forward and accuracies y_i in percent, those with
y_i >= y_1 - 5 count, and

    AUP = r_1 y_1 + sum over i > 1 of (r_i - r_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2,
    W(y) = min(exp(-alpha (1 - y / y_max)), 1), alpha = 3,

where y_max is the highest accuracy that any method reaches on the task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from codd.errors import EvaluationError

ALPHA = 3.0
TOLERANCE = 5.0


def accuracy_under_parallelism(
    parallelism: Sequence[float],
    accuracies: Sequence[float],
    best: float,
    *,
    alpha: float = ALPHA,
    tolerance: float = TOLERANCE,
) -> float:
    """AUP of one method's curve.

    Args:
        parallelism: Tokens per forward of each point, increasing.
        accuracies: Accuracy of each point, in percent.
        best: y_max, in percent; 0 if no method is ever right, and then AUP is 0.
        alpha: How hard lower accuracies are punished.
        tolerance: Percentage points that a point may lie below the first.

    Raises:
        EvaluationError: If the curve is empty or not a curve, or no percentages.
    """
    increasing = all(a < b for a, b in pairwise(parallelism))
    if len(parallelism) != len(accuracies) or not parallelism or not increasing:
        raise EvaluationError(
            f"AUP: expected points of increasing parallelism, found {list(parallelism)} with "
            f"{len(accuracies)} accuracies"
        )
    if parallelism[0] <= 0 or not all(0 <= y <= 100 for y in (*accuracies, best)):
        raise EvaluationError(
            f"AUP: expected parallelism above 0 and percentages, found {parallelism[0]} and "
            f"{list(accuracies)}, best {best}"
        )
    if best == 0:
        return 0.0
    points = [
        (r, y)
        for r, y in zip(parallelism, accuracies, strict=True)
        if y >= accuracies[0] - tolerance
    ]
    weighted = [y * min(math.exp(-alpha * (1 - y / best)), 1.0) for _, y in points]
    area = points[0][0] * points[0][1]
    for i in range(1, len(points)):
        area += (points[i][0] - points[i - 1][0]) * (weighted[i] + weighted[i - 1]) / 2
    return area
