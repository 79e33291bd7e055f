"""Hypothesis strategies for evidence of every kind, and whole cases to evaluate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from tests.support.circuits import SEEDS, circuits, parameters_of
from tests.support.enumeration import enumerate_worlds

Draw = Callable[[st.SearchStrategy], object]


@dataclass(frozen=True)
class Case:
    """A circuit, its parameters and evidence about it."""

    circuit: pc.Circuit
    parameters: dict[str, Tensor]
    evidence: pc.Evidence

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # What hypothesis prints of a failure: all nodes of a circuit would be pages.
        printer.text(f"Case({self.circuit!r}, {sorted(self.parameters)}, {self.evidence!r})")

    def rows(self, index: list[int]) -> Case:
        """The same case with some of its examples only."""
        shapes = self.circuit.parameter_shapes
        parameters = {
            name: tensor[index] if tensor.ndim > len(shapes[name]) else tensor
            for name, tensor in self.parameters.items()
        }
        nothing = self.evidence.batch_size == 1
        kept = map_evidence(self.evidence, lambda t: t if nothing else t[index])
        return Case(self.circuit, parameters, kept)


def possible_part(case: Case) -> Case | None:
    """The examples of a case whose evidence has positive weight; None if there is none."""
    totals = enumerate_worlds(case.circuit, case.parameters, case.evidence).totals()
    possible = [row for row, total in enumerate(totals) if total > 0]
    return case.rows(possible) if possible else None


def map_evidence(evidence: pc.Evidence, change: Callable[[Tensor], Tensor]) -> pc.Evidence:
    """Evidence whose every tensor is changed in the same way."""
    latent = evidence.latent_log_potentials
    given = (evidence.values, evidence.observed, evidence.log_potentials, evidence.categories)
    values, observed, potentials, categories = (t if t is None else change(t) for t in given)
    return pc.Evidence(
        values,
        observed,
        potentials,
        latent and {name: change(tensor) for name, tensor in latent.items()},
        categories,
    )


@st.composite
def evidence_of(
    draw: Draw, circuit: pc.Circuit, *, batch_size: int, zeros: bool | None = None
) -> pc.Evidence:
    """Evidence whose kinds are drawn, and mixed by example and position.

    Args:
        draw: Given by hypothesis.
        circuit: The circuit that the evidence is about.
        batch_size: Number of examples B; 1 if no evidence is drawn at all.
        zeros: Whether some potentials are `-inf`; None draws it.
    """
    generator = torch.Generator().manual_seed(draw(SEEDS))
    with_zeros = draw(st.booleans()) if zeros is None else zeros
    shape = (batch_size, circuit.num_variables)
    values, observed = _values(draw, circuit, shape, generator)
    potentials, categories = None, None
    kind = draw(st.sampled_from(["full", "top-k", "none"]))
    if kind == "full":
        full = (*shape, circuit.num_categories)
        potentials = random_potentials(full, generator, zeros=with_zeros)
    elif kind == "top-k":
        k = draw(st.integers(1, circuit.num_categories))
        categories = _distinct(draw, (*shape, circuit.num_categories), generator)[..., :k]
        potentials = random_potentials(categories.shape, generator, zeros=with_zeros)
    latent = {}
    if draw(st.booleans()):
        for node, name in circuit.node_names.items():
            if draw(st.booleans()):
                latent[name] = random_potentials(
                    (batch_size, node.num_units), generator, zeros=with_zeros
                )
    return pc.Evidence(values, observed, potentials, latent or None, categories)


@st.composite
def cases(
    draw: Draw, *, zeros: bool | None = None, max_batch: int = 3, normalized: bool | None = None
) -> Case:
    """Random cases.

    Args:
        draw: Given by hypothesis.
        zeros: Whether weights and potentials may be exactly zero; None draws it.
        max_batch: Largest batch size B.
        normalized: Whether weights are normalised; None draws it.
    """
    circuit = draw(circuits())
    batch = draw(st.integers(1, max_batch))
    parameters = draw(parameters_of(circuit, batch_size=batch, zeros=zeros, normalized=normalized))
    return Case(circuit, parameters, draw(evidence_of(circuit, batch_size=batch, zeros=zeros)))


def random_potentials(shape: tuple[int, ...], generator: torch.Generator, *, zeros: bool) -> Tensor:
    """Log-potentials of the given shape, float64; one in six is `-inf` if `zeros`."""
    potentials = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if zeros:
        empty = torch.rand(shape, generator=generator) < 1 / 6
        potentials = potentials.masked_fill(empty, -math.inf)
    return potentials


def random_values(circuit: pc.Circuit, batch_size: int, generator: torch.Generator) -> Tensor:
    """(B, L) integers within each variable's categories."""
    sizes = torch.tensor(circuit.categories)
    uniform = torch.rand((batch_size, len(sizes)), generator=generator, dtype=torch.float64)
    return (uniform * sizes).long()


def _values(
    draw: Draw, circuit: pc.Circuit, shape: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    kind = draw(st.sampled_from(["some", "all", "none"]))
    if kind == "none":
        return None, None
    values = random_values(circuit, shape[0], generator)
    if kind == "all":
        return values, None
    observed = torch.rand(shape, generator=generator) < 0.4
    # What is stored where nothing is observed must not matter, even if it is no category.
    return torch.where(observed, values, draw(st.sampled_from([0, -1, 10**6]))), observed


def _distinct(draw: Draw, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Categories in random order along the last axis, sometimes with repetition."""
    if draw(st.booleans()):
        return torch.rand(shape, generator=generator).argsort(dim=-1)
    return torch.randint(shape[-1], shape, generator=generator)
