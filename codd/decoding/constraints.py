"""Constraints: a circuit that is 1 on allowed sequences, multiplied into the coupled distribution.

An automaton or a regular expression over tokens is a circuit without parameters
(`pcircuits.families.automaton`, `regular_expression`), compatible with hidden Markov models. The
product with the model's circuit is a circuit again, so marginals, samples and any-order
conditionals of p(x | x is allowed) are exact, whatever positions a step commits, and no step can
lead to where nothing is allowed (Zhang et al. 2024, arXiv 2406.13892, for autoregressive models).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.coupling.rowwise import RowwiseDistribution
from codd.decoding.automata import Unrolled
from codd.decoding.base import Decodable
from codd.decoding.messages import AutomatonMessages
from codd.decoding.restriction import Restriction
from codd.decoding.slices import Place, Slice, at_the_end, cut
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError

# Windows of different slices whose products are kept; each holds a copy of the circuit's weights.
_MOST_KEPT = 16


class ConstrainedModel(WrappedModel):
    """A `Decodable` whose distributions allow only some sequences of new tokens.

    A window's distribution is that of its tokens in the joint of the coupled window, of the masked
    tokens outside it, each with the denoiser's probability and independent of all others, and of
    the tokens that are fixed, given that the constraint holds for all of them. What is outside says
    with which probability the constraint, read as an automaton, is in which state before the window
    and accepts from which state after it; so that is exact, and whatever is drawn can be completed.
    New tokens that are not in view, of later blocks, only have to be possible.

    Every coupling may be constrained, also those of several circuits, and whatever a modulator
    says: parameters of each window are multiplied in, potentials over latent units stay what they
    are. The denoiser's output alone ("factorised") has the constraint itself as its circuit.

    Args:
        model: A model that is not constrained.
        constraint: A circuit without parameters over all N new tokens, the last of the sequence,
            that is 1 where they are allowed and 0 elsewhere. It has to be right-linear, as those
            of `automaton` and `regular_expression` are.
        at_once: All N tokens are in every window, which is the sequence's last: one block. Then
            every constraint that can be multiplied with the model's circuit will do.

    Raises:
        DecodingError: If the model is constrained, or the constraint has parameters, other
            categories than the model, is not right-linear, or new tokens do not stay in view.

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

    def __init__(self, model: Decodable, constraint: pc.Circuit, *, at_once: bool = False) -> None:
        super().__init__(model)
        length = constraint.num_variables
        if isinstance(model, ConstrainedModel):
            raise DecodingError(
                "constraint: expected a model without one, found a ConstrainedModel"
            )
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
        most, what = (
            (model.window, "the window's {} tokens")
            if at_once
            else (model.max_length, "the model's {} tokens, so that all stay in view")
        )
        if length > most:
            raise DecodingError(f"constraint: expected at most {what.format(most)}; found {length}")
        self.constraint = constraint
        self._unrolled = None if at_once else Unrolled.of(constraint)
        self._first, self._stop = 0, length
        self._restrictions: dict[object, Restriction] = {}
        self._messages: dict[torch.device, AutomatonMessages] = {}

    def region(self, first: int, stop: int) -> ConstrainedModel:
        """The model while the first `stop` new tokens are in view, those before `first` fixed."""
        found = copy(self)
        found._first, found._stop = first, stop
        return found

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
            DecodingError: If not all new tokens are in view, nothing is allowed that has a
                probability, a window is not the sequence's last where all are at once, or the
                model's circuit cannot be multiplied.
        """
        if tokens.shape[1] < self._stop:
            raise DecodingError(
                f"constraint: expected {self._stop} new tokens in view, found {tokens.shape[1]}"
            )
        if valid is not None and not bool(valid[:, -self._stop :].all()):
            raise DecodingError("constraint: expected no padding among the new tokens")
        begin = start - (tokens.shape[1] - self._stop)
        before, after = self._states(output, tokens[:, -self._stop :], begin)
        groups = self._groups(begin)
        parts = []
        for rows, restriction in groups:
            own = None if valid is None else valid[rows]
            free = super().distribution(
                output.take(rows), tokens[rows], start[rows], coupling=coupling, valid=own
            )
            parts.append(restriction.of(free, before[rows], after[rows]))
        if len(parts) == 1:
            return parts[0]
        return RowwiseDistribution(tuple(rows for rows, _ in groups), tuple(parts))

    def alone(self, log_probs: Tensor, tokens: Tensor) -> Tensor:
        """The marginals of independent tokens given that the constraint holds for all of them.

        Raises:
            DecodingError: If it cannot hold.
        """
        messages = self._messages_on(tokens.device)
        if messages is None:
            return log_probs
        masked = tokens == self.mask_id
        scores = messages.scores(tokens, log_probs, masked)
        _check_alive(messages.after(scores, torch.zeros_like(tokens[:, 0])).amax(1))
        return torch.where(masked[..., None], messages.posterior(scores, log_probs), log_probs)

    def _states(self, output: DenoiserOutput, new: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) log-weights of the states before slices and after them.

        Args:
            output: What the denoiser said.
            new: (B, n) new tokens in view.
            begin: (B,) first new token of each row's window; negative if it begins before them.
        """
        messages = self._messages_on(new.device)
        if messages is None:
            return new.new_zeros(len(new), 0), new.new_zeros(len(new), 0)
        place = torch.arange(self._stop, device=new.device)
        first, stop = begin[:, None], begin[:, None] + self.window
        masked = (new == self.mask_id) & ((place < first) | (place >= stop))
        scores = messages.scores(new, output.logits[:, -self._stop :], masked)
        before = messages.before(scores, begin.clamp(min=self._first))
        after = messages.after(scores, (begin + self.window).clamp(min=0))
        _check_alive(before.amax(1) + after.amax(1))
        return before, after

    def _messages_on(self, device: torch.device) -> AutomatonMessages | None:
        if self._unrolled is not None and device not in self._messages:
            self._messages[device] = AutomatonMessages.of(self._unrolled, device)
        return self._messages.get(device)

    def _groups(self, begin: Tensor) -> list[tuple[Tensor, Restriction]]:
        """Rows whose windows (B,) are restricted alike, and how."""
        begins, of_row = begin.unique(return_inverse=True)
        each = [self._restriction(own) for own in begins.tolist()]
        distinct = list(dict.fromkeys(each))
        kind = torch.tensor([distinct.index(own) for own in each], device=begin.device)[of_row]
        return [((kind == i).nonzero()[:, 0], own) for i, own in enumerate(distinct)]

    def _restriction(self, begin: int) -> Restriction:
        """What is allowed in a window that begins at a new token, or before them if negative."""
        if self._unrolled is None:
            if begin != self._stop - self.window:
                raise DecodingError("constraint: expected windows at the sequence's end")
            return self._kept("whole", lambda: at_the_end(self.constraint, self.window))
        stop = begin + self.window
        first = min(max(begin, self._first), stop)
        place = Place(first - begin, first, stop)
        # Windows elsewhere with the same moves have the same slice.
        key = place.lead, self._unrolled.kinds[max(first, 0) : max(stop, 0)]
        unrolled = self._unrolled
        return self._kept(key, lambda: cut(unrolled, place))

    def _kept(self, key: object, make: Callable[[], Slice]) -> Restriction:
        if key not in self._restrictions:
            if len(self._restrictions) == _MOST_KEPT:
                self._restrictions.pop(next(iter(self._restrictions)))
            self._restrictions[key] = Restriction(make())
        return self._restrictions[key]


def _check_alive(weights: Tensor) -> None:
    """Checks that nothing is impossible by log-weights (B,).

    Raises:
        DecodingError: If some row is.
    """
    dead = weights.isneginf().nonzero()[:, 0].tolist()
    if dead:
        raise DecodingError(
            f"constraint: nothing that is allowed has the fixed tokens of row {dead[0]} (of "
            f"{len(dead)} such) and elsewhere tokens to which the denoiser gives a probability"
        )
