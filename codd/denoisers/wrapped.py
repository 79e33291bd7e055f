"""A user's own module as a denoiser."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from codd.denoisers.attention import aligned
from codd.denoisers.base import DenoiserModule, DenoiserOutput
from codd.errors import DenoiserError
from codd.vocabulary import Vocabulary


class WrappedDenoiser(DenoiserModule):
    """A module that `wrap` took."""

    def __init__(self, module: nn.Module, *, shifted: bool, **described: Any) -> None:
        super().__init__(**described)
        self.module = module
        self.shifted = shifted

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """Predicts all tokens of a batch; see `Denoiser`.

        Raises:
            DenoiserError: If shapes, types or ids are wrong, or what the module returned is.
        """
        self.check_tokens(tokens, attention_mask)
        found = self.module(tokens, attention_mask)
        logits, hidden = found if isinstance(found, tuple) else (found, None)
        if hidden is None:
            hidden = logits.new_zeros(*tokens.shape, self.hidden_size)
        sizes = {"logits": self.num_categories, "hidden": self.hidden_size}
        for (name, size), tensor in zip(sizes.items(), (logits, hidden), strict=True):
            if tensor.shape != (*tokens.shape, size):
                raise DenoiserError(
                    f"{type(self.module).__name__}: expected {name} of shape "
                    f"{(*tokens.shape, size)}, found {tuple(tensor.shape)}"
                )
        if self.shifted:
            logits, hidden = (aligned(each, False, attention_mask) for each in (logits, hidden))
        return self.finish(logits, hidden)


def wrap(
    module: nn.Module,
    *,
    num_categories: int,
    mask_id: int,
    max_length: int,
    hidden_size: int = 1,
    shifted: bool = False,
    end_ids: tuple[int, ...] = (),
    vocabulary: Vocabulary | None = None,
) -> WrappedDenoiser:
    """Makes a denoiser of a module of your own; it stays yours to store.

    Args:
        module: Called with tokens (B, L) and attention_mask (B, L) bool or None. It returns logits
            (B, L, V), or these and hidden states (B, L, D), which modulators read.
        num_categories: V.
        mask_id: The id of a hidden token: V, or one below V, whose logit becomes -inf.
        max_length: Longest sequence, in tokens.
        hidden_size: D; 1 for a module without hidden states, which are then zero.
        shifted: Whether the output at position i - 1 is about token i.
        end_ids: Ids that end a text.
        vocabulary: Text to ids.

    Returns:
        A denoiser that calls the module.

    Raises:
        ConfigError: If a number is impossible.

    Examples:
        >>> from codd.denoisers import wrap
        >>> network = torch.nn.Sequential(torch.nn.Embedding(11, 8), torch.nn.Linear(8, 10))
        >>> class Mine(torch.nn.Module):
        ...     def forward(self, tokens, attention_mask=None):
        ...         return network(tokens)
        >>> denoiser = wrap(Mine(), num_categories=10, mask_id=10, max_length=32)
        >>> denoiser(torch.tensor([[3, 10, 10, 7]])).logits.shape
        torch.Size([1, 4, 10])
    """
    return WrappedDenoiser(
        module,
        shifted=shifted,
        num_categories=num_categories,
        mask_id=mask_id,
        max_length=max_length,
        hidden_size=hidden_size,
        end_ids=end_ids,
        vocabulary=vocabulary,
    )
