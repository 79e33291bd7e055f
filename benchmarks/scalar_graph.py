"""A large irregular circuit of single nodes: built, compiled, checked and evaluated.

What a forward pass must move, at least: the row of each edge's child read once and the row of each
node written once, 4 bytes an example, and 4 bytes each for the edge's child and its weight's
place, once. With E edges, N nodes and a batch of B that is 4 B (E + N) + 8 E bytes. A backward
pass does that again, and reads and writes each edge's flow: 4 B (2 E + N) more. The ceiling is a
large copy by as many threads, bytes read and written.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import networkx as nx
import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.execution import WrongResultError
from benchmarks.measure import describe_machine, interleaved_seconds, timing
from benchmarks.tables import markdown_table, milliseconds
from pcircuits.learning.em import EMSettings, EMState, em_step

# Rows that are compared with the oracle, which takes them node by node.
_CHECKED_ROWS = 4
_TOLERANCE = 1e-5
# Samples of a timed call.
_SAMPLES = 1_000


@dataclass(frozen=True)
class GraphSizes:
    """What is built: about so many nodes and edges over binary variables.

    Attributes:
        num_nodes: Nodes wanted.
        num_edges: Edges wanted.
        num_variables: Binary variables.
        batch_size: Rows evaluated at once.
    """

    num_nodes: int = 333_000
    num_edges: int = 1_000_000
    num_variables: int = 64
    batch_size: int = 256


def run_scalar_graph(sizes: GraphSizes, *, rounds: int) -> dict[str, object]:
    """Builds a random circuit, compiles it, checks its values and times what is done with it.

    Each pass is timed with one thread and with as many as torch is set to.

    Raises:
        WrongResultError: If values differ from the oracle's by more than 1e-5 of their size.
    """
    start = time.perf_counter()
    weighted = random_circuit(sizes, seed=0)
    build_seconds = time.perf_counter() - start
    start = time.perf_counter()
    model = pc.CircuitModel.of(weighted).float()
    compile_seconds = time.perf_counter() - start
    shape = (sizes.batch_size, sizes.num_variables)
    values = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0))
    error = _check(model, values)
    nodes, edges = sum(model.plan.num_folds), model.plan.num_edges
    forward = 4 * sizes.batch_size * (edges + nodes) + 8 * edges
    moved = {
        "forward": forward,
        "forward+backward": 2 * forward + 4 * sizes.batch_size * (2 * edges + nodes),
    }
    before, seconds, copies = torch.get_num_threads(), {}, {}
    for threads in sorted({1, before}):
        torch.set_num_threads(threads)
        words = f"{threads} thread{'s' * (threads > 1)}"
        copies[words] = _copy_bytes_per_second()
        found = interleaved_seconds(
            _calls(model, values), rounds=rounds, warmup=1, device=torch.device("cpu")
        )
        seconds |= {f"{name}, {words}": own for name, own in found.items()}
    timings = {name: asdict(timing(own)) for name, own in seconds.items()}
    return {
        "benchmark": "scalar-graph",
        "nodes": nodes,
        "edges": edges,
        "layers": len(model.plan.layers),
        "batch_size": sizes.batch_size,
        "build_seconds": build_seconds,
        "compile_seconds": compile_seconds,
        "seconds": timings,
        "bytes": moved,
        "copy_bytes_per_second": copies,
        "share_of_copy": {
            f"{name}, {words}": size / timings[f"{name}, {words}"]["median"] / copies[words]
            for words in copies
            for name, size in moved.items()
        },
        "error": error,
        "machine": describe_machine(torch.device("cpu")),
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    shares = report["share_of_copy"]
    rows = (
        (
            name,
            *(milliseconds(found[key]) for key in ("median", "lower", "upper")),
            f"{shares[name]:.0%}" if name in shares else "",
        )
        for name, found in report["seconds"].items()
    )
    copies = ", ".join(
        f"{speed / 1e9:.1f} GB/s with {words}"
        for words, speed in report["copy_bytes_per_second"].items()
    )
    return "\n\n".join(
        (
            f"{report['nodes']:,} nodes, {report['edges']:,} edges, {report['layers']} layers, "
            f"batch {report['batch_size']}; built in {report['build_seconds']:.1f} s, compiled in "
            f"{report['compile_seconds']:.1f} s.",
            markdown_table(
                ("pass", "median ms", "1st quartile", "3rd quartile", "share of copy"), rows
            ),
            f"Bytes that must move: {report['bytes']['forward'] / 1e9:.2f} GB forward, "
            f"{report['bytes']['forward+backward'] / 1e9:.2f} GB with backward; a large copy "
            f"moves {copies}. A sample pass draws {_SAMPLES:,} samples.",
            f"Largest error against float64: {report['error']:.1e} of the value.",
        )
    )


def _calls(model: pc.CircuitModel, values: Tensor) -> dict[str, Callable[[], object]]:
    evidence, prepared = pc.Evidence(values), model.prepare()
    log = {name: p.detach().requires_grad_() for name, p in model.log_parameters().items()}

    def backward() -> None:
        for tensor in log.values():
            tensor.grad = None
        pc.forward(model.plan, log, evidence).sum().backward()

    def em() -> object:
        plain = {name: tensor.detach() for name, tensor in log.items()}
        settings = EMSettings("plain")
        return em_step(model.plan, plain, EMState(), evidence, settings, num_rows=len(values))

    return {
        "forward": torch.no_grad()(lambda: pc.forward(model.plan, prepared, evidence)),
        "forward+backward": backward,
        "EM step": em,
        "sample": lambda: pc.queries.sample(model.plan, prepared, _SAMPLES),
    }


def _copy_bytes_per_second() -> float:
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * len(source) / min(seconds)


def random_graph(sizes: GraphSizes, *, seed: int) -> nx.DiGraph:
    """A smooth, decomposable graph of about the wanted size, with 2 to 20 children a sum.

    Variables are split in two again and again at random places; every part has a pool of inputs,
    or of products of two random nodes of its halves and sums of random products.
    """
    graph = _Graph(nx.DiGraph())
    _grow(sizes, graph, random.Random(seed))
    return graph.graph


def random_circuit(sizes: GraphSizes, *, seed: int) -> pc.WeightedCircuit:
    """The same circuit as `random_graph`, made without a graph: for a million edges."""
    builder = pc.ScalarBuilder()
    return builder.build(_grow(sizes, builder, random.Random(seed)))


class _Nodes(Protocol):
    """What nodes are added to, children first; each gets a number."""

    def add_input(self, variable: int, log_weights: Sequence[float]) -> int: ...

    def add_product(self, children: Sequence[int]) -> int: ...

    def add_sum(self, children: Sequence[int], log_weights: Sequence[float]) -> int: ...


@dataclass(frozen=True)
class _Graph:
    """Adds nodes to a graph."""

    graph: nx.DiGraph

    def add_input(self, variable: int, log_weights: Sequence[float]) -> int:
        probabilities = [math.exp(log) for log in log_weights]
        self.graph.add_node(
            len(self.graph), kind="input", variable=variable, probabilities=probabilities
        )
        return len(self.graph) - 1

    def add_product(self, children: Sequence[int]) -> int:
        name = len(self.graph)
        self.graph.add_node(name, kind="product")
        self.graph.add_edges_from((name, child) for child in children)
        return name

    def add_sum(self, children: Sequence[int], log_weights: Sequence[float]) -> int:
        name = len(self.graph)
        self.graph.add_node(name, kind="sum")
        for child, log in zip(children, log_weights, strict=True):
            self.graph.add_edge(name, child, weight=math.exp(log))
        return name


def _grow(sizes: GraphSizes, nodes: _Nodes, chance: random.Random) -> int:
    """Adds all nodes and returns the root."""
    parts = _parts(sizes.num_variables, chance)
    # Of a part's nodes as many are products as sums; a sum has `degree` children, a product two.
    inner = sizes.num_variables - 1
    inputs = sizes.num_nodes // (4 * sizes.num_variables)
    sums = (sizes.num_nodes - inputs * sizes.num_variables) // (2 * inner)
    degree = sizes.num_edges / (sums * inner) - 2
    pools: dict[tuple[int, int], list[int]] = {}
    for first, middle, last in parts:
        if last - first == 1:
            rows = [_row(2, chance) for _ in range(inputs)]
            pools[first, last] = [nodes.add_input(first, row) for row in rows]
            continue
        halves = pools[first, middle], pools[middle, last]
        # A cycle through the lower nodes, so that none is left out.
        products = [
            nodes.add_product([half[i % len(half)] for half in halves]) for i in range(sums)
        ]
        chance.shuffle(products)
        root = last - first == sizes.num_variables
        counts = [len(products)] if root else _counts(sums, degree, chance)
        children = [_slice(products, i, count) for i, count in enumerate(counts)]
        pools[first, last] = [nodes.add_sum(own, _row(len(own), chance)) for own in children]
    return pools[0, sizes.num_variables][0]


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


def _row(length: int, chance: random.Random) -> list[float]:
    """Logarithms of a distribution drawn from a flat Dirichlet one."""
    drawn = [chance.expovariate(1.0) for _ in range(length)]
    log_total = math.log(sum(drawn))
    return [math.log(number) - log_total for number in drawn]


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
