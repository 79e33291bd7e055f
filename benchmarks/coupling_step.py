"""A whole coupling step, as decoding runs it: log Z, all marginals and a joint sample in one.

Every way to run it - top-k or all tokens, product or copula, precision of the emission table,
recorded as a graph or not - is checked at full size against float64 and then timed in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks import plain
from benchmarks.measure import LEAD, describe_machine, interleaved_seconds, peak_memory, timing
from benchmarks.peers import NotApplicableError, contender
from benchmarks.suite import CASES, FORWARD, Case, Work, build, quick
from codd.coupling.couplings import CouplingSettings
from codd.coupling.step import coupling_step

# Largest error of log Z (relative) and of a marginal (absolute), by precision.
TOLERANCES = {"ieee": 1e-5, "tf32x3": 1e-5, "bf16": 2e-2, "float64": 1e-5, "library": 1e-4}
PRODUCT = CouplingSettings("product")
SWEEP = CouplingSettings("copula", (1.0,))


@dataclass(frozen=True)
class Way:
    """One way to run a step.

    Attributes:
        form: "exact" (all tokens) or "top-k".
        settings: The coupling.
        precision: Of the emission table; "float64" is plain PyTorch on the CPU.
        captured: Whether the step is recorded as a graph and replayed.
    """

    form: str
    settings: CouplingSettings
    precision: str
    captured: bool

    @property
    def name(self) -> str:
        """The way, in words."""
        coupling = "product" if self.settings.kind == "product" else "copula, one sweep"
        return f"{self.form}, {coupling}, {self.precision}" + (", graph" if self.captured else "")


def ways(device: torch.device) -> tuple[Way, ...]:
    """All that run on a device."""
    on_gpu = device.type == "cuda"
    precisions = ("ieee", "tf32x3", "bf16") if on_gpu else ("float64",)
    return tuple(
        Way(form, settings, precision, captured)
        for form in ("exact", "top-k")
        for settings in (PRODUCT, SWEEP)
        for precision in precisions
        for captured in ((False, True) if on_gpu else (False,))
    )


def run_coupling_step(
    *, device: torch.device, rounds: int, small: bool = False
) -> dict[str, object]:
    """Measures one step at batch 1 in all ways, and the gradients of log Z at batch 8.

    Args:
        device: Device.
        rounds: Timed rounds.
        small: Whether to take tiny sizes, to see that everything runs.

    Returns:
        The report, ready for JSON. A wrong result has its error and no time.
    """
    case = quick(CASES["step-soft"]) if small else CASES["step-soft"]
    work = build(case, device)
    entries: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for way in ways(device):
        entry, call = _prepared(work, way, 3 if small else 1024)
        entries[way.name] = entry
        if call is not None:
            calls[way.name] = call
    for name in ("pyjuice", "pyjuice, float32"):
        entry, call = _library(work, name)
        entries[f"{name}: log Z alone"] = entry
        if call is not None:
            calls[f"{name}: log Z alone"] = call
    _time(entries, calls, device, rounds)
    batch = _batch(device, rounds, small)
    every = {**entries, **{f"batch 8, {n}": e for n, e in batch["entries"].items()}}
    return {
        "benchmark": "coupling-step",
        "machine": describe_machine(device, ("triton", "pyjuice")),
        "description": case.description,
        "quick": small,
        "tolerances": TOLERANCES,
        "entries": entries,
        "batch": batch,
        "wrong": [n for n, e in every.items() if e.get("wrong") and not n.startswith("pyjuice")],
    }


def _prepared(
    work: Work, way: Way, listed: int
) -> tuple[dict[str, Any], Callable[[], object] | None]:
    """A way's entry with its errors, and what is timed if they are small enough."""
    potentials, categories = _evidence(work, way.form, listed)
    impl = "torch" if way.precision == "float64" else "triton"
    options = {} if impl == "torch" else {"precision": way.precision}
    passes = pc.queries.chain_passes(work.plan, work.log_parameters, impl=impl, **options)
    shape = potentials.shape[:2]
    inputs = (
        potentials,
        torch.zeros(shape, dtype=torch.long, device=work.device),
        torch.zeros(shape, dtype=torch.bool, device=work.device),
        torch.rand(1, 1, shape[1], 2, device=work.device),
        categories,
    )
    function: Callable[..., Any] = torch.no_grad()(partial(coupling_step, way.settings, passes))
    if way.captured:
        function = pc.queries.captured_step(function, inputs)
    found = function(*inputs)
    # The copula's potentials are its own; given them, log Z and marginals are checked alike.
    log_z, marginals = _exact(work, found.potentials, categories)
    errors = {
        "log Z": float(((found.log_partition.double() - log_z) / log_z).abs().amax()),
        "marginals": float((found.marginals.double() - marginals).abs().amax()),
    }
    wrong = not max(errors.values()) <= TOLERANCES[way.precision]
    return {"errors": errors, "wrong": wrong}, None if wrong else lambda: function(*inputs)


