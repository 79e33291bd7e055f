"""Dream's `diffusion_generate` (Ye et al. 2025, arXiv 2508.15487) on models of this package.

    from codd.compat.dream import diffusion_generate

takes the arguments of the method of that name after the model, and returns what it returns. A
coupled model draws the tokens of a step together, by windows; with `coupling="factorised"`, or a
denoiser alone, it is the published procedure. One thing differs: where tokens are drawn
(`temperature` above 0), "maskgit_plus" ranks positions by their likeliest token and not by the one
that was drawn.

Examples:
    >>> from codd.compat import dream
    >>> demo = codd.CoupledModel.from_pretrained("demo")
    >>> prompt = demo.vocabulary.encode("Return ")[None]
    >>> dream.diffusion_generate(demo, prompt, max_new_tokens=4, steps=1, seed=0).shape
    torch.Size([1, 11])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codd.compat.arguments import decodable, read_mask, seed_of
from codd.coupling.couplings import CouplingSettings
from codd.decoding.base import Decodable
from codd.decoding.samplers import SamplingRule, latent
from codd.decoding.selection import CONFIDENCES, select
from codd.decoding.windows import minimum_cover
from codd.denoisers.base import DenoiserOutput
from codd.errors import DecodingError

TokensHook = Callable[[int | None, Tensor, Tensor | None], Tensor]
LogitsHook = Callable[[int, Tensor, Tensor], Tensor]

_ORIGIN = "origin"
_CONFIDENCES = {"maskgit_plus": "low_confidence", "topk_margin": "margin", "entropy": "entropy"}

__all__ = ["DreamOutput", "diffusion_generate"]


@dataclass(frozen=True, eq=False)
class DreamOutput:
    """What `diffusion_generate` returns on request.

    Attributes:
        sequences: (B, P + N) the inputs and what was generated.
        history: The sequences (B, P + N) after each step, if asked for.

    Examples:
        >>> from codd.compat.dream import diffusion_generate
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> prompt = demo.vocabulary.encode("Return the ")[None]
        >>> told = {"return_dict_in_generate": True, "output_history": True}
        >>> found = diffusion_generate(demo, prompt, max_new_tokens=8, steps=2, seed=0, **told)
        >>> found.sequences.shape, len(found.history)
        (torch.Size([1, 19]), 2)
    """

    sequences: Tensor
    history: tuple[Tensor, ...] | None = None


@torch.no_grad()
def diffusion_generate(
    model: Any,
    inputs: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    steps: int = 512,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    alg: str = "origin",
    alg_temp: float | None = None,
    eps: float = 1e-3,
    output_history: bool = False,
    return_dict_in_generate: bool = False,
    generation_tokens_hook_func: TokensHook = lambda step, tokens, logits: tokens,
    generation_logits_hook_func: LogitsHook = lambda step, tokens, logits: logits,
    coupling: str | CouplingSettings | None = None,
    seed: int | None = None,
) -> Tensor | DreamOutput:
    """Fixes masked tokens anywhere, over timesteps that fall evenly from 1 to `eps`.

    Args:
        model: A `CoupledModel`, or a denoiser.
        inputs: (B, P) int64 ids, padded on the left; masked ones are filled too.
        attention_mask: (B, P), zero at padding; None without any.
        max_new_tokens: N, tokens to generate.
        steps: Denoiser calls. From time t to s the share 1 - s / t of what is masked is fixed,
            rounded down, and all that is left at the last.
        temperature: Divides log-probabilities; 0 takes the likeliest token.
        top_p: Tokens outside this nucleus are ruled out.
        top_k: Tokens that are not among so many likeliest are ruled out.
        alg: Which positions come first: "origin" each with the same chance, "maskgit_plus",
            "topk_margin" or "entropy".
        alg_temp: Draws positions, with log-chances of score / alg_temp; None takes the best.
        eps: The last timestep.
        output_history: Keeps the sequences after each step.
        return_dict_in_generate: Returns a `DreamOutput`.
        generation_tokens_hook_func: Called with (step, sequences, logits), before the first step
            with (None, sequences, None); what it returns goes on.
        generation_logits_hook_func: The same for the logits of a step.
        coupling: Of a coupled model; None for its own, "factorised" for none.
        seed: Of everything random; None takes it from torch's global generator.

    Returns:
        (B, P + N) the sequences, or a `DreamOutput`.

    Raises:
        DecodingError: If an argument is impossible.

    Examples:
        >>> from codd.compat.dream import diffusion_generate
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> prompt = demo.vocabulary.encode("Return the ")[None]  # (1, 11)
        >>> diffusion_generate(demo, prompt, max_new_tokens=8, steps=2, seed=0).shape
        torch.Size([1, 19])
    """
    _check(max_new_tokens, steps, temperature, top_p, top_k, alg, alg_temp, eps)
    length = inputs.shape[1] + max_new_tokens
    if length > int(model.max_length):
        raise DecodingError(
            f"inputs, max_new_tokens: expected at most {model.max_length} tokens in all, found "
            f"{length}"
        )
    own = decodable(model, coupling, length)
    valid = F.pad(read_mask(inputs, attention_mask), (0, max_new_tokens), value=True)
    generator = torch.Generator(inputs.device).manual_seed(seed_of(seed))
    order = _Order(alg, alg_temp, generator)
    sampling = _Sampling(own, coupling, temperature, top_p, top_k, generator)
    tokens = F.pad(inputs, (0, max_new_tokens), value=own.mask_id)
    tokens = generation_tokens_hook_func(None, tokens, None)
    history = []
    for step, share in enumerate(_shares(steps, eps)):
        seen = tokens.masked_fill(~valid, own.mask_id)
        output = own.denoise(seen, None if bool(valid.all()) else valid)
        logits = generation_logits_hook_func(step, tokens, output.logits)
        logits = sampling.cut(logits)
        masked = (seen == own.mask_id) & valid
        chosen = order.choose(logits, temperature, masked, share)
        drawn = sampling.draw(replace(output, logits=logits), seen, valid, chosen)
        tokens = torch.where(chosen, drawn, tokens)
        tokens = generation_tokens_hook_func(step, tokens, logits)
        if output_history:
            history.append(tokens.clone())
    if not return_dict_in_generate:
        return tokens
    return DreamOutput(tokens, tuple(history) if output_history else None)


@dataclass(frozen=True)
class _Order:
    """Which positions a step fixes."""

    alg: str
    temperature: float | None
    generator: torch.Generator

    def choose(self, logits: Tensor, temperature: float, masked: Tensor, share: float) -> Tensor:
        """(B, L) bool, about this share of what is masked."""
        if self.alg == _ORIGIN:
            return masked & (self._uniform(masked) < share)
        sharp = logits / temperature if temperature > 0 else logits
        scores = CONFIDENCES[_CONFIDENCES[self.alg]](sharp.softmax(-1))
        if self.temperature:
            # The best of scores with Gumbel noise are draws without replacement from their softmax.
            noise = -(-self._uniform(masked).clamp_min(1e-20).log()).log()
            scores = scores / self.temperature + noise
        return select(scores, masked, (masked.sum(1).float() * share).long())

    def _uniform(self, like: Tensor) -> Tensor:
        return torch.rand(
            like.shape, generator=self.generator, device=like.device, dtype=torch.float64
        )


@dataclass(frozen=True)
class _Sampling:
    """How the tokens of a step are drawn."""

    model: Decodable
    coupling: str | CouplingSettings | None
    temperature: float
    top_p: float | None
    top_k: int | None
    generator: torch.Generator

    def cut(self, logits: Tensor) -> Tensor:
        """Logits (B, L, V) with -inf for the tokens outside nucleus and number."""
        if self.top_p is not None and self.top_p < 1:
            sharp = logits / self.temperature if self.temperature > 0 else logits
            ordered, order = sharp.sort(dim=-1, descending=True)
            share = ordered.softmax(-1)
            before = share.cumsum(-1) - share
            outside = torch.zeros_like(before, dtype=torch.bool)
            outside = outside.scatter(-1, order, before > self.top_p)
            logits = logits.masked_fill(outside, -torch.inf)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k, dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        return logits

    def draw(self, output: DenoiserOutput, tokens: Tensor, valid: Tensor, chosen: Tensor) -> Tensor:
        """The tokens (B, L) with the chosen ones drawn, window by window."""
        extra = max(0, self.model.window - tokens.shape[1])
        if extra:  # a short sequence is padded to a window
            wide = DenoiserOutput(
                F.pad(output.logits, (0, 0, extra, 0)), F.pad(output.hidden, (0, 0, extra, 0))
            )
            tokens = F.pad(tokens, (extra, 0), value=self.model.mask_id)
            valid, chosen = (F.pad(part, (extra, 0)) for part in (valid, chosen))
            return self.draw(wide, tokens, valid, chosen)[:, extra:]
        rule = SamplingRule(temperature=self.temperature)
        for window in minimum_cover(chosen, self.model.window):
            joint = self.model.distribution(
                output,
                tokens,
                window.start,
                coupling=self.coupling,
                valid=None if bool(valid.all()) else valid,
            )
            places = torch.arange(self.model.window, device=tokens.device)
            index = window.start[:, None] + places
            wanted = window.covered.gather(1, index)
            drawn = latent(joint, wanted, wanted.sum(1), rule, self.generator)
            inside = torch.where(drawn.chosen, drawn.tokens, tokens.gather(1, index))
            tokens = tokens.scatter(1, index, inside)
        return tokens


def _shares(steps: int, eps: float) -> Iterator[float]:
    """The share of what is masked that each step fixes."""
    times = torch.linspace(1, eps, steps + 1)
    yield from (1 - times[1:-1] / times[:-2]).tolist()
    yield 1.0


def _check(
    new_tokens: int,
    steps: int,
    temperature: float,
    top_p: float | None,
    top_k: int | None,
    alg: str,
    alg_temp: float | None,
    eps: float,
) -> None:
    known = (_ORIGIN, *_CONFIDENCES)
    checks = {
        f"max_new_tokens: expected at least 1, found {new_tokens}": new_tokens >= 1,
        f"steps: expected at least 1, found {steps}": steps >= 1,
        f"temperature: expected 0 or more, found {temperature}": 0 <= temperature < float("inf"),
        f"top_p: expected 0 < top_p <= 1, found {top_p}": top_p is None or 0 < top_p <= 1,
        f"top_k: expected at least 1, found {top_k}": top_k is None or top_k >= 1,
        f"alg: expected one of {known}, found {alg!r}": alg in known,
        f"alg_temp: expected 0 or more, found {alg_temp}": alg_temp is None or alg_temp >= 0,
        f"eps: expected 0 < eps < 1, found {eps}": 0 < eps < 1,
    }
    for message, holds in checks.items():
        if not holds:
            raise DecodingError(message)
