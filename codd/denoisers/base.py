"""What codd asks of a denoiser: tokens in, logits and hidden states out, at the same positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from codd.denoisers.lora import without_lora
from codd.denoisers.placement import DeviceMap
from codd.errors import ConfigError, DenoiserError
from codd.vocabulary import Vocabulary


@dataclass(frozen=True)
class DenoiserOutput:
    """What one call of a denoiser returns.

    Attributes:
        logits: (B, L, V) unnormalised log-probabilities; row i is about token i. A mask that is
            one of the V ids has the logit -inf.
        hidden: (B, L, D) states the logits were read from, at the same alignment.

    Examples:
        >>> shape = codd.TransformerConfig(num_categories=10, max_length=8, width=16, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape)
        >>> output = denoiser(torch.tensor([[3, 10, 10, 7]]))  # 10 is the mask
        >>> output.logits.shape, output.hidden.shape
        (torch.Size([1, 4, 10]), torch.Size([1, 4, 16]))
    """

    logits: Tensor
    hidden: Tensor

    def take(self, rows: Tensor) -> DenoiserOutput:
        """What was said of rows (b,), each once and in ascending order."""
        if len(rows) == len(self.logits):
            return self  # logits of a large vocabulary are not copied for nothing
        return replace(self, logits=self.logits[rows], hidden=self.hidden[rows])


@runtime_checkable
class Denoiser(Protocol):
    """A network that sees a partly masked sequence and predicts every token at once.

    Examples:
        Any module of this form can be coupled; `codd.denoisers.wrapped.wrap` makes one of yours.

        >>> shape = codd.TransformerConfig(num_categories=10, max_length=8, width=16, num_heads=2)
        >>> denoiser: codd.Denoiser = codd.TransformerDenoiser(shape)
        >>> denoiser.num_categories, denoiser.mask_id, denoiser.hidden_size, denoiser.max_length
        (10, 10, 16, 8)
    """

    @property
    def num_categories(self) -> int:
        """V, the number of ids that are predicted: 0 .. V - 1."""

    @property
    def mask_id(self) -> int:
        """The id that stands for a hidden token: V, or an id below V whose logit is -inf."""

    @property
    def hidden_size(self) -> int:
        """D, the width of the hidden states."""

    @property
    def max_length(self) -> int:
        """The longest sequence the denoiser takes."""

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """Predicts all tokens of a batch.

        Args:
            tokens: (B, L) int64 ids, `mask_id` where hidden.
            attention_mask: (B, L) bool, False at padding; None when there is no padding.
        """


@dataclass(frozen=True)
class Origin:
    """Where a published denoiser was read from, so that it need not be stored again.

    Attributes:
        kind: Its family, a name in `codd.denoisers.registry.PUBLISHED`.
        name: A folder or an id on the Hugging Face hub.
        revision: The commit on the hub, or None for a folder.
        fingerprint: SHA-256 of its configuration and of the list of its tensors.
    """

    kind: str
    name: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True)
class LoadOptions:
    """How the weights of a published network are laid out in memory.

    Attributes:
        dtype: Of the weights; None for that of the files.
        device_map: Where they lie; see `codd.denoisers.placement.placement`.
        quantization: "8bit" or "4bit" for the blocks' linear layers, or None.
    """

    dtype: torch.dtype | None = None
    device_map: DeviceMap = None
    quantization: str | None = None


AS_STORED = LoadOptions()


class DenoiserModule(nn.Module):
    """A `Denoiser` that is a module: what every adapter of this package offers.

    Attributes:
        kind: Its name in `codd.denoisers.registry.OWN`, if it is stored whole.
        num_categories: V.
        mask_id: The id of a hidden token, at most V.
        hidden_size: D.
        max_length: Longest sequence, in tokens.
        end_ids: Ids that end a text, the most usual first; may be empty.
        vocabulary: Text to ids, or None if none came with the network.
    """

    kind: str = ""

    def __init__(
        self,
        *,
        num_categories: int,
        mask_id: int,
        hidden_size: int,
        max_length: int,
        end_ids: tuple[int, ...] = (),
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Checks what the network says of itself.

        Raises:
            ConfigError: If a number is impossible.
        """
        super().__init__()
        sizes = {
            "num_categories": num_categories,
            "hidden_size": hidden_size,
            "max_length": max_length,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name}: expected at least 1, found {size}")
        for name, id_ in (("mask_id", mask_id), *(("end_ids", each) for each in end_ids)):
            if not 0 <= id_ <= num_categories:
                raise ConfigError(f"{name}: expected 0 to {num_categories}, found {id_}")
        self.num_categories = num_categories
        self.mask_id = mask_id
        self.hidden_size = hidden_size
        self.max_length = max_length
        self.end_ids = end_ids
        self.vocabulary = vocabulary
        self._origin: Origin | None = None
        self._read_weights: dict[str, int] = {}

    @property
    def origin(self) -> Origin | None:
        """Where it is published, or None if its weights exist only here."""
        return self._origin if self._origin and self._weights() == self._read_weights else None

    def set_origin(self, origin: Origin) -> None:
        """Says that the weights are those published there; true until one of them is changed."""
        self._origin, self._read_weights = origin, self._weights()

    def _weights(self) -> dict[str, int]:
        """Name of each weight -> how often it was written to; adapters are stored beside them."""
        weights = without_lora(self.named_parameters())
        return {name: weight._version for name, weight in weights.items()}

    def finish(self, logits: Tensor, hidden: Tensor) -> DenoiserOutput:
        """The output, at least float32, with a mask inside the vocabulary ruled out.

        Args:
            logits: (B, L, V).
            hidden: (B, L, D).
        """
        precise = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.to(precise)
        if self.mask_id < self.num_categories:
            column = torch.full((), self.mask_id, device=logits.device)
            logits = logits.index_fill(-1, column, -torch.inf)
        return DenoiserOutput(logits=logits, hidden=hidden.to(precise))

    def check_tokens(self, tokens: Tensor, attention_mask: Tensor | None) -> None:
        """Checks what a call was given; ids only on the CPU, where looking at them costs nothing.

        Raises:
            DenoiserError: If shapes, types or ids are wrong.
        """
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise DenoiserError(
                f"tokens: expected int64 of shape (B, L), found {tokens.dtype} of shape "
                f"{tuple(tokens.shape)}"
            )
        if not 1 <= tokens.shape[1] <= self.max_length:
            raise DenoiserError(
                f"tokens: expected 1 to {self.max_length} positions, found {tokens.shape[1]}"
            )
        if tokens.device.type == "cpu" and tokens.numel():
            self._check_ids(tokens)
        if attention_mask is not None and (
            attention_mask.shape != tokens.shape or attention_mask.dtype != torch.bool
        ):
            raise DenoiserError(
                f"attention_mask: expected bool of shape {tuple(tokens.shape)}, found "
                f"{attention_mask.dtype} of shape {tuple(attention_mask.shape)}"
            )

    def _check_ids(self, tokens: Tensor) -> None:
        low, high = (int(v) for v in torch.aminmax(tokens))
        last = max(self.mask_id, self.num_categories - 1)
        if low < 0 or high > last:
            which = "the last" if self.mask_id == last else self.mask_id
            raise DenoiserError(
                f"tokens: expected ids in [0, {last}] ({which} is the mask), found {low} to {high}"
            )
