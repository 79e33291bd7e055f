"""Sums over segments: nodes of one layer with unequal numbers of children.

Terms (E, B, K) lie one after the other, each node's together; results are (F, B, K).
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from pcircuits.compile.plan import SegmentLayer
from pcircuits.execute.weights import Step

_INDICES: WeakKeyDictionary[SegmentLayer, dict[torch.device, Tensor]] = WeakKeyDictionary()


def node_index(layer: SegmentLayer, device: torch.device) -> Tensor:
    """(E,) node that each term belongs to; copied once to each device."""
    found = _INDICES.setdefault(layer, {})
    if device not in found:
        found[device] = torch.as_tensor(layer.nodes, device=device)
    return found[device]


def segment_sum(terms: Tensor, layer: SegmentLayer) -> Tensor:
    """(F, B, K) sum of each node's terms."""
    total = terms.new_zeros(layer.num_nodes, *terms.shape[1:])
    return total.index_add(0, node_index(layer, terms.device), terms)


def segment_log_sum(terms: Tensor, layer: SegmentLayer) -> tuple[Tensor, Step]:
    """(F, B, K) log-sum-exp of each node's terms, with what its gradient needs.

    A node all of whose terms are -inf has the value -inf and the gradient zero.
    """
    index = node_index(layer, terms.device)
    top = segment_maximum(terms.detach(), layer).clamp_min_(torch.finfo(terms.dtype).min)
    e = (terms - top[index]).exp()
    total = segment_sum(e, layer)
    dead = total == 0
    log = torch.where(dead, 1.0, total).log() + top
    return log.masked_fill(dead, -torch.inf), Step(e, total)


def segment_maximum(terms: Tensor, layer: SegmentLayer) -> Tensor:
    """(F, ...) largest of each node's terms."""
    top = terms.new_full((layer.num_nodes, *terms.shape[1:]), -torch.inf)
    index = node_index(layer, terms.device).view(-1, *[1] * (terms.ndim - 1))
    return top.scatter_reduce(0, index.expand_as(terms), terms, "amax")


def segment_others(terms: Tensor, layer: SegmentLayer) -> Tensor:
    """(E, B, K) for each term the sum of its node's other terms.

    Running sums over the terms of one rank after the other: to subtract the own term from the whole
    sum would lose digits, and everything where it is -inf.
    """
    index = node_index(layer, terms.device)
    ranks = torch.as_tensor(layer.ranks, device=terms.device)
    steps = [(ranks == rank).nonzero()[:, 0] for rank in range(int(ranks.max()) + 1)]
    return _running(terms, steps, index, layer) + _running(terms, steps[::-1], index, layer)


def _running(terms: Tensor, steps: list[Tensor], index: Tensor, layer: SegmentLayer) -> Tensor:
    run = terms.new_zeros(layer.num_nodes, *terms.shape[1:])
    found, order = [], torch.cat(steps)
    for at in steps:
        nodes = index[at]
        found.append(run[nodes])
        run = run.index_add(0, nodes, terms[at])
    return torch.cat(found)[order.argsort()]
