"""Constraints: a circuit that is 1 on allowed sequences, multiplied into the coupled distribution.

An automaton or a regular expression over tokens is a circuit without parameters
(`pcircuits.families.automaton`, `regular_expression`), compatible with hidden Markov models. The
product with the model's circuit is a circuit again, so marginals, samples and any-order
conditionals of p(x | x is allowed) are exact, whatever positions a step commits, and no step can
lead to where nothing is allowed (Zhang et al. 2024, arXiv 2406.13892, for autoregressive models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
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
from codd.decoding.automata import START, Unrolled, at_the_end
from codd.decoding.base import Decodable
from codd.decoding.products import OpenProduct, carried
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError


class ConstrainedModel(WrappedModel):
    """A `Decodable` whose distributions allow only some sequences of new tokens.

    The denoiser's output alone ("factorised") is constrained as well: by the constraint's circuit
    with the denoiser's probabilities as potentials. Modulators stay in force: latent potentials
    weight the same states of the product, and parameters of each window are multiplied in.

    Decoded in several blocks the constraint is carried along as an automaton: a block is
    conditioned on the state that the tokens before it lead to and on a state after it from which
    the rest can be completed, so that no block leads to a dead end. Which of the possible rests
    are likely does not count until their block comes.

    Args:
        model: A model; to be coupled it needs a `circuit`.
        constraint: A circuit without parameters over all N new tokens, the last of the sequence,
            that is 1 where they are allowed and 0 elsewhere.
        block_length: Tokens decoded together, a divisor of N; None for all. For several blocks the
            constraint has to be right-linear, as those of `automaton` and `regular_expression`.

    Raises:
        DecodingError: If the constraint has parameters, a block more tokens than the window, the
            new tokens do not stay in view, or the constraint has other categories than the model.

    Examples:
        New tokens that are eight digits:

        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> letters = [model.vocabulary.decode([token]) for token in range(model.num_categories)]
        >>> digits = pc.families.regular_expression("[0-9]*", 8, letters)
        >>> constrained = codd.ConstrainedModel(model, digits)
        >>> prompts = [model.vocabulary.encode("version ")]
        >>> found = codd.generate(constrained, prompts, 8, steps=1, coupling="factorised")
        >>> model.vocabulary.decode(found.completions[0]).isdigit()
        True
    """

    def __init__(
        self, model: Decodable, constraint: pc.Circuit, *, block_length: int | None = None
    ) -> None:
        length = constraint.num_variables
        self.block_length = length if block_length is None else block_length
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
        if self.block_length > model.window:
            raise DecodingError(
                f"constraint: expected at most the window's {model.window} tokens, found "
                f"{self.block_length}"
            )
        if length > model.max_length:
            raise DecodingError(
                f"constraint: expected at most the model's {model.max_length} tokens, so that all "
                f"stay in view; found {length}"
            )
        super().__init__(model)
        self._first = 0
        self._known: dict[str, Any] = {}
        self._unrolled = Unrolled.of(constraint) if self.block_length < length else None
        self._blocks: dict[int, ConstrainedModel] = {}
        self.constraint = self._allowed(constraint)

    def region(self, number: int) -> ConstrainedModel:
        """The model of block `number`, from 0."""
        if number not in self._blocks:
            block = copy(self)
            block._first = number * self.block_length
            block._known = {}
            if self._unrolled is not None:
                block.constraint = block._allowed(self._unrolled.circuit)
            self._blocks[number] = block
        return self._blocks[number]

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
        free = super().distribution(output, tokens, start, coupling=coupling, valid=valid)
        begun = self._begun(tokens)
        if isinstance(free, FactorisedDistribution):
            plan = self._remember("alone", lambda: pc.compile_circuit(self.constraint))
            parameters = pc.prepare(plan, {n: w.to(free.log_probs) for n, w in begun.items()})
            log_probs = free.log_probs.to(parameters.dtype)
            return CoupledDistribution(
                plan, parameters, log_probs, free.values, free.observed, valid=free.valid
            )
        if not isinstance(free, CoupledDistribution):
            raise DecodingError(
                f"constraint: expected a circuit's distribution, found {type(free).__name__}"
            )
        self._check_weights(free, coupling)
        if free.parameters.batch_size is None and not begun:
            plan, parameters = self._remember("shared", self._shared)
        else:
            product = self._remember(
                "open", lambda: OpenProduct.of(free.plan.circuit, self.constraint)
            )
            plan = product.plan
            parameters = pc.prepare(plan, product.parameters(self._weights(free, output), begun))
        latent = None if free.latent is None else carried(free.plan, plan, free.latent)
        return replace(free, plan=plan, parameters=parameters, latent=latent)

    def _allowed(self, constraint: pc.Circuit) -> pc.Circuit:
        """What may stand in the window of this block."""
        if self._unrolled is None:
            return at_the_end(constraint, self.window)
        stop = self._first + self.block_length
        return self._unrolled.block(self._first, stop, self.window)

    def _begun(self, tokens: Tensor) -> dict[str, Tensor]:
        """The weights (B, S) that say in which state the automaton is before this block."""
        if START not in self.constraint.parameter_shapes:
            return {}
        assert self._unrolled is not None
        end = tokens.shape[1] - self.block_length
        state = self._unrolled.walk(tokens[:, end - self._first : end])
        states = torch.arange(len(self._unrolled.states[self._first]), device=tokens.device)
        return {START: (states == state[:, None]).double().log()}

    def _shared(self) -> tuple[pc.Plan, pc.PreparedParameters]:
        """The product with weights that all windows share."""
        try:
            with torch.no_grad():
                both = pc.operators.multiply(
                    self._circuit.weighted(), pc.WeightedCircuit(self.constraint, {})
                )
        except pc.errors.CircuitError as error:
            raise DecodingError(f"constraint: cannot be multiplied in: {error}") from error
        plan = pc.compile_circuit(both.circuit)
        return plan, pc.prepare(plan, both.log_weights)

    def _check_weights(
        self, free: CoupledDistribution, coupling: str | CouplingSettings | None
    ) -> None:
        """Checks that the distribution's weights are the circuit's or its modulator's."""
        settings = getattr(self.model, "settings", None) if coupling is None else coupling
        name = settings if isinstance(settings, str) else getattr(settings, "kind", "")
        modulator = getattr(self.model, "modulator", None)
        known = (self._circuit.plan, getattr(modulator, "plan", self._circuit.plan))
        own = free.parameters.batch_size is not None
        own = own and getattr(modulator, "kind", "") != "parametric"
        if own or "local" in name or all(free.plan is not plan for plan in known):
            raise DecodingError(
                "constraint: expected the weights of the model's circuit or of its modulator, "
                f"found those of coupling {name!r} or of one of several circuits"
            )

    def _weights(self, free: CoupledDistribution, output: DenoiserOutput) -> Mapping[str, Tensor]:
        """Name -> log-weights of the model's circuit, shared or (B, ...)."""
        shared = self._circuit.log_parameters()
        modulator = getattr(self.model, "modulator", None)
        if modulator is None or free.parameters.batch_size is None:
            return shared
        modulation = modulator(output.hidden[:, -self.window :].float(), shared)
        parameters: Mapping[str, Tensor] = modulation.parameters
        return parameters

    @property
    def _circuit(self) -> pc.CircuitModel:
        circuit = getattr(self.model, "circuit", None)
        if not isinstance(circuit, pc.CircuitModel):
            raise DecodingError(
                f"constraint: expected a model with a circuit, found {type(self.model).__name__}"
            )
        return circuit

    def _remember(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._known:
            self._known[name] = make()
        return self._known[name]
