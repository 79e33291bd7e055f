"""Runs one case through an implementation and through the reference, the same way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import Case, map_evidence
from tests.support.low_precision import VALUE, Allowed, Precision, allowed
from tests.support.poison import poisoned_memory

Results = dict[str, Tensor]


def converted(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The case with all its floating-point tensors changed."""

    def own(tensor: Tensor) -> Tensor:
        return change(tensor) if tensor.is_floating_point() else tensor

    parameters = {name: own(tensor) for name, tensor in case.parameters.items()}
    return Case(case.circuit, parameters, map_evidence(case.evidence, own))


def placed(case: Case, place: Callable[[Tensor], Tensor]) -> Case:
    """The case with every tensor in other memory."""
    parameters = {name: place(tensor) for name, tensor in case.parameters.items()}
    return Case(case.circuit, parameters, map_evidence(case.evidence, place))


def strided(tensor: Tensor) -> Tensor:
    """The same numbers in another order of memory, with NaN (or an absurd integer) between them."""
    gap = torch.nan if tensor.is_floating_point() else torch.iinfo(torch.uint8).max
    wide = torch.stack([tensor, torch.full_like(tensor, gap)], dim=-1)
    axes = range(tensor.ndim)
    reordered = wide.permute(*reversed(axes), tensor.ndim).contiguous()
    return reordered.permute(*reversed(axes), tensor.ndim)[..., 0]


def leaves_of(case: Case) -> Results:
    """Everything that a value may be differentiated for."""
    leaves = dict(case.parameters)
    if case.evidence.log_potentials is not None:
        leaves["log_potentials"] = case.evidence.log_potentials
    for name, tensor in (case.evidence.latent_log_potentials or {}).items():
        leaves[f"latent {name}"] = tensor
    return leaves


def with_gradients(case: Case) -> Case:
    """The case, in the same memory, with leaves of a graph of their own."""
    return converted(case, lambda tensor: tensor.detach().requires_grad_())


def importance_of(value: Tensor, seed: int) -> Tensor:
    """(B,) gradient of a loss for the values, of both signs, and zero for some examples."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(value), generator=generator, dtype=torch.float64)
    used = torch.rand(len(value), generator=generator) < 0.9
    return (drawn * used).float().to(value.dtype)


def gradients(value: Tensor, case: Case, importance: Tensor, *, graph: bool = False) -> Results:
    """Gradients for all leaves of a case, zero where the value does not depend on one."""
    leaves = leaves_of(case)
    if not value.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(
        value, list(leaves.values()), importance, allow_unused=True, create_graph=graph
    )
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def value_and_gradients(plan: pc.Plan, case: Case, impl: str, seed: int) -> Results:
    """Values, and the gradients of a random loss."""
    own = with_gradients(case)
    value = pc.forward(plan, own.parameters, own.evidence, impl=impl)
    flows = gradients(value, own, importance_of(value, seed))
    return {VALUE: value.detach(), **flows}


def results(plan: pc.Plan, case: Case, impl: str, seed: int) -> Results:
    """As `value_and_gradients`, and the values where no gradient is wanted."""
    with torch.no_grad():
        plain = pc.forward(plan, case.parameters, case.evidence, impl=impl)
    found = value_and_gradients(plan, case, impl, seed)
    return {f"{VALUE} without gradients": plain, **found}


def second_results(plan: pc.Plan, case: Case, impl: str, seed: int) -> Results:
    """Gradients of a random function of the gradients."""
    own = with_gradients(case)
    value = pc.forward(plan, own.parameters, own.evidence, impl=impl)
    flows = gradients(value, own, importance_of(value, seed), graph=True)
    generator = torch.Generator().manual_seed(seed)
    total = value.new_zeros(())
    for flow in flows.values():
        direction = torch.randn(flow.shape, generator=generator, dtype=torch.float64)
        total = total + (flow * direction.to(flow.dtype)).sum()
    second = gradients(total, own, torch.ones_like(total))
    first = {f"first {name}": flow.detach() for name, flow in flows.items()}
    return {**first, **second}


def exact(
    case: Case,
    precision: Precision,
    evaluate: Callable[[pc.Plan, Case, str, int], Results],
    seed: int,
) -> Allowed:
    """What the reference gives for a case rounded to a precision, and the errors it excuses."""
    plan = pc.compile_circuit(case.circuit)
    double = converted(case, lambda tensor: tensor.to(precision.result).double())
    cancelling = evaluate is second_results
    return allowed(
        lambda: evaluate(plan, double, "reference", seed), precision, cancelling=cancelling
    )


def check(
    case: Case,
    impl: str,
    precision: Precision,
    seed: int,
    *,
    place: Callable[[Tensor], Tensor],
    evaluate: Callable[[pc.Plan, Case, str, int], Results] = results,
    limits: Allowed | None = None,
) -> float:
    """Compares an implementation with the reference, on poisoned memory.

    Returns:
        The largest error, as a share of what is allowed.

    Raises:
        AssertionError: If a result is too far off, or an input was changed.
    """
    plan = pc.compile_circuit(case.circuit)
    limits = limits or exact(case, precision, evaluate, seed)
    given = converted(case, lambda tensor: tensor.to(precision.result))
    given = placed(given, place)
    before = placed(given, torch.clone)
    with poisoned_memory():
        found = evaluate(plan, given, impl, seed)
    _assert_same(before, given)
    return limits.check(found, f"{impl}, {precision.result}")


def _assert_same(before: Case, after: Case) -> None:
    for name, tensor in leaves_of(before).items():
        assert torch.equal(tensor, leaves_of(after)[name]), f"{name} was changed"
    for name in ("values", "observed", "categories"):
        first, second = getattr(before.evidence, name), getattr(after.evidence, name)
        assert first is None or torch.equal(first, second), f"{name} was changed"
