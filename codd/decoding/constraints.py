"""Constraints: a circuit that is 1 on allowed sequences, multiplied into the coupled distribution.

An automaton or a regular expression over tokens is a circuit without parameters
(`pcircuits.families.automaton`, `regular_expression`), compatible with hidden Markov models. The
product with the model's circuit is a circuit again, so marginals, samples and any-order
conditionals of p(x | x is allowed) are exact, whatever positions a step commits, and no step can
lead to where nothing is allowed (Zhang et al. 2024, arXiv 2406.13892, for autoregressive models).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import (
    CoupledDistribution,
    FactorisedDistribution,
    TokenDistribution,
)
from codd.decoding.base import Decodable, SpanDecodable
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.key_values import KeyValueCache, Span
from codd.errors import DecodingError


class ConstrainedModel:
    """A `Decodable` whose distributions allow only some sequences of new tokens.

    The denoiser's output alone ("factorised") is constrained as well: by the constraint's circuit
    with the denoiser's probabilities as potentials.

    Args:
        model: A model; to be coupled it needs a `circuit`, and parameters that all windows share.
        constraint: A circuit without parameters over N new tokens, the last of the sequence, that
            is 1 where they are allowed and 0 elsewhere.

    Raises:
        DecodingError: If the constraint has parameters, more tokens than the window, or other
            categories than the model.
    """

    def __init__(self, model: Decodable, constraint: pc.Circuit) -> None:
        if constraint.parameter_shapes:
            raise DecodingError(
                f"constraint: expected a circuit without parameters, found "
                f"{len(constraint.parameter_shapes)}"
            )
        if constraint.num_categories != model.num_categories:
            raise DecodingError(
                f"constraint: expected the model's {model.num_categories} categories, found "
                f"{constraint.num_categories}"
            )
        if constraint.num_variables > model.window:
            raise DecodingError(
                f"constraint: expected at most the window's {model.window} tokens, found "
                f"{constraint.num_variables}"
            )
        self.model = model
        self.constraint = at_the_end(constraint, model.window)

    @property
    def mask_id(self) -> int:
        """See `Decodable`."""
        return self.model.mask_id

    @property
    def num_categories(self) -> int:
        """See `Decodable`."""
        return self.model.num_categories

    @property
    def max_length(self) -> int:
        """See `Decodable`."""
        return self.model.max_length

    @property
    def window(self) -> int:
        """See `Decodable`."""
        return self.model.window

    @property
    def block(self) -> int:
        """See `Decodable`."""
        return self.model.block

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """See `Decodable`."""
        return self.model.denoise(tokens, attention_mask)

    @property
    def has_caches(self) -> bool:
        """See `SpanDecodable`."""
        return isinstance(self.model, SpanDecodable) and self.model.has_caches

    @property
    def attention_block(self) -> int | None:
        """See `SpanDecodable`."""
        return self.model.attention_block if isinstance(self.model, SpanDecodable) else None

    def denoise_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KeyValueCache,
        span: Span | None = None,
    ) -> DenoiserOutput:
        """See `SpanDecodable`."""
        assert isinstance(self.model, SpanDecodable)  # as whoever asked for a cache has checked
        return self.model.denoise_span(tokens, attention_mask, cache=cache, span=span)

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        """The model's distribution given that the constraint holds; see `Decodable`.

        Raises:
            DecodingError: If a window is not the sequence's last, or the model's circuit cannot be
                multiplied.
        """
        if bool((start != tokens.shape[1] - self.window).any()):
            raise DecodingError("constraint: expected windows at the sequence's end")
        free = self.model.distribution(output, tokens, start, coupling=coupling, valid=valid)
        if isinstance(free, FactorisedDistribution):
            plan, parameters = self._alone
            log_probs = free.log_probs.to(parameters.dtype)
            return CoupledDistribution(
                plan, parameters, log_probs, free.values, free.observed, valid=free.valid
            )
        if not isinstance(free, CoupledDistribution):
            raise DecodingError(
                f"constraint: expected a circuit's distribution, found {type(free).__name__}"
            )
        if free.latent is not None or free.parameters.batch_size is not None:
            raise DecodingError(
                "constraint: expected circuit parameters that all windows share, found a modulator "
                "or the coupling 'local', which change them; 'factorised', 'static-copula' and "
                "'static-product' can be constrained"
            )
        plan, parameters = self._product
        return replace(free, plan=plan, parameters=parameters)

    @cached_property
    def _alone(self) -> tuple[pc.Plan, pc.PreparedParameters]:
        plan = pc.compile_circuit(self.constraint)
        return plan, pc.prepare(plan, {})

    @cached_property
    def _product(self) -> tuple[pc.Plan, pc.PreparedParameters]:
        circuit = getattr(self.model, "circuit", None)
        if not isinstance(circuit, pc.CircuitModel):
            raise DecodingError(
                f"constraint: expected a model with a circuit, found {type(self.model).__name__}"
            )
        try:
            with torch.no_grad():
                both = pc.operators.multiply(
                    circuit.weighted(), pc.WeightedCircuit(self.constraint, {})
                )
        except pc.errors.CircuitError as error:
            raise DecodingError(f"constraint: cannot be multiplied in: {error}") from error
        plan = pc.compile_circuit(both.circuit)
        return plan, pc.prepare(plan, both.log_weights)


def at_the_end(constraint: pc.Circuit, length: int) -> pc.Circuit:
    """The constraint on the last tokens of `length`; those before may be anything.

    Args:
        constraint: Over N variables.
        length: Tokens in all, at least N.
    """
    shift, size = length - constraint.num_variables, constraint.num_categories
    moved: dict[object, Any] = {}
    for node in constraint.nodes:
        if isinstance(node, pc.Input):
            moved[node] = replace(node, variable=node.variable + shift)
            continue
        children = [moved[child] for child in node.children]
        if isinstance(node, pc.Sum):
            moved[node] = pc.Sum(*children, num_units=node.num_units, weighted=False)
        else:
            moved[node] = type(node)(*children)
    root = moved[constraint.root]
    for variable in reversed(range(shift)):
        free = pc.Input(variable, num_units=1, num_categories=size, supports=(tuple(range(size)),))
        root = pc.Product(free, root)
    return pc.Circuit(root)
