"""One decoding step's coupling at full vocabulary: seconds and memory of the queries it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

import pcircuits as pc
from benchmarks.cases import StepCase, StepSizes, step_case
from benchmarks.execution import WrongResultError
from benchmarks.measure import describe_machine, interleaved_seconds, peak_memory, timing
from benchmarks.plain import hmm_log_partition

SMALL = StepSizes(length=12, num_states=48, num_categories=400, num_listed=50)
# Largest error of log Z, relative, and of a marginal, absolute, in float32.
TOLERANCE = 1e-4
# A frequency may differ from its probability by this many standard deviations.
_DEVIATIONS = 6.0
_CHECKED_SAMPLES = 20_000

Query = Callable[[], Tensor]


def run_decoding_step(sizes: StepSizes, *, device: torch.device, rounds: int) -> dict[str, object]:
    """Checks the queries at a small size, then measures them at the given one.

    Args:
        sizes: Sizes to measure at.
        device: Device.
        rounds: Timed calls of each query.

    Returns:
        The report, ready for JSON.

    Raises:
        WrongResultError: If a result at the small size differs from float64.
    """
    errors = check_step(step_case(SMALL, device=device))
    case = step_case(sizes, device=device)
    start = time.perf_counter()
    prepared = pc.prepare(case.plan, case.log_parameters)
    seconds = time.perf_counter() - start
    forms = {
        form: {
            name: _measure(query, device=device, rounds=rounds)
            for name, query in _queries(case.plan, prepared, evidence).items()
        }
        for form, evidence in case.evidence().items()
    }
    return {
        "benchmark": "decoding-step",
        "machine": describe_machine(device),
        "sizes": asdict(sizes),
        "checked_at": asdict(SMALL),
        "errors": errors,
        "tolerance": TOLERANCE,
        "prepare_seconds": seconds,
        "states_times_categories_bytes": 4 * sizes.num_states * sizes.num_categories,
        "forms": forms,
    }


def check_step(case: StepCase) -> dict[str, dict[str, float]]:
    """Compares log Z, marginals and samples with the same in float64, term by term.

    Returns:
        Form -> query -> error; of samples in standard deviations.

    Raises:
        WrongResultError: If one is too large.
    """
    prepared = pc.prepare(case.plan, case.log_parameters)
    errors = {}
    for form, evidence in case.evidence().items():
        log_z, marginals = _exact(case, evidence)
        generator = torch.Generator(marginals.device).manual_seed(0)
        samples = pc.queries.sample(
            case.plan, prepared, _CHECKED_SAMPLES, evidence, generator=generator
        )
        found_log_z = pc.forward(case.plan, prepared, evidence)
        found = pc.queries.marginals(case.plan, prepared, evidence)
        errors[form] = {
            "log_z": float(((found_log_z - log_z) / log_z).abs().amax()),
            "marginals": float((found - marginals).abs().amax()),
            "sample": _deviations(samples[0], marginals[0]),
        }
        allowed = {"log_z": TOLERANCE, "marginals": TOLERANCE, "sample": _DEVIATIONS}
        for name, error in errors[form].items():
            if not error <= allowed[name]:
                limit = f"expected at most {allowed[name]:.2g}"
                raise WrongResultError(f"{form} form: {name} is off by {error:.2g}; {limit}")
    return errors


def _queries(
    plan: pc.Plan, prepared: pc.PreparedParameters, evidence: pc.Evidence
) -> dict[str, Query]:
    return {
        "log_z": torch.no_grad()(lambda: pc.forward(plan, prepared, evidence)),
        "marginals": lambda: pc.queries.marginals(plan, prepared, evidence),
        "sample": lambda: pc.queries.sample(plan, prepared, 1, evidence),
    }


def _measure(query: Query, *, device: torch.device, rounds: int) -> dict[str, object]:
    """First call, later calls, and memory: the first one prepares tables that stay."""
    with peak_memory(device) as first_memory:
        (first,) = interleaved_seconds({"": query}, rounds=1, warmup=0, device=device)[""]
    later = interleaved_seconds({"": query}, rounds=rounds, warmup=0, device=device)[""]
    with peak_memory(device) as memory:
        query()
    return {
        "first_seconds": first,
        "seconds": asdict(timing(later)),
        "first_memory": asdict(first_memory),
        "memory": asdict(memory),
    }


def _exact(case: StepCase, evidence: pc.Evidence) -> tuple[Tensor, Tensor]:
    """Log Z and marginals in float64; the latter are its gradient."""
    potentials = evidence.log_potentials
    assert potentials is not None
    potentials = potentials.double()
    if evidence.categories is not None:
        full = potentials.new_full(case.log_potentials.shape, -torch.inf)
        potentials = full.scatter(2, evidence.categories, potentials)
    potentials = potentials.requires_grad_()
    parameters = {name: p.double() for name, p in case.log_parameters.items()}
    log_z = hmm_log_partition(parameters, potentials)
    (marginals,) = torch.autograd.grad(log_z.sum(), potentials)
    return log_z.detach(), marginals


def _deviations(samples: Tensor, marginals: Tensor) -> float:
    """Largest difference of (N, L) samples' frequencies from (L, V), in standard deviations."""
    counts = torch.zeros_like(marginals)
    counts.scatter_add_(1, samples.T, torch.ones_like(samples.T, dtype=counts.dtype))
    expected = marginals * len(samples)
    # Rare tokens are told apart from impossible ones alone: their counts are far from normal.
    impossible = (marginals <= 0) & (counts > 0)
    if bool(impossible.any()):
        return float("inf")
    deviation = (expected * (1 - marginals)).clamp_min(1.0).sqrt()
    return float(((counts - expected).abs() / deviation)[expected >= 5].amax())
