"""The decoding loop: call the denoiser, choose positions, draw them jointly, until none is masked.

Two modes (Li et al. 2026, arXiv 2603.00045): "block" decodes blocks from left to right, each with
one window that ends where the block ends; "full" chooses positions anywhere among the new tokens
and covers them by as few windows as possible, drawn one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.decoding.arguments import read_spellings
from codd.decoding.base import Decodable
from codd.decoding.calls import DenoiserCalls
from codd.decoding.canvas import Canvas, lay_out
from codd.decoding.clock import Clock
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.endings import text_lengths
from codd.decoding.options import DecodingOptions, check_prompts, check_sequences
from codd.decoding.quotas import AdaptiveQuota, quota_from_text
from codd.decoding.records import Generation, StepRecord
from codd.decoding.revision import Revision, revision_from_text
from codd.decoding.stepping import Scene, Stepper
from codd.errors import DecodingError

__all__ = ["Callback", "Generation", "StepRecord", "generate", "infill"]

Callback = Callable[[StepRecord], None]


def generate(
    model: Decodable,
    prompts: Sequence[Tensor],
    new_tokens: int | None = None,
    steps: int | None = None,
    *,
    tokens_per_step: int | None = None,
    quota: AdaptiveQuota | str | None = None,
    mode: str = "block",
    block_length: int | None = None,
    selection: str | None = None,
    sampler: str = "exact",
    temperature: float = 1.0,
    top_p: float | None = None,
    coupling: str | CouplingSettings | None = None,
    mask_ratio_limit: float | None = None,
    revision: Revision | str | None = None,
    guidance: float | None = None,
    constraint: pc.Circuit | None = None,
    end_id: int | None = None,
    stop: Sequence[Sequence[int]] = (),
    seed: int = 0,
    capture: bool = False,
    callback: Callback | None = None,
    record_history: bool | None = None,
    log_probs: bool = False,
    cache: str = "none",
    lookahead: bool = False,
    **spellings: Any,
) -> Generation:
    """Continues prompts by masked diffusion.

    Args:
        model: The denoiser and its coupling.
        prompts: (P_b,) int64 ids of each row, of any lengths, on the model's device. Of a prompt
            too long for the model the last tokens are seen.
        new_tokens: N, tokens to generate after each prompt.
        steps: Denoiser calls in all, spread evenly over blocks and their tokens.
        tokens_per_step: Instead of `steps`, the tokens to fix at each call.
        quota: Instead of both, an adaptive rule of `codd.decoding.quotas`, or its text such as
            "threshold=0.9", "factor=1", "entropy_bound=0.1", "klass=0.01,0.6" or
            "total_correlation=0.5"; it decides what to fix from the exact marginals.
        mode: "block" or "full".
        block_length: Tokens of a block in mode "block"; None for the model's own, or for all new
            tokens under a constraint.
        selection: "random", "low_confidence" (the default), "margin", "entropy" or
            "left_to_right": which positions come first.
        sampler: "exact", "latent", "any_order" or "map": how tokens of one step are drawn together.
        temperature: Divides log-probabilities; 0 takes the most likely token.
        top_p: Nucleus of each token's conditional; "any_order" only.
        coupling: "factorised", "product", "local", "copula", one of the other names in
            `codd.COUPLING_NAMES`, or settings; None for the model's own.
        mask_ratio_limit: γ: a row is coupled only while the share of masked tokens in its block
            (of the new tokens in mode "full") is below this; None couples always.
        revision: Which tokens a step takes back, an object of `codd.decoding.revision` or its text
            such as "remdm_cap=0.02"; with `steps`.
        guidance: w of classifier-free guidance: logits become (1 + w) times those given the prompt
            less w times those with the prompt masked; both are asked for in one call.
        constraint: A circuit over N tokens without parameters, as made by
            `pcircuits.families.automaton` or `regular_expression`: the new tokens have to be where
            it is 1. Mode "block" with a single block.
        end_id: The token that ends a text; a row that has it is not decoded further.
        stop: Token sequences that do the same.
        seed: Seed of everything random.
        capture: Records the coupling of a step once for each batch of windows, as a CUDA graph,
            and replays it; for a static chain on a CUDA device, "exact" and "latent".
        callback: Called with the state after each step.
        record_history: Keeps the state after each step.
        log_probs: Records the log-probability of each token under its step's marginals.
        cache: What the denoiser computes at a block's later steps: "none" for all in view; "prefix"
            for the block and what is after it; "dual" for the block alone; "block" for the block
            alone, and finished blocks once for good. The rest is as it was when the block began:
            under a block-causal mask that changes nothing, else a little.
        lookahead: The denoiser sees the masks of later blocks too, as LLaDA's does.
        **spellings: Arguments by the names of LLaDA, Dream and others: `num_steps`,
            `gen_length`, `max_new_tokens`, `block_size`, `remasking`, `alg`, `cfg_scale`, ...; see
            `codd.decoding.arguments.SPELLINGS`.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other.
    """
    said = read_spellings(
        {
            "new_tokens": new_tokens,
            "steps": steps,
            "block_length": block_length,
            "selection": selection,
            "quota": quota_from_text(quota) if isinstance(quota, str) else quota,
            "guidance": guidance,
            "end_id": end_id,
            "record_history": record_history,
        },
        spellings,
    )
    if said["new_tokens"] is None:
        raise DecodingError("new_tokens: expected how many tokens to generate, found None")
    if mode == "block" and said["block_length"] is None:
        said["block_length"] = model.block if constraint is None else said["new_tokens"]
    history = bool(said.pop("record_history"))
    options = DecodingOptions(
        **{name: value for name, value in said.items() if value is not None},
        tokens_per_step=tokens_per_step,
        mode=mode,
        sampler=sampler,
        temperature=temperature,
        top_p=top_p,
        coupling=coupling,
        mask_ratio_limit=mask_ratio_limit,
        revision=revision_from_text(revision) if isinstance(revision, str) else revision,
        stop=tuple(tuple(sequence) for sequence in stop),
        seed=seed,
        capture=capture,
        log_probs=log_probs,
        cache=cache,
        lookahead=lookahead,
    )
    if constraint is not None:
        options.check_constraint(constraint)
        model = ConstrainedModel(model, constraint)
    return _continued(model, prompts, options, callback, history)


def _continued(
    model: Decodable,
    prompts: Sequence[Tensor],
    options: DecodingOptions,
    callback: Callback | None,
    record_history: bool,
) -> Generation:
    """Checks, decodes, and puts whole prompts before what was generated."""
    options.check_model(model)
    check_prompts(prompts, model.num_categories)
    canvas = lay_out(
        prompts,
        options.new_tokens,
        context=model.max_length - options.region_length,
        least=max(0, model.window - options.region_length),
        mask_id=model.mask_id,
    )
    found = _decode(model, canvas, options, callback, record_history)
    lengths = text_lengths(found.completions, model.mask_id, options.end_id, options.stop)
    kept = [row[:n] for row, n in zip(found.completions, lengths.tolist(), strict=True)]
    whole = tuple(torch.cat(pair) for pair in zip(prompts, kept, strict=True))
    return replace(found, tokens=whole, lengths=lengths)


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
    generator = torch.Generator(device).manual_seed(options.seed)
    stepper = Stepper(model, options, generator, clock, DenoiserCalls(model, options.cache))
    tokens = canvas.tokens
    new = tokens[:, canvas.prompt_length :]
    fixed_at = torch.full_like(new, -1)
    log_probs = torch.zeros(new.shape, device=device) if options.log_probs else None
    history = []
    for record, fresh in _steps(stepper, canvas):
        fixed_at = torch.where(record.fixed, record.step, fixed_at)
        fixed_at = fixed_at.masked_fill(record.tokens == model.mask_id, -1)
        if log_probs is not None and fresh is not None:
            log_probs = torch.where(record.fixed, fresh.to(log_probs.dtype), log_probs)
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
        log_probs=None if log_probs is None else log_probs.masked_fill(fixed_at < 0, 0.0),
    )


def _steps(stepper: Stepper, canvas: Canvas) -> Iterator[tuple[StepRecord, Tensor | None]]:
    """Decodes region after region; yields the state and log-probabilities after each step."""
    options, model, prompt = stepper.options, stepper.model, canvas.prompt_length
    schedules = options.schedules()
    paces = [schedule.num_steps(options.region_length) for schedule in schedules]
    tokens, step = canvas.tokens, 0
    given = (tokens != model.mask_id) | ~canvas.valid
    for i, schedule in enumerate(schedules):
        end = prompt + (i + 1) * options.region_length
        seen = slice(max(0, end - model.max_length), end)
        stepper.memory.forget()
        for steps_left in range(paces[i], 0, -1):
            rows = _unfinished(options, model.mask_id, tokens[:, prompt:], ~given[:, prompt:], i)
            if not len(rows):
                break
            scene = Scene(
                rows,
                tokens[rows, seen],
                canvas.valid[rows, seen],
                given[rows, seen],
                schedule,
                steps_left,
                paces[i],
                seen.start,
                ahead=min(tokens.shape[1] - end, model.max_length - end + seen.start)
                if options.lookahead
                else 0,
            )
            found, fresh = stepper.step(scene)
            before = tokens
            tokens = tokens.clone()
            tokens[rows, seen] = found
            fixed = (tokens != before) & (tokens != model.mask_id)
            yield (
                StepRecord(step, sum(paces), tokens=tokens[:, prompt:], fixed=fixed[:, prompt:]),
                None if fresh is None else _spread(fresh, rows, seen, tokens)[:, prompt:],
            )
            step += 1


def _unfinished(
    options: DecodingOptions, mask_id: int, new: Tensor, wanted: Tensor, region: int
) -> Tensor:
    """The rows (b,) of new tokens (B, N) whose region still has masked ones, before any end."""
    inside = slice(region * options.region_length, (region + 1) * options.region_length)
    open_rows = ((new == mask_id) & wanted)[:, inside].any(dim=1)
    if options.ends:
        lengths = text_lengths(new, mask_id, options.end_id, options.stop)
        open_rows &= lengths == new.shape[1]
    return open_rows.nonzero().squeeze(1)


def _spread(fresh: Tensor, rows: Tensor, seen: slice, like: Tensor) -> Tensor:
    """What a step says of rows in view, laid out as the whole canvas."""
    whole = torch.zeros_like(like, dtype=fresh.dtype)
    whole[rows, seen] = fresh
    return whole
