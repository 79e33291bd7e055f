"""What the measurements of generated text share: ways to decode, and prompts continued by them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.decoding.base import Decodable
from codd.decoding.loop import Generation, generate
from codd.errors import EvaluationError

Key = TypeVar("Key")
Progress = Callable[[int, int], None]
"""What is done, and all there is -> shown."""


@dataclass(frozen=True)
class FewStepVariant:
    """A way to decode.

    Attributes:
        model: The denoiser and its coupling.
        coupling: A coupling's name or its settings; None for the model's own.
        sampler: "exact", "latent" or "any_order".
        temperature: At least 0; 1 with sampler "exact".
        top_p: Nucleus of each conditional; sampler "any_order" only.
        mask_ratio_limit: Couples only below this share of masked tokens; None always.
    """

    model: Decodable
    coupling: str | CouplingSettings | None = None
    sampler: str = "exact"
    temperature: float = 1.0
    top_p: float | None = None
    mask_ratio_limit: float | None = None


def prompts_and_truth(windows: Tensor, block: int, *, least: int) -> tuple[Tensor, Tensor]:
    """Windows in two: what is continued, and how it goes on in truth.

    Args:
        windows: (N, P + block).
        block: Tokens that are generated.
        least: Windows N that a measurement needs.

    Raises:
        EvaluationError: If they are too few or too short.
    """
    if windows.dim() != 2 or len(windows) < least or windows.shape[1] < block:
        many = "N" if least == 1 else f"at least {least}"
        raise EvaluationError(
            f"windows: expected ({many}, at least {block}), found {tuple(windows.shape)}"
        )
    prompts, truth = windows.split((windows.shape[1] - block, block), dim=1)
    return prompts, truth


def check_labels(what: str, given: Collection[str], needed: Sequence[str]) -> None:
    """Checks that what others are compared with is there.

    Args:
        what: What the labels are of.
        given: The labels.
        needed: Those that have to be among them.

    Raises:
        EvaluationError: If one is missing.
    """
    missing = [label for label in needed if label not in given]
    if missing:
        raise EvaluationError(
            f"{what}: expected {missing[0]!r} among them, found {', '.join(given)}"
        )


def reported(items: Sequence[Key], progress: Progress | None) -> Iterator[Key]:
    """The items one by one, each told of when it is done with.

    Args:
        items: What is measured.
        progress: Called with the items done and in all.
    """
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress(done, len(items))


def continue_prompts(
    variant: FewStepVariant,
    prompts: Tensor,
    block: int,
    *,
    batch_size: int,
    seed: int,
    **pace: Any,
) -> list[Generation]:
    """Continues prompts by one block, batch after batch.

    Args:
        variant: How to decode.
        prompts: (N, P) int64.
        block: Tokens to generate.
        batch_size: Prompts decoded at once.
        seed: Of the first batch; each has its own.
        **pace: Arguments of `generate` that say how fast and in which order.
    """
    return [
        continue_batch(variant, batch.unbind(), block, seed=seed + i, **pace)
        for i, batch in enumerate(prompts.split(batch_size))
    ]


def continue_batch(
    variant: FewStepVariant, prompts: Sequence[Tensor], block: int, *, seed: int, **pace: Any
) -> Generation:
    """Continues some prompts by one block, all at once.

    Args:
        variant: How to decode.
        prompts: (P,) int64 each.
        block: Tokens to generate.
        seed: Of the draws.
        **pace: Arguments of `generate` that say how fast and in which order.
    """
    return generate(
        variant.model,
        prompts,
        block,
        block_length=block,
        sampler=variant.sampler,
        temperature=variant.temperature,
        top_p=variant.top_p,
        coupling=variant.coupling,
        mask_ratio_limit=variant.mask_ratio_limit,
        seed=seed,
        **pace,
    )
