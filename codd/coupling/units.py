"""Latent potentials at the inputs of a circuit: what couplings do unit by unit.

An input unit n over variable i has the value Z(n) = sum_v g_n(v) V_i(v). What changes such values
is a potential over the unit, so the circuit's own evaluation does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

import pcircuits as pc
from codd.coupling.targets import Listing
from codd.coupling.window import skipped


class CircuitWindow(Protocol):
    """A window under a circuit and potentials; see `distribution.CoupledDistribution`."""

    @property
    def plan(self) -> pc.Plan:
        """The circuit."""

    @property
    def parameters(self) -> pc.PreparedParameters:
        """Its log-weights."""

    @property
    def log_potentials(self) -> Tensor:
        """(B, W, V) or (B, W, J)."""

    @property
    def observed(self) -> Tensor:
        """(B, W) bool."""

    @property
    def valid(self) -> Tensor | None:
        """(B, W) bool."""

    @property
    def latent(self) -> dict[str, Tensor] | None:
        """Node name -> (B, K)."""

    @property
    def listing(self) -> Listing | None:
        """The tokens that the potentials speak of."""

    def evidence_with(
        self, log_potentials: Tensor | None, latent: dict[str, Tensor] | None = None
    ) -> pc.Evidence:
        """The evidence with other potentials."""


def input_variables(plan: pc.Plan) -> dict[str, int]:
    """Name of every input node -> its variable."""
    return {
        name: node.variable
        for node, name in plan.circuit.node_names.items()
        if isinstance(node, pc.Input)
    }


def unit_values(window: CircuitWindow, log_potentials: Tensor | None) -> dict[str, Tensor]:
    """Input node -> (B, K) log-values of its units under potentials, or summed out."""
    evidence = window.evidence_with(log_potentials)
    return pc.queries.log_input_values(window.plan, window.parameters, evidence)


def where_masked(window: CircuitWindow, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The potentials (B, K) of inputs at masked positions; zero at visible ones and padding."""
    fixed = skipped(window.observed, window.valid)
    variables = input_variables(window.plan)
    return {
        name: own.masked_fill(fixed[:, variables[name], None], 0.0) for name, own in units.items()
    }


def joined(
    first: Mapping[str, Tensor] | None, second: Mapping[str, Tensor] | None
) -> dict[str, Tensor] | None:
    """Both sets of latent potentials, added where they speak of the same node."""
    found = dict(first or {})
    for name, own in (second or {}).items():
        found[name] = found[name] + own if name in found else own
    return found or None


def local_latent(window: CircuitWindow) -> dict[str, Tensor] | None:
    """Potentials that normalise every input unit: -log Z_i(z_i) where the token is masked.

    A unit that allows no token of the denoiser's has the value zero and stays as it is.
    """
    units = {
        name: -own.masked_fill(own.isneginf(), 0.0)
        for name, own in unit_values(window, window.log_potentials).items()
    }
    return joined(window.latent, where_masked(window, units))