def _library(work: Work, name: str) -> tuple[dict[str, Any], Callable[[], object] | None]:
    try:
        found = contender(name, work, FORWARD)
        log_z = _exact(work, work.evidence.log_potentials, None)[0]
        error = float(((found.result().double() - log_z) / log_z).abs().amax())
    except (ImportError, NotApplicableError) as reason:
        return {"missing": str(reason)}, None
    except Exception as failure:
        return {"missing": f"{type(failure).__name__}: {str(failure)[:200]}"}, None
    allowed = TOLERANCES["library"] if found.tolerance is None else found.tolerance
    wrong = not error <= allowed
    return {"errors": {"log Z": error}, "wrong": wrong}, None if wrong else found.call


def _time(
    entries: dict[str, dict[str, Any]],
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
) -> None:
    seconds = interleaved_seconds(
        calls, rounds=rounds, warmup=3, device=device, share=8.0, lead=LEAD
    )
    for name, call in calls.items():
        entries[name]["seconds"] = asdict(timing(seconds[name]))
        entries[name]["rounds"] = seconds[name]
        with peak_memory(device) as memory:
            call()
        entries[name]["peak_bytes"] = memory.above


def _batch(device: torch.device, rounds: int, small: bool) -> dict[str, Any]:
    """Log Z and its gradients in potentials and parameters, batch 8 with listed evidence."""
    case: Case = quick(CASES["step-listed"]) if small else CASES["step-listed"]
    work = build(case, device)
    prepared = pc.prepare(work.plan, work.log_parameters)
    leaves = {n: p.clone().requires_grad_() for n, p in work.log_parameters.items()}
    potentials, categories = work.evidence.log_potentials, work.evidence.categories
    assert potentials is not None
    leaf = potentials.clone().requires_grad_()
    evidence = pc.Evidence(log_potentials=leaf, categories=categories)

    def both() -> None:
        for tensor in (*leaves.values(), leaf):
            tensor.grad = None
        pc.forward(work.plan, leaves, evidence).sum().backward()

    forward = torch.no_grad()(lambda: pc.forward(work.plan, prepared, work.evidence))
    log_z, marginals = _exact(work, potentials, categories)
    both()
    assert leaf.grad is not None
    errors = {
        "forward": float(((forward().double() - log_z) / log_z).abs().amax()),
        "forward+backward": float((leaf.grad.double() - marginals).abs().amax()),
    }
    entries = {
        name: {"errors": {name: error}, "wrong": not error <= TOLERANCES["tf32x3"]}
        for name, error in errors.items()
    }
    calls = {"forward": forward, "forward+backward": both}
    right = {name: call for name, call in calls.items() if not entries[name]["wrong"]}
    _time(entries, right, device, rounds)
    return {"description": case.description, "entries": entries}


def _evidence(work: Work, form: str, listed: int) -> tuple[Tensor, Tensor | None]:
    potentials = work.evidence.log_potentials
    assert potentials is not None
    if form == "exact":
        return potentials, None
    top = potentials.topk(listed, dim=-1)
    return top.values, top.indices


def _exact(
    work: Work, potentials: Tensor | None, categories: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(B,) log Z and (B, L, V) or (B, L, J) marginals in float64."""
    assert potentials is not None
    exact = {name: log.double() for name, log in work.log_parameters.items()}
    leaf = potentials.detach().double().requires_grad_()
    table = exact.pop("emission").T
    if categories is None:
        emitted = plain.soft_emissions(table, leaf)
    else:
        emitted = plain.listed_emissions(table, leaf, categories)
    log_z = plain.chain_log_value(exact, emitted)
    (marginals,) = torch.autograd.grad(log_z.sum(), leaf)
    return log_z.detach(), marginals
