"""What a picture is of: a circuit alone, or one with its weights; and the names of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcircuits.compile.plan import Plan
from pcircuits.errors import EvidenceError, StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import Input, Part, Sum

Drawable = Circuit | CircuitModel | WeightedCircuit | Plan
"""What can be drawn; weights are shown where there are some."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A circuit and perhaps its weights.

    Attributes:
        circuit: The circuit.
        log_weights: Name -> log-weights, or None.
    """

    circuit: Circuit
    log_weights: Mapping[str, Tensor] | None

    @classmethod
    def of(cls, drawn: Drawable) -> Subject:
        """Takes apart what a caller gave.

        Raises:
            StructureError: If it is neither a circuit, a plan, a model nor a circuit with weights.
        """
        match drawn:
            case Circuit():
                return cls(drawn, None)
            case Plan():
                return cls(drawn.circuit, None)
            case CircuitModel():
                log = {n: t.detach().cpu().double() for n, t in drawn.log_parameters().items()}
                return cls(drawn.circuit, log)
            case WeightedCircuit():
                log = {n: t.detach().cpu().double() for n, t in drawn.log_weights.items()}
                return cls(drawn.circuit, log)
        raise StructureError(
            f"expected a Circuit, Plan, CircuitModel or WeightedCircuit to draw; "
            f"found {type(drawn).__name__}"
        )

    def input_log_weights(self, node: Input) -> Tensor | None:
        """(K, V) float64 log-weights of an input's categories; None if there are none."""
        if node.supports is not None:
            found = torch.full((node.num_units, node.num_categories), -torch.inf).double()
            for unit, support in enumerate(node.supports):
                found[unit, list(support)] = 0.0
            return found
        if self.log_weights is None:
            return None
        table = self.log_weights[self.circuit.parameter_names[node]]
        if isinstance(node.parameter, Part):
            return table[node.parameter.start : node.parameter.start + node.num_units]
        return table

    def sum_log_weights(self, node: Sum) -> Tensor | None:
        """(K, C) float64 log-weights of a sum's units; None if there are none."""
        shape = (node.num_units, node.num_inputs)
        if not node.has_parameter:
            return torch.zeros(shape, dtype=torch.float64)
        if self.log_weights is None:
            return None
        weights = self.log_weights[self.circuit.parameter_names[node]]
        if isinstance(node.parameter, Part):
            size = node.num_units * node.num_inputs
            weights = weights[node.parameter.start : node.parameter.start + size]
        return weights.reshape(shape)


def checked_names(given: Sequence[str] | None, count: int, what: str, sign: str) -> list[str]:
    """The given names, or numbered ones.

    Args:
        given: Names or None.
        count: How many there must be.
        what: What they name, for the message.
        sign: What a numbered name begins with.

    Raises:
        StructureError: If there are not as many as needed.
    """
    if given is None:
        return [f"{sign}{i}" for i in range(count)]
    if len(given) != count:
        raise StructureError(f"expected {count} {what}; found {len(given)}")
    return [str(name) for name in given]


def chosen_row(tensor: Tensor, row: int) -> Tensor:
    """One example of a batched result (B, ...).

    Raises:
        EvidenceError: If there is no such example.
    """
    if not 0 <= row < len(tensor):
        raise EvidenceError(f"row {row} is not among the {len(tensor)} examples of the evidence")
    return tensor[row].detach().double().cpu()


def one_row(evidence: Evidence, row: int) -> Evidence:
    """The evidence about one example alone: no work is done for the others.

    Raises:
        EvidenceError: If there is no such example.
    """
    if not 0 <= row < evidence.batch_size:
        raise EvidenceError(
            f"row {row} is not among the {evidence.batch_size} examples of the evidence"
        )

    def cut(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[row : row + 1]

    latent = evidence.latent_log_potentials
    return Evidence(
        values=cut(evidence.values),
        observed=cut(evidence.observed),
        log_potentials=cut(evidence.log_potentials),
        latent_log_potentials=latent and {name: t[row : row + 1] for name, t in latent.items()},
        categories=cut(evidence.categories),
    )
