"""Decoding as users call it: continue prompts, step by step or at once, and fill in masks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.decoding.arguments import read_spellings
from codd.decoding.base import Decodable
from codd.decoding.budgets import Budget
from codd.decoding.canvas import lay_out
from codd.decoding.checks import check_constraint, check_prompts, check_sequences
from codd.decoding.constraints import ConstrainedModel
from codd.decoding.endings import text_lengths
from codd.decoding.engine import decode
from codd.decoding.options import DecodingOptions, usual_block
from codd.decoding.records import Generation, StepRecord
from codd.decoding.revision import Revision, revision_from_text
from codd.decoding.rules import Quota, quota_from_text
from codd.errors import DecodingError

__all__ = ["Callback", "Generation", "StepRecord", "generate", "infill", "stream"]

Callback = Callable[[StepRecord], None]


def generate(
    model: Decodable,
    prompts: Sequence[Tensor],
    new_tokens: int | None = None,
    steps: int | None = None,
    *,
    tokens_per_step: int | None = None,
    quota: Quota | str | None = None,
    stochastic: bool = False,
    mode: str = "block",
    block_length: int | None = None,
    selection: str | None = None,
    sampler: str | None = None,
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
        quota: Instead of both, an adaptive rule of `codd.decoding.rules`, or its text such as
            "threshold=0.9", "factor=1", "entropy_bound=0.1" or "klass=0.01,0.6", which decide
            what to fix from the exact marginals, or a budget such as "total_correlation=6" or
            "joint_entropy=2", spent while the sampler "any_order" fixes tokens one by one.
        stochastic: Each masked token is fixed with probability 1 / steps left, as in the reverse
            process itself; with `steps`, which some rows may not need.
        mode: "block" or "full".
        block_length: Tokens of a block in mode "block", a divisor of N; None for the model's own,
            or all new tokens if they are fewer, or constrained and within the window.
        selection: "random", "low_confidence" (the default), "margin", "entropy" or
            "left_to_right": which positions come first.
        sampler: "exact", "latent", "any_order" or "map": how tokens of one step are drawn together;
            None for "exact", or for "any_order" with a budget.
        temperature: Divides log-probabilities; 0 takes the most likely token.
        top_p: Nucleus of each token's conditional; "any_order" only.
        coupling: "factorised", "product", "local", "copula", one of the other names in
            `codd.COUPLING_NAMES`, or settings; None for the model's own.
        mask_ratio_limit: γ: a row is coupled only while the share of masked tokens in its block
            (of the new tokens in mode "full") is below this; None couples always.
        revision: Which tokens a step takes back, an object of `codd.decoding.revision` or its text
            such as "remdm_cap=0.02", "remdm_rescale", "remdm_conf" or "remdm_loop"; with `steps`.
        guidance: w of classifier-free guidance: logits become (1 + w) times those given the prompt
            less w times those with the prompt masked; both are asked for in one call.
        constraint: A circuit over N tokens without parameters, as made by
            `pcircuits.families.automaton` or `regular_expression`: the new tokens have to be where
            it is 1. In several blocks or in mode "full" it has to be right-linear, as these are.
        end_id: The token that ends a text; a row that has it is not decoded further.
        stop: Token sequences that do the same.
        seed: Seed of everything random.
        capture: Records the coupling of a step once for each batch of windows, as a CUDA graph,
            and replays it; for a static chain on a CUDA device, "exact" and "latent". The device is
            waited for at the end alone, where a text that the circuit rules out is refused.
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

    Returns:
        Tokens, the step that fixed each, and what it cost.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode(text) for text in ("Return the ", "If the ")]
        >>> found = codd.generate(model, prompts, new_tokens=4, steps=1, coupling="copula", seed=0)
        >>> found.completions.shape, found.denoiser_calls
        (torch.Size([2, 4]), 1)
        >>> codd.generate(model, prompts, new_tokens=4, steps=9)  # raises
        Traceback (most recent call last):
            ...
        codd.errors.DecodingError: steps: expected 1 (one a block) to 4 (one a token), found 9
    """
    steps_of = _continue(
        model,
        prompts,
        new_tokens=new_tokens,
        steps=steps,
        tokens_per_step=tokens_per_step,
        quota=quota,
        stochastic=stochastic,
        mode=mode,
        block_length=block_length,
        selection=selection,
        sampler=sampler,
        temperature=temperature,
        top_p=top_p,
        coupling=coupling,
        mask_ratio_limit=mask_ratio_limit,
        revision=revision,
        guidance=guidance,
        constraint=constraint,
        end_id=end_id,
        stop=stop,
        seed=seed,
        capture=capture,
        record_history=record_history,
        log_probs=log_probs,
        cache=cache,
        lookahead=lookahead,
        **spellings,
    )
    return _finished(steps_of, callback)


def stream(
    model: Decodable, prompts: Sequence[Tensor], **arguments: Any
) -> Generator[StepRecord, None, Generation]:
    """As `generate`, but yields the state after each step as soon as it is known.

    Nothing is computed before the first state is asked for, and nothing more after the last one
    that is; the whole is what the exhausted generator returns (`yield from` gives it).

    Args:
        model: As there.
        prompts: (P_b,) int64 ids of each row, as there.
        **arguments: All others of `generate` but its callback, in any spelling.

    Yields:
        The state after each step: all tokens, (B, N), the mask id where one is still wanted.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other: before
            the first state is asked for.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> prompts = [model.vocabulary.encode("Return the ")]
        >>> for state in codd.stream(model, prompts, new_tokens=6, steps=3, coupling="factorised"):
        ...     print(int((state.tokens == model.mask_id).sum()), "tokens left")
        4 tokens left
        2 tokens left
        0 tokens left
    """
    return _continue(model, prompts, **arguments)


