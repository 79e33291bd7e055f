"""The decoding loop: call the denoiser, choose positions, draw them jointly, until none is masked.

Two modes (Li et al. 2026, arXiv 2603.00045): "block" decodes blocks from left to right, each with
one window that ends where the block ends; "full" chooses positions anywhere among the new tokens
and covers them by as few windows as possible, drawn one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.decoding.base import Capturable, Decodable
from codd.decoding.canvas import Canvas, lay_out
from codd.decoding.clock import Clock
from codd.decoding.options import DecodingOptions, check_prompts, check_sequences
from codd.decoding.samplers import SAMPLERS
from codd.decoding.schedules import Schedule
from codd.decoding.selection import score, select
from codd.decoding.windows import minimum_cover
from codd.denoisers.base import DenoiserOutput


@dataclass(frozen=True, eq=False)
class StepRecord:
    """The state after one step.

    Attributes:
        step: Which step, from 0.
        num_steps: Steps in all.
        tokens: (B, N) new tokens, the mask id where still masked.
        fixed: (B, N) bool, True where this step fixed a token.
    """

    step: int
    num_steps: int
    tokens: Tensor
    fixed: Tensor


@dataclass(frozen=True, eq=False)
class Generation:
    """What `generate` returns.

    Attributes:
        tokens: For each row its whole prompt and N new tokens, (P_b + N,).
        completions: (B, N) the new tokens alone.
        fixed_at: (B, N) int64, the step at which each was fixed, from 0.
        history: The state after each step if it was asked for, else empty.
        denoiser_calls: Number of calls, each for the whole batch.
        denoiser_seconds: Wall time of these calls.
        coupling_seconds: Wall time of building the distributions, choosing and drawing.
    """

    tokens: tuple[Tensor, ...]
    completions: Tensor
    fixed_at: Tensor
    history: tuple[StepRecord, ...]
    denoiser_calls: int
    denoiser_seconds: float
    coupling_seconds: float


Callback = Callable[[StepRecord], None]


def generate(
    model: Decodable,
    prompts: Sequence[Tensor],
    new_tokens: int,
    steps: int | None = None,
    *,
    tokens_per_step: int | None = None,
    mode: str = "block",
    block_length: int | None = None,
    selection: str = "low_confidence",
    sampler: str = "exact",
    temperature: float = 1.0,
    top_p: float | None = None,
    coupling: str | CouplingSettings | None = None,
    mask_ratio_limit: float | None = None,
    seed: int = 0,
    capture: bool = False,
    callback: Callback | None = None,
    record_history: bool = False,
) -> Generation:
    """Continues prompts by masked diffusion.

    Args:
        model: The denoiser and its coupling.
        prompts: (P_b,) int64 ids of each row, of any lengths, on the model's device. Of a prompt
            too long for the model the last tokens are seen.
        new_tokens: N, tokens to generate after each prompt.
        steps: Denoiser calls in all, spread evenly over blocks and their tokens.
        tokens_per_step: Instead of `steps`, the tokens to fix at each call.
        mode: "block" or "full".
        block_length: Tokens of a block in mode "block"; None for the model's own.
        selection: "random", "low_confidence", "margin", "entropy" or "left_to_right": which
            positions come first.
        sampler: "exact", "latent" or "any_order": how tokens of one step are drawn together.
        temperature: Divides log-probabilities; 0 takes the most likely token.
        top_p: Nucleus of each token's conditional; "any_order" only.
        coupling: "factorised", "product", "copula" or settings; None for the model's own.
        mask_ratio_limit: γ: a row is coupled only while the share of masked tokens in its block
            (of the new tokens in mode "full") is below this; None couples always.
        seed: Seed of everything random.
        capture: Records the coupling of a step once for each batch of windows, as a CUDA graph,
            and replays it; for a static chain on a CUDA device, "exact" and "latent".
        callback: Called with the state after each step.
        record_history: Keeps the state after each step.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other.
    """
    if mode == "block" and block_length is None:
        block_length = model.block
    options = DecodingOptions(
        new_tokens=new_tokens,
        steps=steps,
        tokens_per_step=tokens_per_step,
        mode=mode,
        block_length=block_length,
        selection=selection,
        sampler=sampler,
        temperature=temperature,
        top_p=top_p,
        coupling=coupling,
        mask_ratio_limit=mask_ratio_limit,
        seed=seed,
        capture=capture,
    )
    options.check_model(model)
    check_prompts(prompts, model.num_categories)
    canvas = lay_out(
        prompts,
        new_tokens,
        context=model.max_length - options.region_length,
        least=max(0, model.window - options.region_length),
        mask_id=model.mask_id,
    )
    generation = _decode(model, canvas, options, callback, record_history)
    whole = zip(prompts, generation.completions, strict=True)
    return replace(generation, tokens=tuple(torch.cat(pair) for pair in whole))


def infill(
    model: Decodable,
    sequences: Sequence[Tensor],
    steps: int,
    *,
    selection: str = "low_confidence",
    sampler: str = "exact",
    temperature: float = 1.0,
    top_p: float | None = None,
    coupling: str | CouplingSettings | None = None,
    mask_ratio_limit: float | None = None,
    seed: int = 0,
    capture: bool = False,
    callback: Callback | None = None,
    record_history: bool = False,
) -> Generation:
    """Fills the masked tokens of sequences, in mode "full".

    Args:
        model: The denoiser and its coupling.
        sequences: (L_b,) int64 ids of each row, the mask id where a token is wanted, of any
            lengths up to the model's, on the model's device.
        steps: Denoiser calls; each row spreads its masked tokens evenly over them.
        selection: As in `generate`.
        sampler: As in `generate`.
        temperature: As in `generate`.
        top_p: As in `generate`.
        coupling: As in `generate`.
        mask_ratio_limit: γ: a row is coupled only while the share of its tokens that are masked
            is below this; None couples always.
        seed: Seed of everything random.
        capture: As in `generate`.
        callback: Called with the state after each step.
        record_history: Keeps the state after each step.

    Returns:
        The filled sequences. Its `completions` and `fixed_at` are padded on the left to the
        longest sequence, and to W at least; -1 in `fixed_at` where nothing was masked.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other.
    """
    check_sequences(sequences, steps, model)
    canvas = lay_out(
        sequences, 0, context=model.max_length, least=model.window, mask_id=model.mask_id
    )
    options = DecodingOptions(
        new_tokens=canvas.tokens.shape[1],
        steps=steps,
        mode="full",
        selection=selection,
        sampler=sampler,
        temperature=temperature,
        top_p=top_p,
        coupling=coupling,
        mask_ratio_limit=mask_ratio_limit,
        seed=seed,
        capture=capture,
    )
    options.check_capture(model)
    return _decode(model, replace(canvas, prompt_length=0), options, callback, record_history)


@torch.no_grad()
def _decode(
    model: Decodable,
    canvas: Canvas,
    options: DecodingOptions,
    callback: Callback | None,
    record_history: bool,
) -> Generation:
    """Fixes every masked token after the canvas's prompts; `tokens` leaves padding out."""
    device = canvas.tokens.device
    clock = Clock(device)
    stepper = _Stepper(model, options, torch.Generator(device).manual_seed(options.seed), clock)
    tokens = canvas.tokens
    fixed_at = torch.full_like(tokens[:, canvas.prompt_length :], -1)
    history = []
    for record in _steps(stepper, canvas):
        fixed_at = torch.where(record.fixed, record.step, fixed_at)
        tokens = torch.cat((tokens[:, : canvas.prompt_length], record.tokens), dim=1)
        if record_history:
            history.append(record)
        if callback is not None:
            callback(record)
    return Generation(
        tokens=tokens[canvas.valid].split(canvas.valid.sum(dim=1).tolist()),
        completions=tokens[:, canvas.prompt_length :],
        fixed_at=fixed_at,
        history=tuple(history),
        denoiser_calls=clock.count("denoiser"),
        denoiser_seconds=clock.seconds("denoiser"),
        coupling_seconds=clock.seconds("coupling"),
    )


