"""Several circuits with their modulators, of which one is chosen for each window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from codd.errors import ConfigError

RULES = ("mask_ratio", "domain")


@dataclass(frozen=True)
class CircuitChoice:
    """The rule by which one of C circuits serves a window.

    Dependencies differ between a window that is all masked and one with a single hole, and between
    code and prose: a circuit for each is as fast as one for all.

    Attributes:
        by: "mask_ratio": by the share of the window's tokens that are masked, padding left out;
            "domain": by what the caller says the window is.
        edges: Of "mask_ratio": C - 1 rising numbers in (0, 1); the first circuit serves ratios
            below the first edge, the last those from the last edge on.
        domains: Of "domain": C names.

    Raises:
        ConfigError: If the rule is unknown or does not say what it needs.

    Examples:
        One circuit for windows that are at most half masked, another for the rest:

        >>> choice = codd.CircuitChoice("mask_ratio", edges=(0.5,))
        >>> choice.num_circuits
        2
        >>> visible = torch.tensor([[True, True, True, False], [False, False, False, False]])
        >>> choice.index(visible, None, None)
        tensor([0, 1])
    """

    by: str
    edges: tuple[float, ...] = ()
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "domains", tuple(self.domains))
        if self.by not in RULES:
            raise ConfigError(f"choice: expected one of {RULES}, found {self.by!r}")
        by_ratio = self.by == "mask_ratio"
        if bool(self.edges) != by_ratio or bool(self.domains) == by_ratio:
            wanted = "edges" if by_ratio else "domains"
            raise ConfigError(f"choice by {self.by}: expected {wanted} and nothing else")
        rising = sorted(set(self.edges)) == list(self.edges)
        if not rising or not all(0 < edge < 1 for edge in self.edges):
            raise ConfigError(f"edges: expected rising numbers in (0, 1), found {self.edges}")
        if len(set(self.domains)) < len(self.domains):
            raise ConfigError(f"domains: expected different names, found {self.domains}")

    @property
    def num_circuits(self) -> int:
        """C."""
        return len(self.edges) + 1 if self.by == "mask_ratio" else len(self.domains)

    def index(
        self, observed: Tensor, valid: Tensor | None, domain: str | Sequence[str] | None
    ) -> Tensor:
        """Which circuit serves each window.

        Args:
            observed: (B, W) bool, True = visible.
            valid: (B, W) bool, False at padding.
            domain: Name of the domain of all windows, or of each.

        Returns:
            (B,) int64 in 0 .. C - 1.

        Raises:
            ConfigError: If the domain is needed and not given, or unknown, or given and not used.
        """
        if self.by == "domain":
            return self._of_domain(domain, len(observed)).to(observed.device)
        if domain is not None:
            raise ConfigError(f"domain: expected none, the choice is by mask ratio; found {domain}")
        there = torch.ones_like(observed) if valid is None else valid
        ratio = (~observed & there).sum(1) / there.sum(1).clamp(min=1)
        edges = torch.tensor(self.edges, device=ratio.device)
        return torch.bucketize(ratio, edges, right=True)

    def _of_domain(self, domain: str | Sequence[str] | None, count: int) -> Tensor:
        names = [domain] * count if domain is None or isinstance(domain, str) else list(domain)
        unknown = [name for name in names if name not in self.domains]
        if unknown or len(names) != count:
            raise ConfigError(
                f"domain: expected one of {self.domains} for each of {count} windows, found "
                f"{domain}"
            )
        return torch.tensor([self.domains.index(str(name)) for name in names])

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> CircuitChoice | None:
        """What `to_json` gave, read back; None of None."""
        return None if value is None else cls(**value)
