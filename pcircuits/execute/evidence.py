"""What is known of the variables: values, potentials, or nothing, per example and position."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence for a batch of B examples over L variables with at most V categories.

    A variable is observed (it has a value), or it is not and then may carry log-potentials: one
    number for each category, by which the category's probability is multiplied in log space.
    Neither is a missing value. All kinds may be mixed within one example.

    Args:
        values: (B, L) integers. Where not observed the stored value is irrelevant.
        observed: (B, L) bool, True = use the value. Default: all, if `values` is given.
        log_potentials: (B, L, V) floats below +inf, used where not observed; with `categories`
            (B, L, k).
        latent_log_potentials: Node name -> (B, K) floats below +inf, by which the node's K units
            are multiplied in log space.
        categories: (B, L, k) integers, the categories that the last axis of `log_potentials`
            speaks of; all others have potential zero. A category listed twice counts twice.

    Raises:
        EvidenceError: If shapes or dtypes do not fit together or a potential is NaN or +inf.

    Examples:
        Of three variables the first is known, the second is doubted, the third is open:

        >>> model = pc.CircuitModel(pc.families.factorized(3, num_categories=2))
        >>> model.set_probabilities({f"input_{i}": torch.tensor([[0.5, 0.5]]) for i in range(3)})
        >>> doubt = torch.zeros(1, 3, 2)
        >>> doubt[0, 1] = torch.tensor([1.0, 3.0]).log()  # category 1 is three times as likely
        >>> known = torch.tensor([[True, False, False]])
        >>> evidence = pc.Evidence(torch.tensor([[1, 0, 0]]), known, log_potentials=doubt)
        >>> model.marginals(evidence).detach()[0]
        tensor([[0.0000, 1.0000],
                [0.2500, 0.7500],
                [0.5000, 0.5000]])
    """

    values: Tensor | None = None
    observed: Tensor | None = None
    log_potentials: Tensor | None = None
    latent_log_potentials: Mapping[str, Tensor] | None = None
    categories: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values is not None:
            _check_tensor("values", self.values, 2, "integer")
        if self.observed is not None:
            _check_tensor("observed", self.observed, 2, "bool")
            if self.values is None:
                raise EvidenceError("observed is given without values; expected both")
        if self.log_potentials is not None:
            _check_tensor("log_potentials", self.log_potentials, 3, "float")
            _check_below_infinity("log_potentials", self.log_potentials)
        if self.categories is not None:
            _check_tensor("categories", self.categories, 3, "integer")
            if self.log_potentials is None:
                raise EvidenceError("categories are given without log_potentials; expected both")
            _check_same("categories", self.categories.shape, self.log_potentials.shape)
        for name, potentials in (self.latent_log_potentials or {}).items():
            what = f"latent_log_potentials[{name!r}]"
            _check_tensor(what, potentials, 2, "float")
            _check_below_infinity(what, potentials)
        self._check_shapes()

    @cached_property
    def batch_size(self) -> int:
        """Number of examples B; 1 for evidence about nothing."""
        return next((t.shape[0] for t in self._tensors()), 1)

    def mask(self) -> Tensor | None:
        """(B, L) bool, True = observed; None if nothing is observed."""
        if self.values is None:
            return None
        if self.observed is None:
            return torch.ones_like(self.values, dtype=torch.bool)
        return self.observed

    def rebound(self, log_potentials: Tensor) -> Evidence:
        """The same with the same potentials as another tensor, which is not checked again."""
        found = copy(self)
        object.__setattr__(found, "log_potentials", log_potentials)
        return found

    def _tensors(self) -> list[Tensor]:
        given = [self.values, self.observed, self.log_potentials, self.categories]
        latent = list((self.latent_log_potentials or {}).values())
        return [tensor for tensor in given if tensor is not None] + latent

    def _check_shapes(self) -> None:
        if self.values is not None and self.observed is not None:
            _check_same("observed", self.observed.shape, self.values.shape)
        if self.values is not None and self.log_potentials is not None:
            _check_same("log_potentials", self.log_potentials.shape[:2], self.values.shape)
        batches = {tensor.shape[0] for tensor in self._tensors()}
        if 0 in batches:
            raise EvidenceError("evidence is about no example; expected a batch of at least one")
        if len(batches) > 1:
            raise EvidenceError(f"evidence mixes batch sizes {sorted(batches)}; expected one")