def _steps(stepper: _Stepper, canvas: Canvas) -> Iterator[StepRecord]:
    """Decodes region after region; yields the state after each step."""
    options, model = stepper.options, stepper.model
    schedules = options.schedules()
    paces = [schedule.num_steps(options.region_length) for schedule in schedules]
    tokens, step = canvas.tokens, 0
    for i, schedule in enumerate(schedules):
        end = canvas.prompt_length + (i + 1) * options.region_length
        seen = slice(max(0, end - model.max_length), end)
        for steps_left in range(paces[i], 0, -1):
            view = stepper.step(tokens[:, seen], canvas.valid[:, seen], schedule, steps_left)
            before = tokens
            tokens = torch.cat((tokens[:, : seen.start], view, tokens[:, end:]), dim=1)
            fixed = (tokens != before)[:, canvas.prompt_length :]
            new = tokens[:, canvas.prompt_length :]
            yield StepRecord(step, sum(paces), tokens=new, fixed=fixed)
            step += 1


@dataclass(frozen=True, eq=False)
class _Scene:
    """What one step knows: the denoiser's output and how the rows may be coupled.

    Attributes:
        output: For the L positions in view.
        valid: (B, L) bool, False at padding.
        coupled: (B,) bool, False where the row is decoded factorised.
    """

    output: DenoiserOutput
    valid: Tensor
    coupled: Tensor


