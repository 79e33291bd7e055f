"""An irregular circuit beside cirkit and SPFlow, at the largest size that each of them builds.

Every size of every peer has a process of its own, which builds the circuit both ways, compares
values and times both in turn. One that does not finish in time is ended, and the report says so.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.measure import describe_machine, interleaved_seconds, timing
from benchmarks.scalar_graph import GraphSizes, random_circuit
from benchmarks.tables import markdown_table, milliseconds

TOLERANCE = 1e-4
_OURS = "pcircuits"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        edges: Numbers of edges, ascending; a third as many nodes.
        batch_size: Rows B.
        limit: Seconds for one peer at one size: building, checking and timing.
    """

    edges: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    batch_size: int = 256
    limit: float = 300.0


# What a peer makes of a circuit: (B, L) values -> (B,) log-values, with gradients in `parameters`.
@dataclass(frozen=True, eq=False)
class _Built:
    log_value: Callable[[Tensor], Tensor]
    parameters: Callable[[], list[torch.nn.Parameter]]


def run_irregular(
    comparison: Comparison | None = None, *, rounds: int, say: Callable[[str], None] = print
) -> dict[str, object]:
    """Compares with each installed peer, size by size until one does not finish.

    Returns:
        A report; `table` prints it.
    """
    what = comparison or Comparison()
    results: list[dict[str, Any]] = []
    for peer in _PEERS:
        if importlib.util.find_spec(peer) is None:
            results.append({"peer": peer, "edges": None, "outcome": "not installed"})
            continue
        for edges in what.edges:
            found = _in_process(peer, edges, what, rounds)
            results.append({"peer": peer, "edges": edges, **found})
            say(f"{peer}, {edges:,} edges: {found['outcome']}")
            if found["outcome"] != "compared":
                break
    return {
        "benchmark": "irregular",
        "comparison": asdict(what),
        "results": results,
        "machine": describe_machine(torch.device("cpu")),
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    rows = []
    for found in report["results"]:
        edges = "" if found["edges"] is None else f"{found['edges']:,}"
        if found["outcome"] != "compared":
            rows.append((found["peer"], edges, found["outcome"], "", "", "", ""))
            continue
        for pass_, seconds in found["seconds"].items():
            own, other = seconds[_OURS]["median"], seconds[found["peer"]]["median"]
            rows.append(
                (
                    found["peer"],
                    f"{found['actual_edges']:,}",
                    pass_,
                    milliseconds(own),
                    milliseconds(other),
                    f"{other / own:.1f}",
                    f"{found['built_seconds']:.1f} / {found['peer_built_seconds']:.1f}",
                )
            )
    header = ("peer", "edges", "pass", "pcircuits ms", "peer ms", "ratio", "built s, ours / peer")
    return "\n\n".join(
        (
            f"Batch {report['comparison']['batch_size']}, medians of calls in turn; log-values "
            f"agree within {TOLERANCE:.0e}, or nothing is timed.",
            markdown_table(header, rows),
        )
    )


def _in_process(peer: str, edges: int, what: Comparison, rounds: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    arguments = (there, peer, edges, what.batch_size, rounds, torch.get_num_threads())
    process = context.Process(target=_work, args=arguments, daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(what.limit):
            return {"outcome": f"did not finish within {what.limit:.0f} s"}
        found: dict[str, Any] = here.recv()
        return found
    except EOFError:
        process.join()
        return {"outcome": f"ended without a result (exit status {process.exitcode})"}
    finally:
        process.terminate()
        process.join()


def _work(
    pipe: Connection, peer: str, edges: int, batch_size: int, rounds: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    try:
        pipe.send(_compare(peer, edges, batch_size, rounds))
    except (MemoryError, RecursionError, RuntimeError, ValueError) as error:
        pipe.send({"outcome": f"failed: {type(error).__name__}: {str(error)[:200]}"})


def _compare(peer: str, edges: int, batch_size: int, rounds: int) -> dict[str, Any]:
    sizes = GraphSizes(edges // 3, edges, batch_size=batch_size)
    start = time.perf_counter()
    weighted = random_circuit(sizes, seed=0)
    model = pc.CircuitModel.of(weighted).float()
    built_seconds = time.perf_counter() - start
    start = time.perf_counter()
    other = _PEERS[peer](weighted)
    peer_seconds = time.perf_counter() - start
    shape = (batch_size, sizes.num_variables)
    values = torch.randint(2, shape, generator=torch.Generator().manual_seed(0))
    log = {name: p.detach().requires_grad_() for name, p in model.log_parameters().items()}
    evidence = pc.Evidence(values)
    with torch.no_grad():
        expected = pc.forward(model.plan, log, evidence, impl="numba")
        error = float(((other.log_value(values) - expected) / expected).abs().max())
    if not error <= TOLERANCE:
        return {"outcome": f"log-values differ by {error:.1e}", "error": error}
    prepared = model.prepare()

    def both() -> None:
        for tensor in log.values():
            tensor.grad = None
        pc.forward(model.plan, log, evidence, impl="numba").sum().backward()

    def peer_both() -> None:
        for parameter in other.parameters():
            parameter.grad = None
        other.log_value(values).sum().backward()

    passes = {
        "forward": (
            torch.no_grad()(lambda: pc.forward(model.plan, prepared, evidence, impl="numba")),
            torch.no_grad()(lambda: other.log_value(values)),
        ),
        "forward+backward": (both, peer_both),
    }
    return {
        "outcome": "compared",
        "actual_edges": model.plan.num_edges,
        "built_seconds": built_seconds,
        "peer_built_seconds": peer_seconds,
        "error": error,
        "seconds": {
            name: _in_turn({_OURS: own, peer: theirs}, rounds)
            for name, (own, theirs) in passes.items()
        },
    }


def _in_turn(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    seconds = interleaved_seconds(calls, rounds=rounds, warmup=1, device=torch.device("cpu"))
    return {name: asdict(timing(found)) for name, found in seconds.items()}


def _cirkit(weighted: pc.WeightedCircuit) -> _Built:
    """Layers of one unit, folded and optimised; weights are linear numbers."""
    from cirkit.pipeline import PipelineContext
    from cirkit.symbolic.circuit import Circuit
    from cirkit.symbolic.initializers import ConstantTensorInitializer
    from cirkit.symbolic.layers import CategoricalLayer, HadamardLayer, Layer, SumLayer
    from cirkit.symbolic.parameters import Parameter, TensorParameter
    from cirkit.utils.scope import Scope

    def parameter(numbers: Tensor) -> Parameter:
        initial = ConstantTensorInitializer(numbers.numpy())
        return Parameter.from_input(TensorParameter(*numbers.shape, initializer=initial))

    made: dict[object, Layer] = {}
    below: dict[Layer, list[Layer]] = {}
    for node in weighted.circuit.nodes:
        match node:
            case pc.Input():
                probs = parameter(_numbers(weighted, node)[None])
                layer: Layer = CategoricalLayer(
                    Scope([node.variable]), 1, num_categories=node.num_categories, probs=probs
                )
            case pc.Sum():
                weight = parameter(_numbers(weighted, node)[None])
                layer = SumLayer(1, 1, arity=len(node.children), weight=weight)
            case _:
                layer = HadamardLayer(1, arity=len(node.children))
        made[node] = layer
        if node.children:
            below[layer] = [made[child] for child in node.children]
    circuit = Circuit(list(made.values()), below, [made[weighted.circuit.root]])
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    compiled = context.compile(circuit)
    return _Built(lambda values: compiled(values).flatten(), lambda: list(compiled.parameters()))


def _spflow(weighted: pc.WeightedCircuit) -> _Built:
    """Modules of one channel; each holds logits, which it normalises at each call."""
    from spflow.meta.data import Scope
    from spflow.modules.leaves.categorical import Categorical
    from spflow.modules.module import Module
    from spflow.modules.products.product import Product
    from spflow.modules.sums.sum import Sum

    made: dict[object, Module] = {}
    for node in weighted.circuit.nodes:
        children = [made[child] for child in node.children]
        match node:
            case pc.Input():
                probs = _numbers(weighted, node).view(1, 1, 1, -1)
                made[node] = Categorical(Scope([node.variable]), probs=probs)
            case pc.Sum():
                made[node] = Sum(children, weights=_numbers(weighted, node))
            case _:
                made[node] = Product(children)
    root = made[weighted.circuit.root].eval()
    parameters = list(root.parameters())
    return _Built(lambda values: root.log_likelihood(values.float()).flatten(), lambda: parameters)


def _numbers(weighted: pc.WeightedCircuit, node: pc.Input | pc.Sum) -> Tensor:
    """Linear weights of one node, normalised, in float32."""
    assert isinstance(node.parameter, pc.Part)
    own, start = weighted.log_weights[node.parameter.name], node.parameter.start
    row = own[start] if isinstance(node, pc.Input) else own[start : start + len(node.children)]
    return row.softmax(0).float()


_PEERS: dict[str, Callable[[pc.WeightedCircuit], _Built]] = {"cirkit": _cirkit, "spflow": _spflow}
