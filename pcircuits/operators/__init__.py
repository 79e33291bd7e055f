"""Operators: circuits with weights to circuits with weights.

Examples:
    A model of the sequences that match a pattern:

    >>> hmm = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
    >>> pattern = pc.families.regular_expression("a+b+", 4, ["a", "b"])
    >>> product = pc.operators.multiply(hmm.weighted(), pc.WeightedCircuit(pattern, {}))
    >>> constrained, log_probability = pc.operators.normalise(product)
    >>> worlds = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 1]])  # aabb, baab
    >>> pc.CircuitModel.of(constrained).log_likelihood(worlds).exp().detach() > 0
    tensor([ True, False])
"""

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
