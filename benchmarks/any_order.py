"""Any-order decoding: what a token more costs, in forward passes of the same circuit.

A token is fixed and the marginals of all remaining positions are asked for, in random order; or the
marginal of the next position alone, from left to right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.cases import StepSizes, step_case
from benchmarks.execution import WrongResultError
from benchmarks.measure import describe_machine, timing, wait_for
from benchmarks.tables import markdown_table, milliseconds

# Limits of the chain, in forward passes: each token, and all positions from left to right.
TOKEN_LIMIT, LEFT_TO_RIGHT_LIMIT = 1.2, 3.0
# Largest error of a probability.
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
TREE = StepSizes(length=32, num_states=256, num_categories=2000, num_listed=256)
_SMALL = StepSizes(length=9, num_states=24, num_categories=50, num_listed=8)


@dataclass(frozen=True, eq=False)
class _Case:
    name: str
    sizes: StepSizes
    plan: pc.Plan
    prepared: pc.PreparedParameters
    evidence: pc.Evidence

    @property
    def categories(self) -> Tensor:
        assert self.evidence.categories is not None
        return self.evidence.categories


def run_any_order(
    sizes: StepSizes | None = None,
    tree: StepSizes = TREE,
    *,
    device: torch.device,
    rounds: int,
) -> dict[str, object]:
    """Checks a chain and a binary tree, then measures them.

    Args:
        sizes: Sizes of the chain; default those of a decoding step.
        tree: Sizes of the tree; its units are the states.
        device: Device.
        rounds: Times that every order is decoded.

    Returns:
        The report, ready for JSON; `table` prints it.

    Raises:
        WrongResultError: If a marginal differs from that of a whole evaluation.
    """
    results = []
    for make, own in ((_chain, sizes or StepSizes()), (_tree, tree)):
        error = _largest_error(make(_SMALL, device, torch.float64))
        case = make(own, device, torch.float32)
        errors = {"small, float64": error, "measured size, float32": _largest_error(case)}
        results.append({"name": case.name, "sizes": asdict(own), "errors": errors})
        results[-1].update(_measure(case, device, rounds))
    return {
        "benchmark": "any-order",
        "machine": describe_machine(device),
        "limits": {"token": TOKEN_LIMIT, "left_to_right": LEFT_TO_RIGHT_LIMIT},
        "tolerances": {str(dtype): limit for dtype, limit in TOLERANCES.items()},
        "cases": results,
    }


def table(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    parts = []
    for case in report["cases"]:
        sizes, seconds, ratios = case["sizes"], case["seconds"], case["ratios"]
        names = {
            "forward": "forward",
            "start": "start: all values and all marginals",
            "token": "token fixed and all remaining marginals, median",
            "slowest_token": "the same, slowest token",
            "left_to_right": f"left to right, all {sizes['length']} together",
        }
        rows = (
            (what, milliseconds(seconds[key]), f"{ratios[key]:.2f}") for key, what in names.items()
        )
        parts += [
            f"## {case['name']}: {sizes['length']} positions, {sizes['num_states']:,} states, "
            f"{sizes['num_categories']:,} categories, top-{sizes['num_listed']:,}, batch 1",
            markdown_table(("", "median ms", "forward passes"), rows),
            "Largest error of a probability: "
            + ", ".join(f"{error:.1e} ({what})" for what, error in case["errors"].items())
            + ".",
        ]
    limits = report["limits"]
    parts.append(
        f"Limits for the chain: {limits['token']} each token, {limits['left_to_right']} from left "
        f"to right, start included."
    )
    return "\n\n".join(parts)


def _chain(sizes: StepSizes, device: torch.device, dtype: torch.dtype) -> _Case:
    case = step_case(sizes, device=device, dtype=dtype)
    prepared = pc.prepare(case.plan, case.log_parameters)
    return _Case("chain", sizes, case.plan, prepared, case.evidence()["top-k"])


def _tree(sizes: StepSizes, device: torch.device, dtype: torch.dtype) -> _Case:
    shape = (sizes.length, sizes.num_states, sizes.num_categories)
    plan = pc.compile_circuit(pc.families.binary_tree(*shape))
    parameters = pc.random_parameters(plan, seed=0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(1, sizes.length, sizes.num_categories, generator=generator)
    top = logits.to(device, dtype).log_softmax(-1).topk(sizes.num_listed, dim=-1)
    prepared = pc.prepare(plan, {name: p.to(device) for name, p in parameters.items()})
    evidence = pc.Evidence(log_potentials=top.values, categories=top.indices)
    return _Case("binary tree", sizes, plan, prepared, evidence)


def _largest_error(case: _Case) -> float:
    """Largest difference from marginals of whole evaluations, in both ways of decoding.

    Raises:
        WrongResultError: If it is too large.
    """
    error, length = 0.0, case.sizes.length
    order = _order(length, 0)
    # Of a long window some steps: a whole evaluation takes all categories.
    checked = {*range(0, length, max(1, length // 6)), length - 1}
    for positions, every in ((order, True), (list(range(length)), False)):
        found = pc.queries.Conditioner(case.plan, case.prepared, case.evidence)
        for turn, position in enumerate(positions):
            at = torch.tensor([position])
            rows = found.marginals(~found.observed)[0] if every else found.marginal(at)
            if turn in checked:
                now = replace(case.evidence, values=found.values, observed=found.observed)
                whole = pc.queries.marginals(case.plan, case.prepared, now)
                expected = whole.gather(2, case.categories)[0]
                free = ~found.observed[0] if every else at
                got = rows[free] if every else rows
                error = max(error, float((got - expected[free]).abs().max()))
            chosen = rows[position] if every else rows[0]
            found.fix(at, case.categories[0, position, chosen.argmax()][None])
    limit = TOLERANCES[case.prepared.dtype]
    if not error <= limit:
        raise WrongResultError(f"{case.name}: a marginal is off by {error:.1e}; limit {limit:.0e}")
    return error


def _measure(case: _Case, device: torch.device, rounds: int) -> dict[str, object]:
    def forward() -> None:
        with torch.no_grad():
            pc.forward(case.plan, case.prepared, case.evidence)

    forward()
    _left_to_right(case)
    forwards, starts, totals = [], [], []
    tokens: list[list[float]] = []
    for turn in range(rounds):
        forwards += [_seconds(forward, device) for _ in range(3)]
        start, found = _random_order(case, device, turn)
        starts.append(start)
        tokens.append(found)
        forwards += [_seconds(forward, device) for _ in range(3)]
        totals.append(_seconds(lambda: _left_to_right(case), device))
    each = [timing(turn).median for turn in zip(*tokens, strict=True)]
    seconds = {
        "forward": timing(forwards).median,
        "start": timing(starts).median,
        "token": timing(each).median,
        "slowest_token": max(each),
        "left_to_right": timing(totals).median,
    }
    return {
        "rounds": rounds,
        "seconds": seconds,
        "ratios": {name: value / seconds["forward"] for name, value in seconds.items()},
    }


def _random_order(case: _Case, device: torch.device, seed: int) -> tuple[float, list[float]]:
    """Seconds until all marginals are there, and of each token with those that remain."""
    start = time.perf_counter()
    found = pc.queries.Conditioner(case.plan, case.prepared, case.evidence)
    rows = found.marginals()
    wait_for(device)
    before, tokens = time.perf_counter() - start, []
    for position in _order(case.sizes.length, seed):
        start = time.perf_counter()
        token = case.categories[0, position, rows[0, position].argmax()]
        found.fix(torch.tensor([position]), token[None])
        rows = found.marginals(~found.observed)
        wait_for(device)
        tokens.append(time.perf_counter() - start)
    return before, tokens


def _left_to_right(case: _Case) -> None:
    found = pc.queries.Conditioner(case.plan, case.prepared, case.evidence)
    for position in range(case.sizes.length):
        at = torch.tensor([position])
        likeliest = found.marginal(at)[0].argmax()
        found.fix(at, case.categories[0, position, likeliest][None])


def _order(length: int, seed: int) -> list[int]:
    order: list[int] = torch.randperm(
        length, generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return order


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    call()
    wait_for(device)
    return time.perf_counter() - start
