"""Expected log-value of one circuit under another, node pair by node pair.

For units n of p and m of q with equal scopes two numbers are kept: the log of p's mass on the
support of m, log sum_x n(x) [m(x) > 0], and the mean of log m(x) over that mass. Sums of p mix
them, sums of q, being deterministic, add up disjoint supports, and products split into independent
factors wherever both circuits do (Vergari et al., "A compositional atlas of tractable circuit
operations", NeurIPS 2021, algorithm 3). Kept as a mean, nothing under- or overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pcircuits.compile.plan import SegmentSumLayer
from pcircuits.errors import StructureError
from pcircuits.execute.layers import log_sum, sum_all
from pcircuits.queries.posterior import Posterior
from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Product, Sum
from pcircuits.structure.scope import Scope


@dataclass(frozen=True)
class _Group:
    """A product of units of several nodes, where the other circuit does not split them.

    Attributes:
        children: Nodes with disjoint scopes.
        units: For each child the unit that each of the group's units takes.
    """

    children: tuple[AnyNode, ...]
    units: tuple[tuple[int, ...], ...]


_Side = Input | Product | KroneckerProduct | Sum | _Group
_Pair = tuple[_Side, _Side]


class _Moments(NamedTuple):
    """(B, K, J) log-mass and mean log-value of K units of p and J units of q."""

    log_mass: Tensor
    mean: Tensor


def expected_log(p: Posterior, q: Posterior) -> tuple[Tensor, Tensor]:
    """Mass of p on the support of q, and the mean of log q over it.

    Args:
        p: A circuit and its evidence.
        q: A compatible, deterministic circuit and its evidence.

    Returns:
        (B,) log of the sum of p's weights over worlds with q > 0, and (B,) the mean of the log of
        q's weight under p's weights over these worlds, zero where there are none. Float64.

    Raises:
        StructureError: If the circuits are not compatible.
    """
    left, right = _Nodes(p), _Nodes(q)
    root = (p.plan.circuit.root, q.plan.circuit.root)
    known: dict[_Pair, _Moments] = {}
    # An explicit stack: circuits may be deeper than Python's.
    stack: list[_Pair] = [root]
    while stack:
        pair = stack[-1]
        needed = [part for part in _parts(pair) if part not in known]
        if pair not in known and needed:
            stack.extend(needed)
            continue
        stack.pop()
        if pair not in known:
            known[pair] = _moments(pair, known, left, right)
    found = known[root]
    return found.log_mass[:, 0, 0], found.mean[:, 0, 0]


class _Nodes:
    """What one circuit's nodes hold, in float64."""

    def __init__(self, given: Posterior) -> None:
        self._given = given
        self._names = given.plan.circuit.node_names

    def input_terms(self, node: Input) -> Tensor:
        """(B, K, V) log-weights of the categories, potentials included."""
        size = node.num_categories
        potentials = self._given.log_potentials[:, node.variable, :size].double()
        return self.log_weights(node) + potentials[:, None]

    def log_weights(self, node: Input | Sum) -> Tensor:
        """(1 or B, K, C) log-weights of an input or a sum."""
        place, fold = self._given.plan.places[self._names[node]]
        layer, log = self._given.plan.layers[place], self._given.prepared.weights[place].log
        if isinstance(layer, SegmentSumLayer):
            edges = torch.as_tensor(layer.nodes == fold, device=log.device)
            return log[edges].permute(1, 2, 0).double()
        return log[fold % len(log)].double()

    def latent(self, side: _Side) -> Tensor | None:
        """(B, K) latent log-potentials of a node."""
        if isinstance(side, _Group):
            return None
        found = self._given.latent.get(self._names[side])
        return None if found is None else found.double()


def _parts(pair: _Pair) -> list[_Pair]:
    """The pairs that a pair is computed from."""
    left, right = pair
    if isinstance(left, Sum):
        return [(child, right) for child in left.children]
    if isinstance(right, Sum):
        return [(left, child) for child in right.children]
    if isinstance(left, Input) and isinstance(right, Input):
        return []
    return [block.pair for block in _blocks(left, right)]


def _moments(pair: _Pair, known: dict[_Pair, _Moments], left: _Nodes, right: _Nodes) -> _Moments:
    ours, theirs = pair
    parts = [known[part] for part in _parts(pair)]
    if isinstance(ours, Sum):
        return _weighted(_mixed(ours, parts, left.log_weights(ours)), left.latent(ours))
    if isinstance(theirs, Sum):
        found = _disjoint(theirs, parts, right.log_weights(theirs))
        return _scaled(found, right.latent(theirs))
    if isinstance(ours, Input) and isinstance(theirs, Input):
        found = _inputs(left.input_terms(ours), right.input_terms(theirs))
        return _scaled(_weighted(found, left.latent(ours)), right.latent(theirs))
    found = _independent(_blocks(ours, theirs), parts)
    if not isinstance(ours, Input):
        found = _weighted(found, left.latent(ours))
    return found if isinstance(theirs, Input) else _scaled(found, right.latent(theirs))


def _inputs(ours: Tensor, theirs: Tensor) -> _Moments:
    """Of (B, K, V) and (B, J, V) log-terms of one variable."""
    possible = theirs > -torch.inf
    support = torch.where(possible, 0.0, -torch.inf).to(ours.dtype)
    joint = ours[:, :, None] + support[:, None]
    return _mean(joint, torch.where(possible, theirs, 0.0)[:, None])