def check_evidence(plan: Plan, evidence: Evidence) -> None:
    """Checks that evidence fits a plan.

    Raises:
        EvidenceError: If lengths, numbers of categories, values or node names do not fit.
    """
    length, num_categories = plan.num_variables, plan.num_categories
    for what in ("values", "observed", "log_potentials"):
        tensor = getattr(evidence, what)
        if tensor is not None and tensor.shape[1] != length:
            raise EvidenceError(f"{what} has {tensor.shape[1]} variables; the circuit has {length}")
    if evidence.values is not None:
        _check_values(plan, evidence.values, evidence.observed)
    potentials, categories = evidence.log_potentials, evidence.categories
    if potentials is not None and categories is None and potentials.shape[2] != num_categories:
        raise EvidenceError(
            f"log_potentials has {potentials.shape[2]} categories; the circuit has {num_categories}"
        )
    if categories is not None:
        _check_range("categories", categories, num_categories)
    for name, latent in (evidence.latent_log_potentials or {}).items():
        _check_latent(plan, name, latent)


def _check_values(plan: Plan, values: Tensor, observed: Tensor | None) -> None:
    categories = plan.circuit.categories
    # Where every stored value is a category of every variable it does not matter which are used.
    if _largest_unsigned(values) < min(categories):
        return
    bounds = torch.tensor(categories, device=values.device)
    wrong = (values < 0) | (values >= bounds)
    if observed is not None:
        wrong = wrong & observed
    if wrong.any():
        row, variable = wrong.nonzero()[0].tolist()
        raise EvidenceError(
            f"values[{row}, {variable}] is {int(values[row, variable])}; variable {variable} has "
            f"categories 0 .. {int(bounds[variable]) - 1}"
        )


def _largest_unsigned(values: Tensor) -> int:
    """Largest value, where negative ones count as very large."""
    # Even an operation that does nothing takes its time.
    low, high = (values if values.dtype == torch.int64 else values.long()).aminmax()
    return int(high.item()) if low.item() >= 0 else torch.iinfo(torch.int64).max


def _check_range(what: str, categories: Tensor, num_categories: int) -> None:
    if categories.numel() and (categories.min() < 0 or categories.max() >= num_categories):
        low, high = int(categories.min()), int(categories.max())
        raise EvidenceError(
            f"{what} holds {low} .. {high}; the circuit has categories 0 .. {num_categories - 1}"
        )


def _check_latent(plan: Plan, name: str, latent: Tensor) -> None:
    if name not in plan.places:
        known = ", ".join(list(plan.places)[:8])
        raise EvidenceError(
            f"latent_log_potentials names {name!r}; the circuit's nodes are {known}, ..."
        )
    layer, _ = plan.places[name]
    expected = plan.layers[layer].num_units
    if latent.shape[1] != expected:
        raise EvidenceError(
            f"latent_log_potentials[{name!r}] has {latent.shape[1]} units; "
            f"node {name!r} has {expected}"
        )


def _check_tensor(what: str, tensor: object, num_axes: int, kind: str) -> None:
    if not isinstance(tensor, Tensor):
        raise EvidenceError(f"{what} must be a tensor; found {type(tensor).__name__}")
    found = (
        "bool"
        if tensor.dtype == torch.bool
        else "float"
        if tensor.is_floating_point()
        else "integer"
    )
    if found != kind or tensor.ndim != num_axes:
        raise EvidenceError(
            f"{what} must be of type {kind} with {num_axes} axes; "
            f"found {tensor.dtype} with shape {tuple(tensor.shape)}"
        )


def _check_below_infinity(what: str, potentials: Tensor) -> None:
    # One pass in the common case: the largest is NaN if one is, and NaN is not below anything.
    if potentials.numel() and not bool(potentials.detach().amax() < float("inf")):
        wrong = ~(potentials.detach() < float("inf"))
        where = wrong.nonzero()[0].tolist()
        raise EvidenceError(
            f"{what}{where} is {float(potentials.detach()[tuple(where)])}; "
            f"expected log-potentials below +inf"
        )


def _check_same(what: str, found: torch.Size, expected: torch.Size) -> None:
    if tuple(found) != tuple(expected):
        raise EvidenceError(f"{what} has shape {tuple(found)}; expected {tuple(expected)}")