@dataclass(frozen=True)
class _Stepper:
    """Carries out single steps.

    Attributes:
        model: The denoiser and its coupling.
        options: How to decode.
        generator: Source of everything random.
        clock: Where time is added up.
    """

    model: Decodable
    options: DecodingOptions
    generator: torch.Generator
    clock: Clock

    def step(self, tokens: Tensor, valid: Tensor, schedule: Schedule, steps_left: int) -> Tensor:
        """Fixes some tokens of the region at the end of what is in view.

        Args:
            tokens: (B, L) ids in view.
            valid: (B, L) bool, False at padding.
            schedule: How many tokens to fix.
            steps_left: Steps left in this region, this one included.

        Returns:
            (B, L) ids with more tokens fixed.
        """
        with self.clock.measure("denoiser"):
            output = self.model.denoise(tokens, None if bool(valid.all()) else valid)
        with self.clock.measure("coupling"):
            region = self.options.region_length
            masked = (tokens == self.model.mask_id) & valid
            masked[:, :-region] = False
            count = masked.sum(dim=1)
            ratio = count / valid[:, -region:].sum(dim=1).clamp(min=1)
            scene = _Scene(output, valid, self._coupled(ratio))
            quota = schedule.quota(count, steps_left)
            if self.options.mode == "block":
                start = torch.full_like(quota, tokens.shape[1] - self.model.window)
                return self._commit(scene, tokens, start, masked, quota)
            return self._commit_anywhere(scene, tokens, masked, quota)

    def _coupled(self, mask_ratio: Tensor) -> Tensor:
        limit = self.options.mask_ratio_limit
        return mask_ratio < (float("inf") if limit is None else limit)

    def _commit_anywhere(
        self, scene: _Scene, tokens: Tensor, masked: Tensor, quota: Tensor
    ) -> Tensor:
        """Chooses among all masked positions and draws the windows that cover the chosen."""
        region = self.options.region_length
        logits, candidates = scene.output.logits[:, -region:], masked[:, -region:]
        scores = score(
            self.options.selection, lambda: logits.softmax(dim=-1), candidates, self.generator
        )
        selected = torch.zeros_like(masked)
        selected[:, -region:] = select(scores, candidates, quota)
        for window in minimum_cover(selected, self.model.window):
            count = window.covered.sum(dim=1)
            tokens = self._commit(scene, tokens, window.start, window.covered, count)
        return tokens

    def _commit(
        self, scene: _Scene, tokens: Tensor, start: Tensor, candidates: Tensor, counts: Tensor
    ) -> Tensor:
        """Draws `counts` (B,) of the candidates (B, L) of each row's window at `start` (B,)."""
        sampler = SAMPLERS[self.options.sampler]
        offsets = torch.arange(self.model.window, device=tokens.device)
        for coupling, group in ((self.options.coupling, True), ("factorised", False)):
            rows = torch.nonzero((scene.coupled == group) & (counts > 0)).squeeze(1)
            if not len(rows):
                continue
            within = start[rows].unsqueeze(1) + offsets  # (b, W)
            current = tokens[rows]
            valid = scene.valid[rows]
            distribution = self._distribution(
                _take(scene.output, rows),
                current,
                start[rows],
                coupling,
                None if bool(valid.all()) else valid,
            )
            drawn = sampler(
                distribution,
                candidates[rows].gather(1, within),
                counts[rows],
                self.options.rule,
                self.generator,
            )
            window = torch.where(drawn.chosen, drawn.tokens, current.gather(1, within))
            tokens = tokens.index_copy(0, rows, current.scatter(1, within, window))
        return tokens

    def _distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        coupling: str | CouplingSettings | None,
        valid: Tensor | None,
    ) -> TokenDistribution:
        """The window's distribution, by a captured step where that was asked for."""
        if not self.options.capture or coupling == "factorised":
            return self.model.distribution(output, tokens, start, coupling=coupling, valid=valid)
        assert isinstance(self.model, Capturable)  # as the options' check of the model found
        return self.model.captured_distribution(
            output,
            tokens,
            start,
            coupling=coupling,
            valid=valid,
            temperature=self.options.temperature,
            generator=self.generator,
        )


def _take(output: DenoiserOutput, rows: Tensor) -> DenoiserOutput:
    if len(rows) == len(output.logits):
        return output  # logits of a large vocabulary are not copied for nothing
    return replace(output, logits=output.logits[rows], hidden=output.hidden[rows])