def _mixed(node: Sum, parts: Sequence[_Moments], log: Tensor) -> _Moments:
    """A sum of p: its terms' masses add up, weighted."""
    masses, means = _terms(node, [m for m, _ in parts]), _terms(node, [r for _, r in parts])
    return _mean(log[..., None, :] + masses, means)


def _disjoint(node: Sum, parts: Sequence[_Moments], log: Tensor) -> _Moments:
    """A deterministic sum of q: its terms' supports are disjoint."""
    masses = _terms(node, [m.transpose(1, 2) for m, _ in parts])
    means = _terms(node, [r.transpose(1, 2) for _, r in parts])
    possible = log > -torch.inf
    support = torch.where(possible, 0.0, -torch.inf).to(log.dtype)
    weights = torch.where(possible, log, 0.0)
    found = _mean(support[..., None, :] + masses, weights[..., None, :] + means)
    return _Moments(found.log_mass.transpose(1, 2), found.mean.transpose(1, 2))


def _terms(node: Sum, parts: Sequence[Tensor]) -> Tensor:
    """(B, K or 1, J, C) what each unit of a sum adds up, of parts (B, units of a child, J)."""
    if not node.mixing:
        return torch.cat(list(parts), dim=1).transpose(1, 2)[:, None]
    shape = (node.num_units, parts[0].shape[-1])
    return torch.stack([part.expand(-1, *shape) for part in parts], dim=-1)


def _mean(terms: Tensor, values: Tensor) -> _Moments:
    """Log-sum of the last axis and the mean of values under it, zero where nothing is positive."""
    total = log_sum(terms)
    safe = total.masked_fill(total == -torch.inf, 0.0)
    share = (terms - safe[..., None]).exp()
    return _Moments(total, (share * values).sum(-1))


def _weighted(found: _Moments, latent: Tensor | None) -> _Moments:
    """Latent potentials of a node of p weigh its mass."""
    return found if latent is None else _masked(found.log_mass + latent[..., None], found.mean)


def _scaled(found: _Moments, latent: Tensor | None) -> _Moments:
    """Latent potentials of a node of q scale its value."""
    if latent is None:
        return found
    possible = (latent > -torch.inf)[:, None]
    log_mass = found.log_mass.masked_fill(~possible, -torch.inf)
    return _masked(log_mass, found.mean + torch.where(possible, latent[:, None], 0.0))


def _masked(log_mass: Tensor, mean: Tensor) -> _Moments:
    return _Moments(log_mass, mean.masked_fill(log_mass == -torch.inf, 0.0))


class _Block(NamedTuple):
    """Factors that belong together, with the unit that each unit of the product takes."""

    pair: _Pair
    our_units: tuple[int, ...]
    their_units: tuple[int, ...]


def _independent(blocks: Sequence[_Block], parts: Sequence[_Moments]) -> _Moments:
    """Products: masses multiply, logarithms add up."""
    masses, means = [], []
    for block, part in zip(blocks, parts, strict=True):
        ours = torch.tensor(block.our_units, device=part.mean.device)
        theirs = torch.tensor(block.their_units, device=part.mean.device)
        masses.append(part.log_mass[:, ours][:, :, theirs])
        means.append(part.mean[:, ours][:, :, theirs])
    return _masked(sum_all(masses), sum_all(means))


def _blocks(left: _Side, right: _Side) -> list[_Block]:
    """Splits two products of one scope as finely as both allow."""
    ours, theirs = _factors(left), _factors(right)
    blocks: list[tuple[Scope, _Group, _Group]] = []
    for child, units in zip(ours.children, ours.units, strict=True):
        blocks = _joined(blocks, child.scope, _Group((child,), (units,)), _Group((), ()))
    for child, units in zip(theirs.children, theirs.units, strict=True):
        blocks = _joined(blocks, child.scope, _Group((), ()), _Group((child,), (units,)))
    made = []
    for scope, mine, other in blocks:
        if len(mine.children) > 1 and len(other.children) > 1:
            raise StructureError(
                f"the circuits are not compatible: products of {scope} are split in ways that do "
                f"not fit"
            )
        (side, units), (their_side, their_units) = _simplest(mine), _simplest(other)
        made.append(_Block((side, their_side), units, their_units))
    return made


def _factors(side: _Side) -> _Group:
    """A product, or a node that is not split, as a group."""
    match side:
        case _Group():
            return side
        case Product():
            every = tuple(range(side.num_units))
            return _Group(side.children, (every,) * len(side.children))
        case KroneckerProduct():
            sizes = [child.num_units for child in side.children]
            index = torch.unravel_index(torch.arange(side.num_units), sizes)
            return _Group(side.children, tuple(tuple(part.tolist()) for part in index))
        case _:
            return _Group((side,), (tuple(range(side.num_units)),))


def _joined(
    blocks: list[tuple[Scope, _Group, _Group]], scope: Scope, ours: _Group, theirs: _Group
) -> list[tuple[Scope, _Group, _Group]]:
    """Adds factors to the blocks: those that share variables become one."""
    apart = []
    for other, mine, their in blocks:
        if other & scope:
            scope = scope | other
            ours = _Group(mine.children + ours.children, mine.units + ours.units)
            theirs = _Group(their.children + theirs.children, their.units + theirs.units)
        else:
            apart.append((other, mine, their))
    return [*apart, (scope, ours, theirs)]


def _simplest(group: _Group) -> tuple[_Side, tuple[int, ...]]:
    """A group of one node is the node; of several, itself with units in order."""
    if len(group.children) == 1:
        return group.children[0], group.units[0]
    return group, tuple(range(len(group.units[0])))
