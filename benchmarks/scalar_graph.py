"""A circuit of single nodes, irregular and given as a `networkx` graph: compiled and evaluated."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import networkx as nx
import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.execution import WrongResultError
from benchmarks.measure import describe_machine, interleaved_seconds, timing

# Rows that are compared with the oracle, which takes them node by node.
_CHECKED_ROWS = 4
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class GraphSizes:
    """What is built: about so many nodes and edges over binary variables.

    Attributes:
        num_nodes: Nodes wanted.
        num_edges: Edges wanted.
        num_variables: Binary variables.
        batch_size: Rows evaluated at once.
    """

    num_nodes: int = 100_000
    num_edges: int = 300_000
    num_variables: int = 64
    batch_size: int = 256


def run_scalar_graph(sizes: GraphSizes, *, rounds: int) -> dict[str, object]:
    """Builds a random graph, reads and compiles it, checks its values and times its evaluation.

    Raises:
        WrongResultError: If values differ from the oracle's by more than 1e-5 of their size.
    """
    graph = random_graph(sizes, seed=0)
    start = time.perf_counter()
    model = pc.CircuitModel.of(pc.weighted_from_networkx(graph)).float()
    compile_seconds = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    shape = (sizes.batch_size, sizes.num_variables)
    values = torch.randint(0, 2, shape, generator=generator)
    error = _check(model, values)

    def backward() -> None:
        log = {name: tensor.requires_grad_() for name, tensor in model.log_parameters().items()}
        pc.forward(model.plan, log, pc.Evidence(values)).sum().backward()

    calls = {"forward": torch.no_grad()(lambda: model.log_likelihood(values)), "both": backward}
    cpu = torch.device("cpu")
    seconds = interleaved_seconds(calls, rounds=rounds, warmup=2, device=cpu)
    return {
        "benchmark": "scalar-graph",
        "nodes": graph.number_of_nodes(),
        "edges": graph.number_of_edges(),
        "layers": len(model.plan.layers),
        "batch_size": sizes.batch_size,
        "compile_seconds": compile_seconds,
        "seconds": {name: asdict(timing(found)) for name, found in seconds.items()},
        "error": error,
        "machine": describe_machine(cpu),
    }


def random_graph(sizes: GraphSizes, *, seed: int) -> nx.DiGraph:
    """A smooth, decomposable graph of about the wanted size, with 2 to 20 children a sum.

    Variables are split in two again and again at random places; every part has a pool of inputs,
    or of products of two random nodes of its halves and sums of random products.
    """
    chance = random.Random(seed)
    parts = _parts(sizes.num_variables, chance)
    # Of a part's nodes as many are products as sums; a sum has `degree` children, a product two.
    inner = sizes.num_variables - 1
    inputs = sizes.num_nodes // (4 * sizes.num_variables)
    sums = (sizes.num_nodes - inputs * sizes.num_variables) // (2 * inner)
    degree = sizes.num_edges / (sums * inner) - 2
    graph = nx.DiGraph()
    pools: dict[tuple[int, int], list[int]] = {}
    for first, middle, last in parts:
        if last - first == 1:
            pools[first, last] = [_input(graph, first, chance) for _ in range(inputs)]
            continue
        halves = pools[first, middle], pools[middle, last]
        # A cycle through the lower nodes, so that none is left out.
        products = [_product(graph, [half[i % len(half)] for half in halves]) for i in range(sums)]
        chance.shuffle(products)
        root = last - first == sizes.num_variables
        counts = [len(products)] if root else _counts(sums, degree, chance)
        pools[first, last] = [
            _sum(graph, _slice(products, i, count), chance) for i, count in enumerate(counts)
        ]
    return graph


def _parts(length: int, chance: random.Random) -> list[tuple[int, int, int]]:
    """(first, middle, last) of nested intervals, each after its two halves."""
    found, open_parts = [], [(0, length)]
    while open_parts:
        first, last = open_parts.pop()
        middle = chance.randint(first + 1, last - 1) if last - first > 1 else last
        found.append((first, middle, last))
        if last - first > 1:
            open_parts += [(first, middle), (middle, last)]
    return found[::-1]


def _counts(number: int, mean: float, chance: random.Random) -> list[int]:
    """Numbers of children between 2 and 20 whose mean is about as wanted."""
    return [min(20, 2 + int(chance.expovariate(1 / max(mean - 1.5, 0.1)))) for _ in range(number)]


def _slice(nodes: Sequence[int], start: int, count: int) -> list[int]:
    return [nodes[(start + i) % len(nodes)] for i in range(min(count, len(nodes)))]


def _input(graph: nx.DiGraph, variable: int, chance: random.Random) -> int:
    p = chance.uniform(0.1, 0.9)
    graph.add_node(len(graph), kind="input", variable=variable, probabilities=[p, 1 - p])
    return len(graph) - 1


def _product(graph: nx.DiGraph, children: Sequence[int]) -> int:
    name = len(graph)
    graph.add_node(name, kind="product")
    graph.add_edges_from((name, child) for child in children)
    return name


def _sum(graph: nx.DiGraph, children: Sequence[int], chance: random.Random) -> int:
    name = len(graph)
    graph.add_node(name, kind="sum")
    cuts = [0.0, *sorted(chance.random() for _ in children[1:]), 1.0]
    for child, (low, high) in zip(children, pairwise(cuts), strict=True):
        graph.add_edge(name, child, weight=high - low)
    return name


def _check(model: pc.CircuitModel, values: Tensor) -> float:
    """Largest relative error of a few rows against the float64 oracle."""
    rows = values[:_CHECKED_ROWS]
    with torch.no_grad():
        found = model.log_likelihood(values)[:_CHECKED_ROWS].double()
        log = {name: tensor.double() for name, tensor in model.log_parameters().items()}
        expected = pc.forward(model.plan, log, pc.Evidence(rows), impl="reference")
    error = float(((found - expected) / expected).abs().max())
    if not error <= _TOLERANCE:
        raise WrongResultError(f"log-likelihood is off by {error:.2g}; expected {_TOLERANCE:.0e}")
    return error
