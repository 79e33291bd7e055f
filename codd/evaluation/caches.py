"""What key-value caches change: of generated tokens, and of the likelihood of true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codd.decoding.base import Decodable
from codd.decoding.calls import CACHES, DenoiserCalls, View, check_cache
from codd.decoding.loop import Generation, generate
from codd.errors import EvaluationError
from codd.evaluation.continuation import Progress, reported
from codd.evaluation.statistics import Estimate, json_ready, mean

NONE = "none"


@dataclass(frozen=True)
class CacheProtocol:
    """What is measured.

    Attributes:
        block: Tokens of a block.
        num_blocks: Blocks after the prompt.
        tokens_per_step: Tokens fixed at each call, in generation.
        ratios: Shares of the last block that are masked when its likelihood is taken.
        batch_size: Windows at a time.
        seed: Of what is masked and drawn.
    """

    block: int
    num_blocks: int = 2
    tokens_per_step: int = 2
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    batch_size: int = 32
    seed: int = 0


@dataclass(frozen=True, eq=False)
class CacheResult:
    """By cache: what it changes, each row one window.

    Attributes:
        protocol: What was measured.
        changed: Cache -> (N,) share of generated tokens other than without a cache.
        log_likelihoods: Cache -> (N, R) nats per masked token of the last block.
        seconds: Cache -> time of all denoiser calls of generation.
    """

    protocol: CacheProtocol
    changed: dict[str, Tensor]
    log_likelihoods: dict[str, Tensor]
    seconds: dict[str, float]

    def level(self, cache: str) -> list[Estimate]:
        """Log-likelihood by ratio."""
        return [mean(column) for column in self.log_likelihoods[cache].T]

    def difference(self, cache: str) -> list[Estimate]:
        """What the cache adds to it."""
        found = self.log_likelihoods[cache] - self.log_likelihoods[NONE]
        return [mean(column) for column in found.T]

    def to_json(self) -> Any:
        """All figures as JSON values."""
        return json_ready(
            {
                "block": self.protocol.block,
                "tokens_per_step": self.protocol.tokens_per_step,
                "ratios": self.protocol.ratios,
                "windows": len(self.changed[NONE]),
                "caches": {
                    cache: {
                        "tokens_changed": mean(self.changed[cache]),
                        "log_likelihood": self.level(cache),
                        "log_likelihood_change": self.difference(cache),
                        "denoiser_seconds": self.seconds[cache],
                    }
                    for cache in self.changed
                },
            }
        )


@torch.no_grad()
def measure_caches(
    model: Decodable,
    windows: Tensor,
    protocol: CacheProtocol,
    *,
    progress: Progress | None = None,
) -> CacheResult:
    """Generates with every cache from the same seeds, and takes the likelihood of true tokens.

    The last block's likelihood is that of some of its tokens given the others, by what a cache
    recorded when the block was still all masks: as in the middle of decoding it. The masks of later
    blocks are in sight (`lookahead`).

    Args:
        model: With a denoiser that has caches.
        windows: (N, L) ids: a prompt and `num_blocks` blocks.
        protocol: What is measured.
        progress: Called with the batches done and all there are.

    Raises:
        DecodingError: If the denoiser has no caches.
        EvaluationError: If windows and blocks do not fit.
    """
    check_cache("prefix", model)
    _check(model, windows, protocol)
    changed: dict[str, list[Tensor]] = {cache: [] for cache in CACHES}
    likely: dict[str, list[Tensor]] = {cache: [] for cache in CACHES}
    seconds = dict.fromkeys(CACHES, 0.0)
    batches = windows.split(protocol.batch_size)
    for number, batch in enumerate(reported(batches, progress), 1):
        exact, seed = None, protocol.seed + number
        for cache in CACHES:
            found = _generated(model, batch, cache, protocol, seed)
            seconds[cache] += found.denoiser_seconds
            drawn = found.completions
            exact = drawn if exact is None else exact
            changed[cache].append((drawn != exact).double().mean(dim=1).cpu())
            likely[cache].append(_likelihoods(model, batch, cache, protocol, seed))
    return CacheResult(
        protocol,
        {cache: torch.cat(parts) for cache, parts in changed.items()},
        {cache: torch.cat(parts) for cache, parts in likely.items()},
        seconds,
    )


def _generated(
    model: Decodable, windows: Tensor, cache: str, protocol: CacheProtocol, seed: int
) -> Generation:
    new = protocol.block * protocol.num_blocks
    return generate(
        model,
        list(windows[:, :-new]),
        new,
        tokens_per_step=protocol.tokens_per_step,
        block_length=protocol.block,
        cache=cache,
        lookahead=True,
        seed=seed,
    )


def _likelihoods(
    model: Decodable, windows: Tensor, cache: str, protocol: CacheProtocol, seed: int
) -> Tensor:
    """(B, R) nats per masked token of the last block, at each ratio."""
    batch, length = windows.shape
    block, calls = protocol.block, DenoiserCalls(model, cache)
    rows = torch.arange(batch, device=windows.device)
    for later in range(protocol.num_blocks - 1, -1, -1):  # each block begins with masks alone
        end = length - later * block
        tokens = windows[:, :end].clone()
        tokens[:, -block:] = model.mask_id
        calls(View(rows, tokens, None, block, first=0, ahead=later * block, begins=True))
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, block, generator=generator).argsort(dim=1).to(windows.device)
    start = torch.full_like(rows, length - model.window)
    columns = []
    for ratio in protocol.ratios:
        count = max(1, round(ratio * block))
        tokens = windows.scatter(1, order[:, :count] + length - block, model.mask_id)
        output = calls(View(rows, tokens, None, block, first=0, ahead=0, begins=False))
        joint = model.distribution(output, tokens, start)
        columns.append(joint.log_prob(windows[:, -model.window :]).double() / count)
    return torch.stack(columns, dim=1).cpu()


def _check(model: Decodable, windows: Tensor, protocol: CacheProtocol) -> None:
    new = protocol.block * protocol.num_blocks
    if windows.dim() != 2 or not len(windows) or windows.shape[1] > model.max_length:
        raise EvaluationError(
            f"windows: expected (N, at most {model.max_length}), found {tuple(windows.shape)}"
        )
    if not 1 <= protocol.block <= model.window or windows.shape[1] < max(new + 1, model.window):
        raise EvaluationError(
            f"block: expected {protocol.num_blocks} blocks of at most {model.window} tokens and a "
            f"prompt in windows of {windows.shape[1]}, found blocks of {protocol.block}"
        )
