"""A constraint on one window, multiplied into what a model says of the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.distribution import (
    CoupledDistribution,
    FactorisedDistribution,
    TokenDistribution,
)
from codd.coupling.rowwise import RowwiseDistribution
from codd.decoding.products import OpenProduct
from codd.decoding.slices import Slice
from codd.errors import DecodingError


class Restriction:
    """What a constraint allows in a window; keeps its products with the circuits that it met.

    Args:
        constraint: The constraint on the window.
    """

    def __init__(self, constraint: Slice) -> None:
        self._constraint = constraint
        self._products: WeakKeyDictionary[pc.Plan, OpenProduct] = WeakKeyDictionary()
        self._shared: WeakKeyDictionary[pc.PreparedParameters, pc.PreparedParameters]
        self._shared = WeakKeyDictionary()

    def of(self, free: TokenDistribution, before: Tensor, after: Tensor) -> TokenDistribution:
        """A distribution given that the constraint holds.

        Args:
            free: What a model says of windows.
            before: (B, S) log-weights of the states before the slice.
            after: (B, S') log-weights of those after it.

        Raises:
            DecodingError: If it is not made of a circuit, or of one that cannot be multiplied.
        """
        if isinstance(free, RowwiseDistribution):
            parts = zip(free.rows, free.parts, strict=True)
            own = (self.of(part, before[rows], after[rows]) for rows, part in parts)
            return RowwiseDistribution(free.rows, tuple(own))
        gates = self._constraint.latent(before, after)
        if isinstance(free, FactorisedDistribution):
            return self._alone(free, gates)
        if isinstance(free, CoupledDistribution):
            return self._coupled(free, gates)
        raise DecodingError(
            f"constraint: expected a circuit's distribution, found {type(free).__name__}"
        )

    def _alone(
        self, free: FactorisedDistribution, gates: Mapping[str, Tensor]
    ) -> CoupledDistribution:
        """The constraint itself as the circuit, the denoiser's probabilities as potentials."""
        parameters = pc.prepare(self._plan, {}, free.log_probs.device)
        return CoupledDistribution(
            self._plan,
            parameters,
            free.log_probs.to(parameters.dtype),
            free.values,
            free.observed,
            dict(gates) or None,
            free.valid,
            listing=free.listing,
        )

    def _coupled(
        self, free: CoupledDistribution, gates: Mapping[str, Tensor]
    ) -> CoupledDistribution:
        """The product of both circuits; potentials that a coupling made stay as they are."""
        if free.plan not in self._products:
            self._products[free.plan] = OpenProduct.of(free.plan.circuit, self._constraint.circuit)
        product = self._products[free.plan]
        latent = product.latent(
            free.latent or {}, {n: own.to(free.parameters.dtype) for n, own in gates.items()}
        )
        return replace(
            free,
            plan=product.plan,
            parameters=self._parameters(product, free.parameters),
            latent=latent or None,
        )

    def _parameters(
        self, product: OpenProduct, own: pc.PreparedParameters
    ) -> pc.PreparedParameters:
        """The product's weights; those that all windows share are put into place once."""
        if own in self._shared:
            return self._shared[own]
        found = pc.prepare(product.plan, product.parameters(own.by_name()))
        if own.batch_size is None and not torch.is_grad_enabled():
            self._shared[own] = found
        return found

    @cached_property
    def _plan(self) -> pc.Plan:
        return pc.compile_circuit(self._constraint.circuit)
