"""LLaDA's `generate` (Nie et al. 2025, arXiv 2502.09992) on models of this package.

    from codd.compat.llada import generate  # in place of `from generate import generate`

takes its arguments and returns what it returns. A coupled model draws the tokens of a step
together; with `coupling="factorised"`, or a denoiser alone, it is the published procedure. One
thing differs: where tokens are drawn (`temperature` above 0), positions are ranked by their
likeliest token and not by the one that was drawn.

Examples:
    >>> from codd.compat import llada
    >>> demo = codd.CoupledModel.from_pretrained("demo")
    >>> prompt = demo.vocabulary.encode("Return ")[None]
    >>> llada.generate(demo, prompt, steps=1, gen_length=4, block_length=4, seed=0).shape
    torch.Size([1, 11])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codd.compat.arguments import check_mask, decodable, read_mask, seed_of
from codd.coupling.couplings import CouplingSettings
from codd.coupling.settings import FACTORISED
from codd.decoding.loop import generate as decode
from codd.model import CoupledModel

__all__ = ["generate"]


@torch.no_grad()
def generate(
    model: Any,
    prompt: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int | None = None,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int | None = None,
    *,
    coupling: str | CouplingSettings | None = None,
    seed: int | None = None,
) -> Tensor:
    """Continues prompts block by block, with a fixed number of tokens at each step.

    Args:
        model: A `CoupledModel`, or a denoiser.
        prompt: (B, P) int64 ids, padded on the left.
        attention_mask: (B, P), zero at padding; None without any.
        steps: Denoiser calls in all; more than tokens are of no use.
        gen_length: N, tokens to generate.
        block_length: Tokens of a block; None for all of them, or for a coupled model's own.
        temperature: Divides log-probabilities; 0 takes the likeliest token.
        cfg_scale: Weight of classifier-free guidance.
        remasking: "low_confidence", "random", or another selection of `codd.generate`.
        mask_id: Checked against the model's.
        coupling: Of a coupled model; None for its own, "factorised" for none.
        seed: Of everything random; None takes it from torch's global generator.

    Returns:
        (B, P + N) the prompt and what was generated.

    Raises:
        DecodingError: If an argument is impossible.

    Examples:
        >>> from codd.compat.llada import generate
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> prompt = demo.vocabulary.encode("Return the ")[None]  # (1, 11)
        >>> generate(demo, prompt, steps=2, gen_length=8, block_length=8, seed=0).shape
        torch.Size([1, 19])
    """
    alone = coupling == FACTORISED or not isinstance(model, CoupledModel)
    block = block_length or (gen_length if alone else model.block)
    own = decodable(model, coupling, block)
    check_mask(own, mask_id)
    valid = read_mask(prompt, attention_mask)
    found = decode(
        own,
        [row[kept] for row, kept in zip(prompt, valid, strict=True)],
        gen_length,
        min(steps, gen_length),
        block_length=block,
        selection=remasking,
        sampler="latent",
        temperature=temperature,
        guidance=cfg_scale,
        coupling=coupling,
        lookahead=True,
        seed=seed_of(seed),
    )
    return torch.cat((prompt, found.completions), dim=1)