def infill(
    model: Decodable,
    sequences: Sequence[Tensor],
    steps: int | None = None,
    *,
    callback: Callback | None = None,
    record_history: bool | None = None,
    **options: Any,
) -> Generation:
    """Fills the masked tokens of sequences, in mode "full".

    Args:
        model: The denoiser and its coupling.
        sequences: (L_b,) int64 ids of each row, the mask id where a token is wanted, of any
            lengths up to the model's, on the model's device.
        steps: Denoiser calls; each row spreads its masked tokens evenly over them.
        callback: Called with the state after each step.
        record_history: Keeps the state after each step.
        **options: `tokens_per_step`, `quota`, `stochastic`, `selection`, `sampler`,
            `temperature`, `top_p`, `coupling`, `mask_ratio_limit` (of the share of a row's tokens
            that are masked), `revision`, `guidance` (by all that is visible), `seed`, `capture` and
            `log_probs`, as in `generate` and in any of its spellings.

    Returns:
        The filled sequences. Its `completions` and `fixed_at` are padded on the left to the
        longest sequence, and to W at least; -1 in `fixed_at` where nothing was masked.

    Raises:
        DecodingError: If an argument is impossible, or two of them contradict each other.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> tokens = model.vocabulary.encode("Return a list of all files in the folder.")
        >>> tokens[21:26] = model.mask_id
        >>> found = codd.infill(model, [tokens], steps=1)
        >>> text = model.vocabulary.decode(found.tokens[0])
        >>> text[:21], text[26:]
        ('Return a list of all ', ' in the folder.')
    """
    said = _read({**options, "steps": steps, "record_history": record_history})
    history = bool(said.pop("record_history"))
    unfit = [name for name in _CONTINUING if said.get(name) is not None]
    if unfit:
        raise DecodingError(f"{unfit[0]}: expected none when filling in, found {said[unfit[0]]!r}")
    check_sequences(sequences, said.get("steps"), model)
    canvas = lay_out(
        sequences, 0, context=model.max_length, least=model.window, mask_id=model.mask_id
    )
    canvas = replace(canvas, prompt_length=0)
    decoding = DecodingOptions(new_tokens=canvas.tokens.shape[1], mode="full", **_known(said))
    decoding.check_step(model)
    return _finished(decode(model, canvas, decoding, record_history=history), callback)


_ARGUMENTS = (*(field.name for field in fields(DecodingOptions)), "record_history")
_CONTINUING = ("new_tokens", "mode", "block_length", "end_id", "stop")


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments by our own names, None where not given; rules as objects."""
    own: dict[str, Any] = dict.fromkeys(_ARGUMENTS)
    own.update({name: value for name, value in given.items() if name in own})
    if isinstance(own["quota"], str):
        own["quota"] = quota_from_text(own["quota"])
    if isinstance(own["revision"], str):
        own["revision"] = revision_from_text(own["revision"])
    said = read_spellings(own, {name: v for name, v in given.items() if name not in own})
    if said["sampler"] is None and isinstance(said["quota"], Budget):
        said["sampler"] = "any_order"
    return said


def _known(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _continue(
    model: Decodable,
    prompts: Sequence[Tensor],
    *,
    constraint: pc.Circuit | None = None,
    **given: Any,
) -> Generator[StepRecord, None, Generation]:
    """Checks everything at once; what it returns decodes step by step."""
    said = _read(given)
    if said["new_tokens"] is None:
        raise DecodingError("new_tokens: expected how many tokens to generate, found None")
    if said["mode"] in (None, "block") and said["block_length"] is None:
        constrained = constraint is not None
        said["block_length"] = usual_block(model, said["new_tokens"], constrained=constrained)
    history = bool(said.pop("record_history"))
    if said["stop"] is not None:
        said["stop"] = tuple(tuple(sequence) for sequence in said["stop"])
    options = DecodingOptions(**_known(said))
    if constraint is not None:
        check_constraint(constraint, options.new_tokens)
        at_once = options.mode == "block" and options.num_regions == 1
        model = ConstrainedModel(model, constraint, at_once=at_once)
    options.check_model(model)
    check_prompts(prompts, model.num_categories)
    return _continued(model, prompts, options, history)


def _continued(
    model: Decodable, prompts: Sequence[Tensor], options: DecodingOptions, record_history: bool
) -> Generator[StepRecord, None, Generation]:
    """Decodes, and puts whole prompts before what was generated."""
    canvas = lay_out(
        prompts,
        options.new_tokens,
        context=model.max_length - options.region_length,
        least=max(0, model.window - options.region_length),
        mask_id=model.mask_id,
    )
    found = yield from decode(model, canvas, options, record_history=record_history)
    lengths = text_lengths(found.completions, model.mask_id, options.end_id, options.stop)
    kept = [row[:n] for row, n in zip(found.completions, lengths.tolist(), strict=True)]
    whole = tuple(torch.cat(pair) for pair in zip(prompts, kept, strict=True))
    return replace(found, tokens=whole, lengths=lengths)


def _finished(
    steps: Generator[StepRecord, None, Generation], callback: Callback | None
) -> Generation:
    """Runs all steps; what they return."""
    while True:
        try:
            record = next(steps)
        except StopIteration as end:
            found: Generation = end.value
            return found
        if callback is not None:
            callback(record)
