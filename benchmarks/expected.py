"""What is right: every pass in float64 and plain PyTorch, and how far a result is from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import pcircuits as pc
from benchmarks import plain
from benchmarks.suite import BACKWARD, EM, FORWARD, SAMPLING, Work

# Largest error of a right result. Values: relative; gradients: of the largest entry; probabilities:
# absolute; samples: standard deviations of the frequencies.
TOLERANCE = 1e-4
DEVIATIONS = 6.0
# Pairs of variables whose joint frequencies samples are checked by.
_NUM_PAIRS = 64


def tolerance(pass_: str) -> float:
    """The largest error of a right result."""
    return DEVIATIONS if pass_ == SAMPLING else TOLERANCE


def error_of(work: Work, pass_: str, found: Tensor | Mapping[str, Tensor]) -> float:
    """How wrong a pass's result is, measured as `TOLERANCE` says; infinite if not comparable."""
    if pass_ == SAMPLING:
        return _deviations(work, found) if isinstance(found, Tensor) else torch.inf
    if pass_ not in work.seen:
        work.seen[pass_] = _expected(work, pass_)
    expected = work.seen[pass_]
    if isinstance(expected, Tensor):
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            return torch.inf
        scale = expected.abs().clamp_min(1.0)
        return _largest((found.to(expected) - expected) / scale)
    if not isinstance(found, Mapping) or not found:
        return torch.inf
    if pass_ == BACKWARD:
        found = {n: _of_logits(work, n, g.to(expected[n])) for n, g in found.items()}
        scale = max(_largest(tensor) for tensor in expected.values())
    else:
        scale = 1.0
    return max(_largest(found[n].to(expected[n]) - expected[n]) for n in found) / scale


def maximised(
    plan: pc.Plan, counts: Mapping[str, Tensor], log_parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """EM's new probabilities: expected counts over their rows' totals; rows of no count stay."""
    found = {}
    for name, count in counts.items():
        rows = plan.parameter_rows[name]
        assert isinstance(rows, int), "the suite's circuits have rows of one length"
        parts = count.reshape(*count.shape[:-1], -1, rows)
        totals = parts.sum(-1, keepdim=True)
        old = log_parameters[name].reshape(parts.shape).exp()
        found[name] = torch.where(totals > 0, parts / totals, old).reshape(count.shape)
    return found


def _expected(work: Work, pass_: str) -> Tensor | dict[str, Tensor]:
    exact = {n: p.double().requires_grad_() for n, p in work.log_parameters.items()}
    evidence = _double(work.evidence)
    circuit = work.plan.circuit
    if pass_ == FORWARD:
        with torch.no_grad():
            return plain.circuit_log_value(circuit, exact, evidence)
    if pass_ in (BACKWARD, EM):
        value = plain.circuit_log_value(circuit, exact, evidence).sum()
        counts = dict(zip(exact, torch.autograd.grad(value, list(exact.values())), strict=True))
        if pass_ == EM:
            return maximised(work.plan, counts, {n: p.detach() for n, p in exact.items()})
        return {n: _of_logits(work, n, count) for n, count in counts.items()}
    return _expected_posteriors(work, {n: p.detach() for n, p in exact.items()}, evidence)


def _expected_posteriors(work: Work, exact: Mapping[str, Tensor], evidence: pc.Evidence) -> Tensor:
    """(L, B, K) of the inputs' units where all is observed, else (B, L, V)."""
    if evidence.log_potentials is None:
        first = next(iter(work.plan.circuit.inputs))
        shape = len(work.latents), work.case.batch_size, first.num_units
        probe = torch.zeros(shape, dtype=torch.float64, device=work.device).requires_grad_()
        probes = dict(zip(work.latents, probe, strict=True))
        value = plain.circuit_log_value(work.plan.circuit, exact, evidence, probes)
        return torch.autograd.grad(value.sum(), probe)[0]
    leaf = evidence.log_potentials.requires_grad_()
    value = plain.circuit_log_value(work.plan.circuit, exact, evidence)
    (found,) = torch.autograd.grad(value.sum(), leaf)
    if evidence.categories is None:
        return found
    full = found.new_zeros(*found.shape[:2], work.plan.num_categories)
    return full.scatter_add(2, evidence.categories, found)


def _of_logits(work: Work, name: str, gradient: Tensor) -> Tensor:
    """Gradient in unnormalised log-weights: the same whether a library normalises or not."""
    rows = work.plan.parameter_rows[name]
    assert isinstance(rows, int), "the suite's circuits have rows of one length"
    parts = gradient.reshape(*gradient.shape[:-1], -1, rows)
    weights = work.log_parameters[name].to(gradient).exp().reshape(parts.shape)
    return (parts - weights * parts.sum(-1, keepdim=True)).reshape(gradient.shape)


def _deviations(work: Work, samples: Tensor) -> float:
    """Largest deviation of joint frequencies: pairs of variables, each in a random half.

    A pair's probability is the circuit's value where both variables are cut to their halves, so
    dependence is checked as well as single frequencies.
    """
    length, categories = work.plan.num_variables, work.plan.num_categories
    generator = torch.Generator().manual_seed(1)
    halves = torch.rand(length, categories, generator=generator) < 0.5
    halves[:, 0], halves[:, 1] = True, False  # never all or nothing
    pairs = torch.randint(length, (_NUM_PAIRS, 2), generator=generator)
    cut = one_hot(pairs, length).sum(1).bool()[:, :, None] & ~halves
    potentials = torch.zeros(cut.shape, dtype=torch.float64).masked_fill(cut, -torch.inf)
    evidence = pc.Evidence(log_potentials=potentials.to(work.device))
    exact = {n: p.double() for n, p in work.log_parameters.items()}
    with torch.no_grad():
        chance = plain.circuit_log_value(work.plan.circuit, exact, evidence).exp().cpu()
    inside = halves[torch.arange(length), samples.cpu().long()]  # (N, L)
    both = inside[:, pairs[:, 0]] & inside[:, pairs[:, 1]]
    spread = (chance * (1 - chance) / len(samples)).sqrt().clamp_min(1 / len(samples))
    return _largest((both.double().mean(0) - chance) / spread)


def _double(evidence: pc.Evidence) -> pc.Evidence:
    potentials = evidence.log_potentials
    return pc.Evidence(
        values=evidence.values,
        log_potentials=None if potentials is None else potentials.double(),
        categories=evidence.categories,
    )


def _largest(difference: Tensor) -> float:
    """Largest absolute value; infinite if any is not a number."""
    largest = float(difference.detach().abs().amax())
    return largest if largest == largest else torch.inf
