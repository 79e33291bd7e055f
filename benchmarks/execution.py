"""Log-likelihood with its backward pass: the executor against plain PyTorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Tensor

from benchmarks.cases import OURS, PLAIN, LikelihoodCase, Variant, binary_tree_case, hmm_case
from benchmarks.measure import describe_machine, interleaved_seconds, timing

# Largest error of a value, and of a gradient, relative to the largest entry of all values or all
# gradients. The gradient of a normalised parameter is a small difference of large counts.
TOLERANCE = 1e-4


class WrongResultError(Exception):
    """A result that is to be timed is wrong."""


def run_execution(*, device: torch.device, rounds: int) -> dict[str, object]:
    """Checks and times the cases of README.md.

    Args:
        device: Device.
        rounds: Timed calls of each variant.

    Returns:
        The report, ready for JSON.

    Raises:
        WrongResultError: If a variant's value or gradient differs from float64.
    """
    cases = (hmm_case(device=device), binary_tree_case(device=device))
    return {
        "benchmark": "execution",
        "machine": describe_machine(device),
        "tolerance": TOLERANCE,
        "cases": [run_case(case, device=device, rounds=rounds) for case in cases],
    }


def run_case(case: LikelihoodCase, *, device: torch.device, rounds: int) -> dict[str, object]:
    """Checks all variants of a case, then times them in turn."""
    errors = {variant.name: check(variant, case.values) for variant in case.variants}
    seconds = interleaved_seconds(
        {variant.name: _call(variant, case.values) for variant in case.variants},
        rounds=rounds,
        warmup=5,
        device=device,
    )
    ratios = [a / b for a, b in zip(seconds[OURS], seconds[PLAIN], strict=True)]
    return {
        "name": case.name,
        "description": case.description,
        "errors": errors,
        "seconds": {name: asdict(timing(found)) for name, found in seconds.items()},
        "ratio_of_medians": statistics.median(seconds[OURS]) / statistics.median(seconds[PLAIN]),
        "ratios_round_by_round": asdict(timing(ratios)),
    }


def check(variant: Variant, values: Tensor) -> float:
    """Compares a variant's value and gradients with its reference in float64.

    Returns:
        The largest error found, measured as `TOLERANCE` is.

    Raises:
        WrongResultError: If it exceeds `TOLERANCE`.
    """
    exact = {name: leaf.detach().double().requires_grad_() for name, leaf in variant.leaves.items()}
    expected = variant.reference(exact, values)
    expected.sum().backward()
    _clear_gradients(variant)
    found = variant.function(variant.leaves, values)
    found.sum().backward()
    scale = max(float(leaf.grad.abs().amax()) for leaf in exact.values() if leaf.grad is not None)
    errors = {"value": _difference(found, expected) / float(expected.detach().abs().amax())}
    for name, leaf in variant.leaves.items():
        errors[f"gradient of {name}"] = _difference(leaf.grad, exact[name].grad) / scale
    worst = max(errors, key=errors.__getitem__)
    if not errors[worst] <= TOLERANCE:
        raise WrongResultError(
            f"{variant.name}: {worst} is off by {errors[worst]:.2g} of the largest entry; "
            f"expected at most {TOLERANCE:.2g}"
        )
    return errors[worst]


def _call(variant: Variant, values: Tensor) -> Callable[[], None]:
    def call() -> None:
        _clear_gradients(variant)
        variant.function(variant.leaves, values).sum().backward()

    return call


def _clear_gradients(variant: Variant) -> None:
    for leaf in variant.leaves.values():
        leaf.grad = None


def _difference(found: Tensor | None, expected: Tensor | None) -> float:
    if found is None or expected is None:
        return float("inf")
    return float((found.detach().double() - expected.detach()).abs().amax())
