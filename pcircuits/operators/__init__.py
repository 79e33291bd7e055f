"""Operators: circuits with weights to circuits with weights."""

from pcircuits.operators.condition import condition
from pcircuits.operators.grow import grow
from pcircuits.operators.marginalise import marginalise
from pcircuits.operators.mixture import mixture
from pcircuits.operators.multiply import multiply, square
from pcircuits.operators.normalise import normalise
from pcircuits.operators.power import power
from pcircuits.operators.prune import prune

__all__ = [
    "condition",
    "grow",
    "marginalise",
    "mixture",
    "multiply",
    "normalise",
    "power",
    "prune",
    "square",
]
