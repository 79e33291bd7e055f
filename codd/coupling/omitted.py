"""Bounds on what a coupling of listed tokens leaves out.

With a_n = sum over listed v of g_n(v) p_i(v) for an input unit n, the sum b_n over all other tokens
is at most (the probability of them all) x (the largest weight of the unit), and at most (the
largest probability of one of them) x (the unit's weight on them all). Evaluating the circuit once
more with the smaller of the two in place of b_n bounds what the whole vocabulary would give.
"""

from __future__ import annotations

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.targets import Listing
from codd.coupling.units import CircuitWindow, input_variables, joined, unit_values, where_masked
from codd.coupling.window import skipped


def omitted_mass(kind: str, window: CircuitWindow) -> Tensor:
    """Bounds the probability of a token that is not listed, under the coupling of all tokens.

    Args:
        kind: "product", "local" or "copula". The copula keeps the denoiser's marginals, so the
            sum of what is omitted at each position bounds it, as far as its sweeps have converged.
        window: The product of the denoiser's listed probabilities and the circuit.

    Returns:
        (B,) in [0, 1]; zero where all tokens are listed.

    Raises:
        CouplingError: If it is not known how probable the other tokens are.
    """
    listing = window.listing
    if listing is None:
        return window.log_potentials.new_zeros(len(window.observed))
    if kind == "copula":
        fixed = skipped(window.observed, window.valid)
        return listing.omitted().masked_fill(fixed, 0.0).sum(1).clamp(max=1.0)
    inside = unit_values(window, window.log_potentials)
    outside = _most_outside(window, listing)
    # Masked tokens are summed out below; what units add to that is taken back.
    free = unit_values(window, None)
    alone = {n: -own.masked_fill(own.isneginf(), 0.0) for n, own in free.items()}
    whole = {n: torch.logaddexp(own, outside[n]) for n, own in inside.items()}
    if kind == "local":
        kept = {n: alone[n] + (own - whole[n]) for n, own in inside.items()}
        dead = {n: own.masked_fill(inside[n].isneginf(), -torch.inf) for n, own in kept.items()}
        share = _value(window, dead) - _value(window, alone)
    else:
        raised = {n: own + alone[n] for n, own in whole.items()}
        evidence = window.evidence_with(window.log_potentials)
        found = pc.forward(window.plan, window.parameters, evidence)
        share = found - _value(window, raised)
    return -torch.expm1(share.clamp(max=0.0))


def _value(window: CircuitWindow, units: dict[str, Tensor]) -> Tensor:
    """(B,) log of the circuit's value with masked tokens summed out, under more potentials."""
    latent = joined(window.latent, where_masked(window, units))
    return pc.forward(window.plan, window.parameters, window.evidence_with(None, latent))


def _most_outside(window: CircuitWindow, listing: Listing) -> dict[str, Tensor]:
    """Input node -> (B, K) log of at least what the unlisted tokens add to its units' values."""
    log_omitted = listing.omitted().log()
    variables = input_variables(window.plan)
    largest = _largest_weights(window)
    found = {name: log_omitted[:, variables[name], None] + largest[name] for name in variables}
    if listing.log_ceiling is None:
        return found
    free = unit_values(window, None)
    listed = unit_values(window, torch.zeros_like(window.log_potentials))
    for name, own in found.items():
        total = free[name].exp()
        # Rounding must not make it smaller than it is.
        slack = 64 * torch.finfo(total.dtype).eps * total
        rest = ((total - listed[name].exp()).clamp(min=0.0) + slack).log()
        ceiling = listing.log_ceiling[:, variables[name], None]
        found[name] = torch.minimum(own, rest + ceiling)
    return found


def _largest_weights(window: CircuitWindow) -> dict[str, Tensor]:
    """Input node -> (1 or B, K) the largest log-weight of each unit."""
    tops: dict[int, Tensor] = {}
    found = {}
    for name in input_variables(window.plan):
        layer, fold = window.plan.places[name]
        log = window.parameters.weights[layer].log
        if id(log) not in tops:
            tops[id(log)] = log.detach().amax(-1)
        found[name] = tops[id(log)][fold % len(log)]
    return found
