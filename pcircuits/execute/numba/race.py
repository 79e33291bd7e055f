"""Draws by a race: of all candidates the one whose logit plus Gumbel noise is the largest.

Noise is the negative logarithm of an exponential number, and that of a uniform one, so two
logarithms a candidate; but nearly all candidates are known to lose from the exponent of theirs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pcircuits.execute.numba.arithmetic import compiled

Array = np.ndarray

# Random numbers that are drawn at once: they stay in the cache.
_AT_ONCE = 1 << 17
_LN2 = math.log(2.0)


def winners(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Index of the last axis drawn in proportion to exp(logits / temperature).

    Of the generator it takes the numbers that PyTorch takes for exponential ones, in their order.

    Args:
        logits: (..., K), below +inf.
        temperature: Above 0.
        generator: Source of randomness.
    """
    width = logits.shape[-1]
    rows = np.ascontiguousarray(logits.numpy()).reshape(-1, width)
    found = np.empty(len(rows), np.int64)
    step = max(1, _AT_ONCE // width)
    for start in range(0, len(rows), step):
        own = rows[start : start + step]
        drawn = torch.rand(own.shape, generator=generator, dtype=torch.float64).numpy()
        _run(own, temperature, drawn, drawn.view(np.int64), found[start : start + step])
    return torch.from_numpy(found).view(logits.shape[:-1])


@compiled
def _run(logits: Array, temperature: float, drawn: Array, bits: Array, found: Array) -> None:
    kind = logits.dtype.type
    sharp, ln2 = kind(temperature), kind(_LN2)
    for r in range(len(logits)):
        best, place = kind(-np.inf), 0
        for k in range(logits.shape[1]):
            x = logits[r, k] / sharp
            # An exponential number -log(1 - u) is at least u, which is at least 2 ** exponent.
            exponent = (bits[r, k] >> 52) - 1023
            if x - kind(exponent) * ln2 > best:
                noise = kind(-math.log1p(-drawn[r, k]))
                score = x - kind(math.log(noise))
                if score > best:
                    best, place = score, k
        found[r] = place
