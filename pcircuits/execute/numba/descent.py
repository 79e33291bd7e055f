"""Samples of a graph of single nodes, drawn from the root down, one after the other.

Of a sample only the nodes that it takes part in are visited: it costs as much as its own tree,
not as much as the circuit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.numba.arithmetic import compiled, power_of_two
from pcircuits.execute.numba.evaluation import lay_out
from pcircuits.execute.numba.kernels import Numbers, Structure, Tile
from pcircuits.execute.numba.numbers import weight_numbers
from pcircuits.execute.numba.passes import Problem, tiles_of
from pcircuits.execute.prepare import PreparedParameters

Array = np.ndarray

# Random numbers that are drawn at once: bounds memory.
_AT_ONCE = 1 << 22


def chosen_inputs(
    plan: Plan,
    prepared: PreparedParameters,
    evidence: Evidence,
    num_samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The inputs that samples take part in.

    Args:
        plan: A plan of single nodes with more than one layer.
        prepared: Its parameters.
        evidence: Checked evidence, possible under them, about B examples.
        num_samples: Samples of each example.
        generator: Source of randomness.

    Returns:
        (B * num_samples, L) the number of each variable's input, counted over the folds of all
        input layers in order.
    """
    call, tensors = lay_out(plan, prepared, evidence)
    problem = call.problem(tuple(tensors))
    structure, own = problem.structure, problem.graph.tables
    choices = _most_choices(structure, own.variables)
    found = np.empty((problem.batch_size * num_samples, plan.num_variables), np.int64)
    for first, last, tile, weights in _tiles(problem):
        rows = range(first * num_samples, last * num_samples)
        step = max(1, _AT_ONCE // max(1, choices))
        for start in rows[::step]:
            part = np.arange(start, min(start + step, rows.stop))
            drawn = torch.rand(len(part), choices, generator=generator, dtype=torch.float64)
            lanes = part // num_samples - first
            target = found[part[0] : part[-1] + 1]
            _descend(structure, weights, tile, lanes, drawn.numpy(), own.variables, target)
    return torch.from_numpy(found)


def _tiles(problem: Problem) -> Iterator[tuple[int, int, Tile, Numbers]]:
    """First example, end, values and weights of tiles, where needed of one example each."""
    for first, last, tile, weights, logs in tiles_of(problem):
        if tile is not None and weights is not None:
            yield first, last, tile, weights
            continue
        assert logs is not None
        wide = weight_numbers(problem.logs, np.float64, clip=True)
        assert wide is not None
        for example, column in enumerate(logs.T):
            yield first + example, first + example + 1, _alone(column), wide


def _alone(logs: Array) -> Tile:
    """A tile of one example from its log-values (N,): each node has an exponent of its own."""
    numbers = weight_numbers(logs, np.float64, clip=True)
    assert numbers is not None
    rows = numbers.numbers[:, None]
    scales = np.stack([numbers.exponents, np.zeros_like(numbers.exponents)], axis=1)
    return Tile(rows, rows.view(np.uint64), scales)


@compiled
def _most_choices(structure: Structure, variables: Array) -> int:
    """The most sums that one sample can visit, so many random numbers does it need."""
    starts, children, places = structure
    num_inputs = len(variables)
    most = np.zeros(num_inputs + len(starts) - 1, np.int64)
    for n in range(len(starts) - 1):
        node = num_inputs + n
        is_sum = places[starts[n]] >= 0
        for e in range(starts[n], starts[n + 1]):
            below = most[children[e]]
            most[node] = max(most[node], below) if is_sum else most[node] + below
        most[node] += is_sum
    return int(most[-1])


@compiled
def _descend(
    structure: Structure,
    weights: Numbers,
    tile: Tile,
    lanes: Array,
    drawn: Array,
    variables: Array,
    found: Array,
) -> None:
    """Draws samples.

    Args:
        structure: The graph.
        weights: The sums' weights.
        tile: Values of all nodes.
        lanes: (S,) example of each sample in the tile.
        drawn: (S, C) uniform numbers, enough for every sample.
        variables: (I,) variable of each input.
        found: (S, L) filled with the inputs.
    """
    starts, children, places = structure
    rows, _, scales = tile
    num_inputs = len(variables)
    # What is still to be visited has disjoint scopes.
    stack = np.empty(found.shape[1] + 1, np.int64)
    terms = np.empty(np.max(starts[1:] - starts[:-1]))
    for s in range(len(lanes)):
        lane, used, depth = lanes[s], 0, 1
        stack[0] = len(rows) - 1
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if node < num_inputs:
                found[s, variables[node]] = node
                continue
            first, last = starts[node - num_inputs], starts[node - num_inputs + 1]
            if places[first] < 0:
                for e in range(first, last):
                    stack[depth] = children[e]
                    depth += 1
                continue
            total = 0.0
            for e in range(first, last):
                child, place = children[e], places[e]
                shift = scales[child, 0] + weights.exponents[place] - scales[node, 0]
                x = np.float64(rows[child, lane]) * np.float64(weights.numbers[place])
                terms[e - first] = x * power_of_two(shift, x)
                total += terms[e - first]
            left = drawn[s, used] * total
            used += 1
            picked = -1
            for e in range(first, last):
                if terms[e - first] > 0.0:
                    picked = e
                    left -= terms[e - first]
                    if left < 0.0:
                        break
            stack[depth] = children[picked]
            depth += 1
