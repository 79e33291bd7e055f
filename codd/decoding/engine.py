"""The decoding loop: call the denoiser, choose positions, draw them jointly, until none is masked.

Two modes (Li et al. 2026, arXiv 2603.00045): "block" decodes blocks from left to right, each with
one window that ends where the block ends; "full" chooses positions anywhere among the new tokens
and covers them by as few windows as possible, drawn one after the other.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from codd.decoding.base import Decodable
from codd.decoding.calls import DenoiserCalls
from codd.decoding.canvas import Canvas
from codd.decoding.clock import Clock
from codd.decoding.endings import text_lengths
from codd.decoding.options import DecodingOptions
from codd.decoding.records import Generation, StepRecord
from codd.decoding.scene import Memory, Scene
from codd.decoding.stepping import Stepper
from codd.decoding.wrapped import WrappedModel


@torch.no_grad()
def decode(
    model: Decodable, canvas: Canvas, options: DecodingOptions, *, record_history: bool
) -> Generator[StepRecord, None, Generation]:
    """Fixes every masked token after the canvas's prompts; yields the state after each step.

    Args:
        model: The denoiser and its coupling.
        canvas: Prompts and tokens to fix.
        options: How, checked against the model.
        record_history: Keeps the states.

    Returns:
        All of it; its `tokens` leave padding out.
    """
    device = canvas.tokens.device
    clock = Clock(device)
    generator = torch.Generator(device).manual_seed(options.seed)
    calls, memory = DenoiserCalls(model, options.cache), Memory(len(canvas.tokens))
    stepper = Stepper(model, options, generator, clock, calls, memory)
    tokens, prompt = canvas.tokens, canvas.prompt_length
    new = tokens[:, prompt:]
    fixed_at = torch.full_like(new, -1)
    log_probs = torch.zeros(new.shape, device=device) if options.log_probs else None
    taken = torch.zeros(len(new), dtype=torch.int64, device=device)
    history = []
    for record, rows in _steps(stepper, canvas):
        taken[rows] += 1
        fixed_at = torch.where(record.fixed, record.step, fixed_at)
        fixed_at = fixed_at.masked_fill(record.tokens == model.mask_id, -1)
        if log_probs is not None and record.log_probs is not None:
            log_probs = torch.where(record.fixed, record.log_probs.to(log_probs.dtype), log_probs)
        tokens = torch.cat((tokens[:, :prompt], record.tokens), dim=1)
        if record_history:
            history.append(record)
        yield record
    memory.require_possible()
    return Generation(
        tokens=tokens[canvas.valid].split(canvas.valid.sum(dim=1).tolist()),
        completions=tokens[:, prompt:],
        fixed_at=fixed_at,
        history=tuple(history),
        denoiser_calls=clock.count("denoiser"),
        denoiser_seconds=clock.seconds("denoiser"),
        coupling_seconds=clock.seconds("coupling"),
        calls=taken,
        log_probs=None if log_probs is None else log_probs.masked_fill(fixed_at < 0, 0.0),
    )


def _steps(stepper: Stepper, canvas: Canvas) -> Iterator[tuple[StepRecord, Tensor]]:
    """Decodes region after region; yields the state and the rows (b,) after each step."""
    options, model, prompt = stepper.options, stepper.model, canvas.prompt_length
    schedules = options.schedules()
    paces = [schedule.num_steps(options.region_length) for schedule in schedules]
    tokens, step = canvas.tokens, 0
    given = (tokens != model.mask_id) | ~canvas.valid
    padded = not bool(canvas.valid.all())
    logs = torch.zeros(tokens.shape, device=tokens.device) if options.keeps_log_probs else None
    for i, schedule in enumerate(schedules):
        end = prompt + (i + 1) * options.region_length
        seen = slice(max(0, end - model.max_length), end)
        stepper.memory.forget()
        if isinstance(model, WrappedModel):
            region = model.region(end - prompt - options.region_length, end - prompt)
            stepper = replace(stepper, model=region)
        for steps_left in range(paces[i], 0, -1):
            rows = _unfinished(options, model.mask_id, tokens[:, prompt:], ~given[:, prompt:], i)
            if not len(rows):
                break
            scene = Scene(
                rows,
                tokens[rows, seen],
                canvas.valid[rows, seen],
                padded,
                given[rows, seen],
                schedule,
                steps_left,
                paces[i],
                seen.start,
                ahead=min(tokens.shape[1] - end, model.max_length - end + seen.start)
                if options.lookahead
                else 0,
                log_probs=None if logs is None else logs[rows, seen],
            )
            found, fresh = stepper.step(scene)
            before = tokens
            tokens = tokens.clone()
            tokens[rows, seen] = found
            fixed = (tokens != before) & (tokens != model.mask_id)
            told = None
            if fresh is not None and logs is not None:
                spread = _spread(fresh, rows, seen, tokens)
                logs = torch.where(fixed, spread.to(logs.dtype), logs)
                told = spread[:, prompt:] if options.log_probs else None
            new = tokens[:, prompt:]
            yield StepRecord(step, sum(paces), new, fixed[:, prompt:], told), rows
            step += 1


def _unfinished(
    options: DecodingOptions, mask_id: int, new: Tensor, wanted: Tensor, region: int
) -> Tensor:
    """The rows (b,) of new tokens (B, N) whose region still has masked ones, before any end."""
    if options.lockstep:
        return torch.arange(len(new), device=new.device)
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
