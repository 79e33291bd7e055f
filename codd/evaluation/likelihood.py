"""Log-likelihood of continuations under a masked diffusion model, in three ways.

A continuation is cut into blocks, scored from left to right as decoding writes them: each given its
context and the true blocks before it, with nothing after it. Of a block of n tokens

- "one_step" asks for all tokens in one call: the exact log-probability of the coupled joint. Where
  the continuation fits one window of the circuit nothing is approximated: it is the probability
  with which one decoding step at temperature 1 writes it. Shorter blocks give the few-step
  likelihood, one call a block.
- "chain_rule" reveals the tokens one by one from left to right, n calls: the exact log-probability
  of one token a call. Single tokens are asked for, so the coupling does not enter.
- "monte_carlo" is the any-order lower bound of Nie et al. 2025 (LLaDA, arXiv 2502.09992, eq. 6):
  the mean over l ~ U{1..n} and random sets M of l masked tokens of n / l * sum over M of
  log p(x_i | x outside M). It is unbiased for the bound; the coupling does not enter either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.decoding.base import Decodable
from codd.decoding.canvas import Canvas, lay_out
from codd.decoding.samplers import SamplingRule, any_order
from codd.errors import EvaluationError

METHODS = ("one_step", "chain_rule", "monte_carlo")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LikelihoodOptions:
    """How continuations are scored.

    Attributes:
        method: One of `METHODS`.
        block_length: Tokens scored together; None for the circuit's window.
        coupling: Of "one_step": a coupling's name or its settings; None for the model's own.
        samples: Of "monte_carlo": random masks a block.
        seed: Of "monte_carlo": blocks of one length share their masks, so that the choices of a
            question are compared at the same masks.
        batch_size: Rows of a denoiser call.
        greedy: Whether to find out if greedy decoding would write the continuation.
    """

    method: str = "one_step"
    block_length: int | None = None
    coupling: str | CouplingSettings | None = None
    samples: int = 128
    seed: int = 0
    batch_size: int = 32
    greedy: bool = True

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            EvaluationError: If a field is impossible.
        """
        if self.method not in METHODS:
            raise EvaluationError(
                f"likelihood: expected one of {', '.join(METHODS)}, found {self.method!r}"
            )
        for name in ("samples", "batch_size", "block_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvaluationError(f"likelihood {name}: expected at least 1, found {value}")


@dataclass(frozen=True)
class Likelihood:
    """What is said of one continuation.

    Attributes:
        log_prob: Nats: exact, or of "monte_carlo" the estimate of a lower bound.
        is_greedy: Whether greedy decoding writes it: block after block in one step each for
            "one_step", one token a call from left to right otherwise. False if not asked for.
    """

    log_prob: float
    is_greedy: bool


@torch.no_grad()
def score_continuations(
    model: Decodable,
    contexts: Sequence[Tensor],
    continuations: Sequence[Tensor],
    options: LikelihoodOptions,
    *,
    progress: Progress | None = None,
) -> list[Likelihood]:
    """Scores continuations, each given its context.

    Args:
        model: The denoiser and its coupling.
        contexts: (C_i,) int64 ids on the model's device; may be empty. Of one too long for the
            model the last tokens are seen.
        continuations: (N_i,) int64 ids.
        options: How.
        progress: Called with the blocks done and in all.

    Returns:
        One for each pair.

    Raises:
        EvaluationError: If lists differ in length or blocks do not fit the model.
    """
    if len(contexts) != len(continuations):
        raise EvaluationError(
            f"contexts, continuations: expected as many, found {len(contexts)} and "
            f"{len(continuations)}"
        )
    blocks = list(_blocks(contexts, continuations, _block_length(model, options)))
    totals = [0.0] * len(contexts)
    greedy = [options.greedy] * len(contexts)
    done = 0
    for batch in _batches(blocks, options.batch_size):
        log_probs, agrees = _score(model, batch, options)
        rows = zip(batch, log_probs.tolist(), agrees.tolist(), strict=True)
        for block, log_prob, agreed in rows:
            totals[block.row] += log_prob
            greedy[block.row] &= agreed
        done += len(batch)
        if progress is not None:
            progress(done, len(blocks))
    return [Likelihood(*pair) for pair in zip(totals, greedy, strict=True)]


@dataclass(frozen=True, eq=False)
class _Block:
    """Some tokens of a continuation, and all that stands before them."""

    row: int
    prompt: Tensor
    target: Tensor


def _block_length(model: Decodable, options: LikelihoodOptions) -> int:
    length = options.block_length or model.window
    coupled = options.method == "one_step"
    limit, what = (model.window, "window") if coupled else (model.max_length, "longest sequence")
    if length > limit:
        raise EvaluationError(
            f"likelihood block_length: expected at most the model's {what}, {limit}, found {length}"
        )
    return length


def _blocks(
    contexts: Sequence[Tensor], continuations: Sequence[Tensor], length: int
) -> Iterator[_Block]:
    for row, (context, continuation) in enumerate(zip(contexts, continuations, strict=True)):
        before = context
        for target in continuation.split(length) if len(continuation) else ():
            yield _Block(row, before, target)
            before = torch.cat((before, target))


def _batches(blocks: Sequence[_Block], size: int) -> Iterator[list[_Block]]:
    """Blocks of one length together, those with the longest prompts first."""
    by_length = defaultdict(list)
    for block in blocks:
        by_length[len(block.target)].append(block)
    for _, same in sorted(by_length.items(), reverse=True):
        ordered = sorted(same, key=lambda block: -len(block.prompt))
        yield from (ordered[i : i + size] for i in range(0, len(ordered), size))


def _score(
    model: Decodable, batch: Sequence[_Block], options: LikelihoodOptions
) -> tuple[Tensor, Tensor]:
    """(B,) log-probabilities in float64, and (B,) bool, whether greedy decoding agrees."""
    target = torch.stack([block.target for block in batch])  # (B, n)
    canvas = lay_out(
        [block.prompt for block in batch],
        target.shape[1],
        context=model.max_length - target.shape[1],
        least=max(0, model.window - target.shape[1]),
        mask_id=model.mask_id,
    )
    if options.method == "one_step":
        return _one_step(model, canvas, target, options)
    canvas.tokens[:, -target.shape[1] :] = target
    if options.method == "chain_rule":
        return _chain_rule(model, canvas, target.shape[1], options)
    agrees = torch.zeros(len(batch), dtype=torch.bool)
    if options.greedy:
        agrees = _chain_rule(model, canvas, target.shape[1], options)[1]
    return _monte_carlo(model, canvas, target.shape[1], options), agrees


def _one_step(
    model: Decodable, canvas: Canvas, target: Tensor, options: LikelihoodOptions
) -> tuple[Tensor, Tensor]:
    count, tokens = target.shape[1], canvas.tokens
    padded = None if bool(canvas.valid.all()) else canvas.valid
    start = torch.full_like(tokens[:, 0], tokens.shape[1] - model.window)
    distribution = model.distribution(
        model.denoise(tokens, padded), tokens, start, coupling=options.coupling, valid=padded
    )
    truth = torch.cat((tokens[:, :-count], target), dim=1)[:, -model.window :]
    log_prob = distribution.log_prob(truth).double()
    if not options.greedy:
        return log_prob, torch.zeros(len(target), dtype=torch.bool)
    hidden = torch.zeros_like(truth, dtype=torch.bool)
    hidden[:, -count:] = True
    found = any_order(
        distribution,
        hidden,
        hidden.sum(dim=1),
        SamplingRule("low_confidence", temperature=0.0),
        torch.Generator(tokens.device),
    )
    return log_prob, (found.tokens[:, -count:] == target).all(dim=1)


def _chain_rule(
    model: Decodable, canvas: Canvas, count: int, options: LikelihoodOptions
) -> tuple[Tensor, Tensor]:
    after = torch.ones(count, count, dtype=torch.bool).triu()  # row i hides token i and later ones
    log_probs, likeliest = _single_tokens(model, canvas, after, options.batch_size)
    wanted = log_probs.diagonal(dim1=1, dim2=2)
    return wanted.sum(dim=1), likeliest.diagonal(dim1=1, dim2=2).all(dim=1)


def _monte_carlo(
    model: Decodable, canvas: Canvas, count: int, options: LikelihoodOptions
) -> Tensor:
    hidden = random_masks(count, options.samples, options.seed)
    log_probs, _ = _single_tokens(model, canvas, hidden, options.batch_size)
    weight = count / hidden.sum(dim=1).to(log_probs)  # (S,)
    hidden = hidden.to(log_probs.device)
    # What is impossible stays -inf; 0 * -inf where a token is visible would be NaN.
    return (log_probs.masked_fill(~hidden, 0.0).sum(dim=2) * weight).mean(dim=1)


def random_masks(count: int, samples: int, seed: int) -> Tensor:
    """Masks whose sizes cover 1 .. count evenly, each of random positions.

    Args:
        count: n, tokens of a block.
        samples: S.
        seed: Seed of the sizes' common shift and of the positions.

    Returns:
        (S, n) bool, True where masked; sizes are uniform on 1 .. n over the shift.
    """
    generator = torch.Generator().manual_seed(seed)
    shift = torch.rand(1, generator=generator, dtype=torch.float64)
    strata = (torch.arange(samples) + shift) / samples  # (S,) in [0, 1)
    sizes = 1 + (strata * count).long().clamp(max=count - 1)
    ranks = torch.rand(samples, count, generator=generator).argsort(dim=1).argsort(dim=1)
    return ranks < sizes[:, None]


def _single_tokens(
    model: Decodable, canvas: Canvas, hidden: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """What the denoiser says of the canvas's last tokens, at each pattern of hidden ones.

    Args:
        model: Its denoiser is asked.
        canvas: B rows of true tokens.
        hidden: (P, n) bool, which of the last n tokens a pattern hides.
        batch_size: Rows of a call.

    Returns:
        (B, P, n) float64 log-probabilities of the true tokens, and bool, whether they are the
        likeliest.
    """
    patterns, count = hidden.shape
    hidden = hidden.to(canvas.tokens.device)
    every = torch.arange(len(canvas.tokens) * patterns, device=hidden.device)
    log_probs, likeliest = [], []
    for rows in every.split(batch_size):
        tokens = canvas.tokens[rows // patterns]
        valid = canvas.valid[rows // patterns]
        target = tokens[:, -count:].clone()
        tokens[:, -count:] = target.masked_fill(hidden[rows % patterns], model.mask_id)
        output = model.denoise(tokens, None if bool(valid.all()) else valid)
        found = output.logits[:, -count:].double().log_softmax(dim=-1)
        log_probs.append(found.gather(2, target[..., None]).squeeze(2))
        likeliest.append(found.argmax(dim=2) == target)
    shape = (len(canvas.tokens), patterns, count)
    return torch.cat(log_probs).view(shape), torch.cat(likeliest).view(shape)
