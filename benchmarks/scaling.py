"""How time grows with length, batch, edges and states: sweeps, and exponents fitted to them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch

import pcircuits as pc
from benchmarks.compare import LIBRARIES
from benchmarks.execution import WrongResultError
from benchmarks.expected import TOLERANCE
from benchmarks.measure import describe_machine, interleaved_seconds, timing
from benchmarks.peers import contender
from benchmarks.scalar_graph import GraphSizes, random_circuit
from benchmarks.suite import BACKWARD, FORWARD, Case, Work, build

# Exponents of a linear law, over two decades.
LINEAR = (0.9, 1.1)


@dataclass(frozen=True)
class Sweep:
    """One size that grows while all others stay.

    Attributes:
        axis: What grows, in words.
        sizes: Its values: from where fixed overheads are small to a hundred times that.
        work: Size -> the work, and the size as it came out.
        linear: Whether the fitted exponents should lie within `LINEAR`.
        setting: What stays, in words.
        quick: Tiny sizes, to see that everything runs.
    """

    axis: str
    sizes: tuple[int, ...]
    work: Callable[[int, torch.device], tuple[Work, int]]
    linear: bool
    setting: str
    quick: tuple[int, ...] = (2, 4, 8)


def run_scaling(
    names: Sequence[str],
    *,
    device: torch.device,
    rounds: int,
    quick: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Times forward and forward+backward passes along sweeps, and fits exponents.

    Args:
        names: Names of `SWEEPS`.
        device: Device.
        rounds: Timed rounds at every size.
        quick: Whether to take tiny sizes instead.
        say: Called with a line for every size.

    Returns:
        The report, ready for JSON.

    Raises:
        WrongResultError: If a value at a sweep's smallest size is wrong.
    """
    sweeps = {}
    for name in names:
        sweep = SWEEPS[name]
        if quick:
            sweep = replace(sweep, sizes=sweep.quick)
        _check(sweep, device)
        points = []
        for size in sweep.sizes:
            say(f"{name}: {size:,}")
            points.append(_point(sweep, size, device, rounds))
        sweeps[name] = {
            "axis": sweep.axis,
            "setting": sweep.setting,
            "limits": LINEAR if sweep.linear else None,
            "points": points,
            "exponents": {pass_: _fit(points, pass_) for pass_ in (FORWARD, BACKWARD)},
        }
    machine = describe_machine(device, LIBRARIES)
    return {"benchmark": "scaling", "machine": machine, "sweeps": sweeps}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of the least-squares line through log-sizes and log-seconds."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    ).slope


def _point(sweep: Sweep, size: int, device: torch.device, rounds: int) -> dict[str, object]:
    work, found = sweep.work(size, device)
    calls = {pass_: contender("pcircuits", work, pass_).call for pass_ in (FORWARD, BACKWARD)}
    seconds = interleaved_seconds(calls, rounds=rounds, warmup=1, device=device, share=5.0)
    return {
        "size": found,
        "seconds": {pass_: asdict(timing(times)) for pass_, times in seconds.items()},
    }


def _check(sweep: Sweep, device: torch.device) -> None:
    """Compares two rows of the smallest size with the float64 oracle."""
    work, _ = sweep.work(sweep.sizes[0], device)
    found = contender("pcircuits", work, FORWARD).call()
    assert isinstance(found, torch.Tensor)
    rows = pc.Evidence(work.values[:2].cpu())
    log = {name: tensor.double().cpu() for name, tensor in work.log_parameters.items()}
    expected = pc.forward(work.plan, log, rows, impl="reference").detach()
    error = float(((found[:2].double().cpu() - expected) / expected).abs().amax())
    if not error <= TOLERANCE:
        raise WrongResultError(f"{sweep.axis}: log-likelihood is off by {error:.2g}")


def _fit(points: Sequence[dict[str, object]], pass_: str) -> float:
    sizes = [point["size"] for point in points]
    return exponent(sizes, [point["seconds"][pass_]["median"] for point in points])  # type: ignore


def _hmm(length: int, states: int, batch: int, device: torch.device) -> Work:
    sizes = {"length": length, "num_states": states, "num_categories": 100}
    return build(Case("sweep", "HMM", sizes, batch), device)


def _graph(edges: int, device: torch.device) -> tuple[Work, int]:
    """An irregular circuit of about so many edges, a third of them nodes."""
    sizes = GraphSizes(num_nodes=max(edges // 3, 1000), num_edges=edges, batch_size=64)
    model = pc.CircuitModel.of(random_circuit(sizes, seed=0)).float()
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(2, (sizes.batch_size, sizes.num_variables), generator=generator)
    case = Case("sweep", "irregular", {"edges": model.plan.num_edges}, sizes.batch_size)
    parameters = {name: p.detach().to(device) for name, p in model.log_parameters().items()}
    work = Work(case, model.plan, parameters, pc.Evidence(values.to(device)), device)
    return work, model.plan.num_edges


SWEEPS: dict[str, Sweep] = {
    "length": Sweep(
        "length",
        (100, 215, 464, 1000, 2154, 4642, 10_000),
        lambda length, device: (_hmm(length, 64, 64, device), length),
        True,
        "homogeneous HMM, 64 states, 100 categories, batch 64",
    ),
    "batch": Sweep(
        "batch",
        (64, 138, 297, 640, 1379, 2971, 6400),
        lambda batch, device: (_hmm(32, 256, batch, device), batch),
        True,
        "homogeneous HMM, length 32, 256 states, 100 categories",
    ),
    "edges": Sweep(
        "edges",
        (10_000, 31_600, 100_000, 316_000, 1_000_000),
        _graph,
        True,
        "irregular circuits of single nodes over 64 binary variables, batch 64",
        (3_000, 6_000, 12_000),
    ),
    "states": Sweep(
        "states",
        (16, 32, 64, 128, 256, 512, 1024),
        lambda states, device: (_hmm(32, states, 64, device), states),
        False,
        "homogeneous HMM, length 32, 100 categories, batch 64: operations grow as the square",
    ),
}
