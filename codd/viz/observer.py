"""Recording a generation: what every step was drawn from.

Decoding is given a model that remembers every distribution it hands out, so what is recorded is
what the tokens were drawn from, in every mode and under every option.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.decoding.arguments import is_given
from codd.decoding.base import Decodable
from codd.decoding.checks import check_constraint
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.loop import generate
from codd.decoding.options import usual_block
from codd.decoding.records import StepRecord
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError
from codd.model import CoupledModel
from codd.viz.recording import Moment, Recording

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all, at most so many with an adaptive quota."""


@torch.no_grad()
def record(
    model: CoupledModel,
    prompt: str,
    *,
    new_tokens: int | None = None,
    coupling: str | CouplingSettings | None = None,
    mode: str = "block",
    block_length: int | None = None,
    constraint: pc.Circuit | None = None,
    label: str | None = None,
    num_candidates: int = 8,
    dependencies: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Recording:
    """Continues a text as `CoupledModel.generate` does and records every step.

    Args:
        model: The model.
        prompt: A text of at least one token.
        new_tokens: Tokens to add; default one block.
        coupling: As in `generate`.
        mode: As in `generate`.
        block_length: As in `generate`.
        constraint: As in `generate`.
        label: What the recording is called; default the coupling's name.
        num_candidates: Likeliest tokens kept at each position.
        dependencies: Whether the mutual information of all pairs is computed: one evaluation of
            the circuit a masked position and category, most of the time that recording takes.
        progress: Called after each step.
        **options: Of `codd.decoding.loop.generate`, without `callback`.

    Returns:
        The recording; the text is the one that `generate` writes with these options.

    Raises:
        DecodingError: If an option is impossible.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> found = codd.viz.record(model, "Return ", new_tokens=8, steps=2, dependencies=False)
        >>> len(found.moments), found.text == model.generate("Return ", new_tokens=8, steps=2)[0]
        (2, True)
    """
    if num_candidates < 1:
        raise DecodingError(f"num_candidates: expected at least 1, found {num_candidates}")
    if is_given("block_length", options):
        raise DecodingError("block_length: expected this name where steps are recorded")
    if not any(is_given(name, options) for name in ("steps", "tokens_per_step", "quota")):
        options["steps"] = 8
    length = model.block if new_tokens is None else new_tokens
    region = length
    if mode == "block":
        constrained = constraint is not None
        region = block_length or usual_block(model, length, constrained=constrained)
    given: Decodable = model
    if constraint is not None:
        check_constraint(constraint, length)
        at_once = mode == "block" and region == length
        given = ConstrainedModel(model, constraint, at_once=at_once)
    observer = _Observer(given, length, region, num_candidates, dependencies, progress)
    ids = model.vocabulary.encode(prompt)
    found = generate(
        observer,
        [ids.to(model.device)],
        length,
        coupling=coupling,
        mode=mode,
        block_length=region if mode == "block" else None,
        callback=observer.after_step,
        **options,
    )
    settings = model.settings if coupling is None else coupling
    name = label or (settings if isinstance(settings, str) else settings.kind)
    tokens = found.completions[0].cpu()
    return Recording(name, ids, tokens, tuple(observer.moments), model.vocabulary)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A distribution that decoding asked for, and where its window lies."""

    joint: TokenDistribution
    logits: Tensor  # (W, V)
    first: int  # of the window, among the new tokens; negative in the prompt
    valid: Tensor | None  # (W,)


class _Observer(WrappedModel):
    """A `Decodable` of one row that remembers what each step was drawn from."""

    def __init__(
        self,
        model: Decodable,
        new_tokens: int,
        region: int,
        num_candidates: int,
        dependencies: bool,
        progress: Progress | None,
    ) -> None:
        super().__init__(model)
        self.moments: list[Moment] = []
        self._asked: list[_Asked] = []
        self._state = torch.full((new_tokens,), model.mask_id)
        self._region = region
        self._num_candidates = min(num_candidates, model.num_categories)
        self._dependencies = dependencies
        self._progress = progress

    def region(self, first: int, stop: int) -> _Observer:
        if isinstance(self.model, WrappedModel):
            self.model = self.model.region(first, stop)
        return self

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        joint = super().distribution(output, tokens, start, coupling=coupling, valid=valid)
        at = int(start[0])
        window = slice(at, at + self.window)
        # What is in view ends where the first region with a masked token ends.
        masked = (self._state == self.mask_id).nonzero()
        end = (int(masked[0]) // self._region + 1) * self._region
        own = None if valid is None else valid[0, window]
        first = end - tokens.shape[1] + at
        self._asked.append(_Asked(joint, output.logits[0, window], first, own))
        return joint

    def after_step(self, record: StepRecord) -> None:
        """Turns what the step asked for into a `Moment`."""
        state = record.tokens[0].cpu()
        self.moments.append(self._moment(state, record.fixed[0].cpu()))
        self._state = state
        self._asked.clear()
        if self._progress is not None:
            self._progress(record.step + 1, record.num_steps)

    def _moment(self, state: Tensor, fixed: Tensor) -> Moment:
        """What the step said that led to a state (N,) by fixing some tokens (N,)."""
        parts = self._parts()
        positions = torch.cat([part.positions for part in parts])
        marginals = torch.cat([part.marginals for part in parts])
        alone = torch.cat([part.alone for part in parts])
        inside = fixed[positions]
        taken = marginals[inside].gather(1, state[positions[inside]][:, None])
        top = marginals.topk(self._num_candidates, dim=1)
        return Moment(
            tokens=self._state,
            fixed=fixed,
            confidence=_laid_out(state, positions[inside], taken[:, 0]),
            positions=positions,
            candidates=top.indices,
            probabilities=top.values,
            alone=alone.gather(1, top.indices),
            entropy=torch.special.entr(marginals).sum(1),
            information=self._information(parts),
        )

    def _parts(self) -> list[_Part]:
        """What the windows say of masked new tokens, each said once."""
        told = self._state != self.mask_id
        parts = []
        for asked in self._asked:
            hidden = ~asked.joint.observed[0].cpu()
            if asked.valid is not None:
                hidden &= asked.valid.cpu()
            place = torch.arange(len(hidden)) + asked.first
            hidden &= (place >= 0) & (place < len(told))
            hidden &= ~told[place.clamp(0, len(told) - 1)]
            within = hidden.nonzero()[:, 0]
            told[place[within]] = True
            parts.append(_Part.of(asked, place[within], within))
        return parts

    def _information(self, parts: list[_Part]) -> Tensor | None:
        if not self._dependencies:
            return None
        found = [
            part.joint.mutual_information()[0].double().cpu()[part.within][:, part.within]
            for part in parts
        ]
        whole: Tensor = torch.block_diag(*found)
        return whole


@dataclass(frozen=True, eq=False)
class _Part:
    """What one window says of some new tokens."""

    joint: TokenDistribution
    positions: Tensor  # (m,) among the new tokens
    within: Tensor  # (m,) inside the window
    marginals: Tensor  # (m, V) float64
    alone: Tensor  # (m, V)

    @classmethod
    def of(cls, asked: _Asked, positions: Tensor, within: Tensor) -> _Part:
        marginals = asked.joint.marginals()[0].double().cpu()[within]
        alone = asked.logits.double().softmax(-1).cpu()[within]
        return cls(asked.joint, positions, within, marginals, alone)


def _laid_out(like: Tensor, positions: Tensor, numbers: Tensor) -> Tensor:
    """(N,) numbers at some positions, NaN elsewhere."""
    whole = torch.full(like.shape, torch.nan, dtype=torch.float64)
    return whole.index_copy(0, positions, numbers)
