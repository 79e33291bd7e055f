"""This library beside its peers on the same work: checked first, then timed in turn."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.ceilings import Ceilings, demand_of, measure_ceilings
from benchmarks.expected import error_of, tolerance
from benchmarks.measure import (
    LEAD,
    describe_machine,
    interleaved_seconds,
    peak_memory,
    quotients,
    timing,
)
from benchmarks.peers import (
    BESIDE_MARGINALS,
    OURS,
    Contender,
    NotApplicableError,
    contender,
)
from benchmarks.suite import MARGINALS, Case, Work, build

LIBRARIES = (
    "dynamax",
    "hmmlearn",
    "jax",
    "libcirkit",
    "numba",
    "pomegranate",
    "pyjuice",
    "spflow",
    "triton",
)
Find = Callable[[str, Work, str], Contender]


@dataclass(frozen=True)
class Settings:
    """How a comparison is run.

    Attributes:
        peers: Names of `benchmarks.peers.PEERS`.
        passes: Passes to run, of those that a case has.
        device: Device.
        rounds: Timed rounds.
        share: Seconds after which a slow library is left out of a pass's further rounds.
        quick: Whether the cases have tiny sizes.
    """

    peers: tuple[str, ...]
    passes: tuple[str, ...]
    device: torch.device
    rounds: int = 40
    share: float = 4.0
    quick: bool = False


def run_compare(
    cases: Sequence[Case],
    settings: Settings,
    *,
    find: Find = contender,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Runs all passes of all cases.

    Args:
        cases: Cases.
        settings: How.
        find: (peer, work, pass) -> contender.
        say: Called with a line when a pass begins.
        keep: Called with the report so far when a pass is done.

    Returns:
        The report, ready for JSON.
    """
    report: dict[str, Any] = {
        "benchmark": "compare",
        "quick": settings.quick,
        "machine": describe_machine(settings.device, LIBRARIES),
        "ceilings": asdict(ceilings := measure_ceilings(settings.device)),
        "entries": [],
        "wrong": [],
    }
    for case in cases:
        work = build(case, settings.device)
        for pass_ in case.passes:
            if pass_ not in settings.passes:
                continue
            say(f"{case.name}: {pass_}")
            entry = run_pass(work, pass_, settings, ceilings, find)
            report["entries"].append(entry)
            if entry["peers"].get(OURS, {}).get("status") == "wrong":
                report["wrong"].append(f"{case.name}, {pass_}")
            keep(report)
    return report


def run_pass(
    work: Work, pass_: str, settings: Settings, ceilings: Ceilings, find: Find = contender
) -> dict[str, Any]:
    """Checks every peer's result of a pass, and times those that are right."""
    results: dict[str, dict[str, object]] = {}
    right: dict[str, Contender] = {}
    for name in settings.peers:
        if name == BESIDE_MARGINALS and pass_ != MARGINALS:
            continue
        entry, found = _checked(name, work, pass_, find)
        results[name] = entry
        if found is not None:
            right[name] = found
    seconds = interleaved_seconds(
        {name: found.call for name, found in right.items()},
        rounds=settings.rounds,
        warmup=2,
        device=settings.device,
        share=settings.share,
        lead=LEAD,
    )
    demand = demand_of(work, pass_)
    for name, found in right.items():
        entry = results[name]
        entry["seconds"] = asdict(timing(seconds[name]))
        entry["rounds"] = seconds[name]
        if demand is not None and name != BESIDE_MARGINALS:
            entry["share_of_ceiling"] = ceilings.share(demand, timing(seconds[name]).median)
        if OURS in seconds and name != OURS:
            entry["ours_over_theirs"] = asdict(timing(quotients(seconds[OURS], seconds[name])))
        with peak_memory(settings.device) as memory:
            found.call()
        entry["peak_bytes"] = memory.above
    return {
        "case": work.case.name,
        "description": work.case.description,
        "pass": pass_,
        "demand": None if demand is None else asdict(demand),
        "tolerance": tolerance(pass_),
        "peers": results,
    }


def _checked(
    name: str, work: Work, pass_: str, find: Find
) -> tuple[dict[str, object], Contender | None]:
    """A peer's entry, and the peer if its result is right; a peer's failure is its entry."""
    try:
        found = find(name, work, pass_)
        error = error_of(work, pass_, found.result())
    except NotApplicableError as reason:
        return {"status": "not applicable", "reason": str(reason)}, None
    except ImportError as missing:
        return {"status": "not installed", "reason": str(missing)}, None
    except Exception as failure:
        if name == OURS:
            raise
        # The innermost line says where in the library it failed.
        place = traceback.extract_tb(failure.__traceback__)[-1].name
        reason = f"{type(failure).__name__} in {place}: {str(failure).splitlines()[:1]}"
        return {"status": "failed", "reason": reason[:300]}, None
    allowed = tolerance(pass_) if found.tolerance is None else found.tolerance
    if not error <= allowed:
        return {"status": "wrong", "error": error, "note": found.note}, None
    return {"status": "timed", "error": error, "note": found.note}, found
