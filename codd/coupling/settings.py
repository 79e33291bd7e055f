"""The couplings by name, and what can be set of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from codd.errors import CouplingError

FACTORISED = "factorised"
COUPLINGS = (FACTORISED, "product", "local", "copula")

# "conditioned" and "static" say whether the modulator counts; alone they keep the model's kind.
COUPLING_NAMES = (
    *COUPLINGS,
    *(
        name
        for prefix in ("conditioned", "static")
        for name in (prefix, *(f"{prefix}-{kind}" for kind in COUPLINGS[1:]))
    ),
)


@dataclass(frozen=True)
class CouplingSettings:
    """How a denoiser's output and a circuit become one distribution.

    Attributes:
        kind: "copula" keeps the denoiser's single-token marginals and takes only dependencies
            from the circuit; "product" multiplies the two and normalises once (arXiv 2603.00045,
            eq. 5); "local" multiplies them and normalises every input unit, so that the circuit's
            latent variables keep their distribution; "factorised" leaves the circuit out.
        step_sizes: Of the copula: how far each proportional-fitting sweep moves the
            log-potentials, 1 = all the way; as many numbers as sweeps. The first should be 1: it
            removes what the circuit says of single tokens. After it all positions move at once, and
            full steps would overshoot where tokens depend strongly on each other.
        tolerance: Of the copula: a window whose marginals are this near to their targets (largest
            total variation of a masked token) is not moved further. Nothing waits for a CUDA
            device to say so: there the rest of the sweeps still runs.
        target_temperature: Divides the denoiser's log-probabilities before they are coupled.
        target_top_p: Of these the smallest set of tokens with at least this probability is kept
            (Holtzman et al. 2020, arXiv 1904.09751).
        target_floor: Share, in [0, 1), of the denoiser's untouched output that is mixed in again,
            so that no token it allows is ruled out.
        top_k: Couples only the likeliest tokens of each position; None couples all.
        conditioned: Whether the model's modulator conditions the circuit on the hidden states;
            False takes the circuit as it was learned, which is the control.

    Examples:
        >>> plain = codd.CouplingSettings()
        >>> plain.kind, plain.step_sizes
        ('copula', (1.0, 0.5, 0.3))
        >>> sharp = codd.CouplingSettings("product", target_temperature=0.5)
        >>> sharp.changes_target
        True
        >>> plain.named("static-copula").conditioned  # without the model's modulator
        False
    """

    kind: str = "copula"
    step_sizes: tuple[float, ...] = (1.0, 0.5, 0.3)
    tolerance: float = 0.0
    target_temperature: float = 1.0
    target_top_p: float = 1.0
    target_floor: float = 0.0
    top_k: int | None = None
    conditioned: bool = True

    def __post_init__(self) -> None:
        if self.kind not in COUPLINGS:
            raise CouplingError(f"coupling must be one of {COUPLINGS}; found {self.kind!r}")
        object.__setattr__(self, "step_sizes", tuple(self.step_sizes))
        if not self.step_sizes or not all(0 < size <= 1 for size in self.step_sizes):
            raise CouplingError(
                f"step_sizes must be one number in (0, 1] for each sweep; found {self.step_sizes}"
            )
        _check("tolerance", self.tolerance, "at least 0", self.tolerance >= 0)
        temperature = self.target_temperature
        usable = temperature > 0 and math.isfinite(temperature)
        _check("target_temperature", temperature, "above 0 and finite", usable)
        _check("target_top_p", self.target_top_p, "in (0, 1]", 0 < self.target_top_p <= 1)
        _check("target_floor", self.target_floor, "in [0, 1)", 0 <= self.target_floor < 1)
        _check("top_k", self.top_k, "at least 1", self.top_k is None or self.top_k >= 1)

    @property
    def changes_target(self) -> bool:
        """Whether what is coupled is another distribution than the denoiser's output."""
        return self.target_temperature != 1 or self.target_top_p < 1

    def named(self, name: str) -> CouplingSettings:
        """These settings with the kind and conditioning that a name of `COUPLING_NAMES` asks for.

        Raises:
            CouplingError: If there is no such name.
        """
        if name not in COUPLING_NAMES:
            raise CouplingError(f"coupling must be one of {COUPLING_NAMES}; found {name!r}")
        prefix, _, rest = name.partition("-")
        if prefix not in ("conditioned", "static"):
            return replace(self, kind=name)
        own = "copula" if self.kind == FACTORISED else self.kind
        return replace(self, kind=rest or own, conditioned=prefix == "conditioned")


def _check(name: str, found: object, expected: str, holds: bool) -> None:
    if not holds:
        raise CouplingError(f"{name} must be {expected}; found {found}")
