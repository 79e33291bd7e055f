"""What is known of a window: the checks of its tensors, and the evidence that they are."""

from __future__ import annotations

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.targets import Listing
from codd.errors import CouplingError


def window_evidence(
    log_potentials: Tensor | None,
    values: Tensor,
    observed: Tensor,
    latent: dict[str, Tensor] | None,
    valid: Tensor | None,
    listing: Listing | None,
    num_categories: int,
) -> pc.Evidence:
    """Evidence of a window: visible tokens, potentials at masked ones, nothing at padding.

    Without potentials masked tokens are summed out, as padding always is. That takes all tokens,
    so where there is padding lists are laid out over all of them.
    """
    if log_potentials is None:
        return pc.Evidence(values, observed, latent_log_potentials=latent)
    if listing is not None and (valid is None or bool(valid.all())):
        return pc.Evidence(values, observed, log_potentials, latent, listing.categories)
    if listing is not None:
        shape = (*log_potentials.shape[:2], num_categories)
        nothing = log_potentials.new_full(shape, -torch.inf)
        log_potentials = nothing.scatter(2, listing.categories, log_potentials)
    if valid is not None:
        log_potentials = log_potentials.masked_fill(~valid[..., None], 0.0)
    return pc.Evidence(values, observed, log_potentials, latent)


def check_shapes(
    log_potentials: Tensor,
    values: Tensor,
    observed: Tensor,
    valid: Tensor | None,
    listing: Listing | None,
) -> None:
    """Checks that the tensors of a window fit together.

    Raises:
        CouplingError: If shapes differ.
    """
    if log_potentials.ndim != 3:
        raise CouplingError(
            f"log-potentials must be (B, W, V); found shape {tuple(log_potentials.shape)}"
        )
    if listing is not None and listing.categories.shape != log_potentials.shape:
        raise CouplingError(
            f"the lists have shape {tuple(listing.categories.shape)}; log-potentials of listed "
            f"tokens need the same, found {tuple(log_potentials.shape)}"
        )
    for name, tensor in (("values", values), ("observed", observed), ("valid", valid)):
        if tensor is not None and tensor.shape != log_potentials.shape[:2]:
            raise CouplingError(
                f"{name} has shape {tuple(tensor.shape)}; "
                f"log-potentials need {tuple(log_potentials.shape[:2])}"
            )


def check_tokens(
    values: Tensor,
    observed: Tensor,
    valid: Tensor | None,
    num_categories: int,
    log_potentials: Tensor | None = None,
) -> None:
    """Checks what a window holds; a device is asked once, and again where something is wrong.

    Args:
        values: (B, W) tokens.
        observed: (B, W) bool.
        valid: (B, W) bool or None.
        num_categories: Number of tokens V.
        log_potentials: (B, W, V) of the masked tokens, to be checked as well.

    Raises:
        CouplingError: If a visible token is not in 0 .. V - 1, padding is observed, or a masked
            token's log-potential is NaN or +inf.
    """
    outside = (values != values.clamp(0, num_categories - 1)) & observed
    padded = torch.zeros_like(observed) if valid is None else observed & ~valid
    infinite = torch.zeros_like(observed)
    if log_potentials is not None:
        # One pass: the largest is NaN if one is, and NaN is not below anything.
        infinite = ~(log_potentials.amax(-1) < torch.inf) & ~skipped(observed, valid)
    if not bool((outside | padded | infinite).any()):
        return
    if bool(outside.any()):
        row, position = outside.nonzero()[0].tolist()
        raise CouplingError(
            f"visible token [{row}, {position}] is {int(values[row, position])}; "
            f"expected 0 .. {num_categories - 1}"
        )
    if bool(padded.any()):
        row, position = padded.nonzero()[0].tolist()
        raise CouplingError(f"position [{row}, {position}] is padding and observed; expected one")
    assert log_potentials is not None
    row, position = infinite.nonzero()[0].tolist()
    found = log_potentials[row, position]
    token = int((~(found < torch.inf)).byte().argmax())
    raise CouplingError(
        f"the log-potential of token {token} at [{row}, {position}] is {float(found[token])}; "
        "expected one below +inf"
    )


def check_circuit(plan: pc.Plan, log_potentials: Tensor, listing: Listing | None) -> None:
    """Checks that a circuit is about such windows.

    Raises:
        CouplingError: If its numbers of variables or categories differ.
    """
    width = plan.num_categories if listing is not None else log_potentials.shape[2]
    if (plan.num_variables, plan.num_categories) != (log_potentials.shape[1], width):
        raise CouplingError(
            f"the circuit has {plan.num_variables} variables of {plan.num_categories} categories; "
            f"the window has {log_potentials.shape[1]} tokens of {width}"
        )


def taken(log_potentials: Tensor, tokens: Tensor, listing: Listing | None) -> Tensor:
    """(B, W) potentials of tokens (B, W); -inf where they are not listed, or no tokens at all.

    Raises:
        CouplingError: If shapes differ.
    """
    if tokens.shape != log_potentials.shape[:2]:
        raise CouplingError(
            f"tokens have shape {tuple(tokens.shape)}; expected {tuple(log_potentials.shape[:2])}"
        )
    if listing is None:
        place = tokens.clamp(0, log_potentials.shape[2] - 1).long()
        is_there = place == tokens
    else:
        place, is_there = listing.place(tokens)
    found = log_potentials.gather(2, place.unsqueeze(2)).squeeze(2)
    return found.masked_fill(~is_there, -torch.inf)


def free_sum(
    each: Tensor, tokens: Tensor, values: Tensor, observed: Tensor, valid: Tensor | None
) -> Tensor:
    """(B,) sum over the masked positions; -inf where tokens contradict the visible ones."""
    free = each.masked_fill(skipped(observed, valid), 0.0).sum(1)
    return free.masked_fill(((tokens != values) & observed).any(1), -torch.inf)


def skipped(observed: Tensor, valid: Tensor | None) -> Tensor:
    """(B, W) bool, positions that are visible or padding."""
    return observed if valid is None else observed.masked_fill(~valid, True)


def describe(kind: str, observed: Tensor, num_categories: int) -> str:
    """A distribution in one line, without its tensors.

    Args:
        kind: Name of its class.
        observed: (B, W) bool.
        num_categories: Number of categories V.
    """
    batch, length = observed.shape
    hidden = int((~observed).sum())
    windows = f"{batch} window{'s' * (batch != 1)}"
    return f"{kind}({windows} of {length} tokens, {num_categories} categories, {hidden} masked)"
