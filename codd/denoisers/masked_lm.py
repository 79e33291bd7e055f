"""Any masked language model of transformers (BERT, RoBERTa, ModernBERT, ...) as a denoiser.

Position i of such a network predicts token i, so it fits as it is. The mask is one of its ids.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from codd.denoisers.base import DenoiserModule, DenoiserOutput, LoadOptions
from codd.denoisers.folders import NetworkFolder
from codd.denoisers.quantization import quantize_linear
from codd.errors import CheckpointError, DenoiserError
from codd.vocabulary import Vocabulary


class MaskedLMDenoiser(DenoiserModule):
    """A module of transformers' `AutoModelForMaskedLM`.

    Args:
        network: The module.
        mask_id: The id of its mask token.
        end_ids: Ids that end a text.
        vocabulary: Its tokenizer.
    """

    kind = "masked-lm"

    def __init__(
        self,
        network: Any,
        *,
        mask_id: int,
        end_ids: tuple[int, ...] = (),
        vocabulary: Vocabulary | None = None,
    ) -> None:
        reserved = _reserved_positions(network)
        super().__init__(
            num_categories=int(network.config.vocab_size),
            mask_id=mask_id,
            hidden_size=int(network.config.hidden_size),
            max_length=int(network.config.max_position_embeddings) - reserved,
            end_ids=end_ids,
            vocabulary=vocabulary,
        )
        self.network = network
        self._first_position = reserved
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """Predicts all tokens of a batch; see `Denoiser`.

        Raises:
            DenoiserError: If shapes, types or ids are wrong.
        """
        self.check_tokens(tokens, attention_mask)
        more: dict[str, Any] = {}
        if attention_mask is not None:
            more["attention_mask"] = attention_mask.long()
            if self._takes_positions:  # padding takes no position, on whichever side it is
                positions = attention_mask.long().cumsum(dim=1).sub(1).clamp(min=0)
                more["position_ids"] = positions + self._first_position
        elif self._first_position:
            # Such networks would number positions by where the padding id stands among the tokens.
            positions = tokens.new_ones(tokens.shape).cumsum(dim=1) - 1
            more["position_ids"] = positions + self._first_position
        found = self.network(input_ids=tokens, output_hidden_states=True, return_dict=True, **more)
        expected = (*tokens.shape, self.num_categories)
        if found.logits.shape != expected:
            raise DenoiserError(
                f"{type(self.network).__name__}: expected logits of shape {expected}, found "
                f"{tuple(found.logits.shape)}"
            )
        return self.finish(found.logits, found.hidden_states[-1])


def reads(config: dict[str, Any]) -> bool:
    """Whether a config.json is of a masked language model."""
    names = config.get("architectures") or []
    return any(str(name).endswith("ForMaskedLM") for name in names)


def read(folder: NetworkFolder, options: LoadOptions) -> MaskedLMDenoiser:
    """Loads a masked language model of transformers; needs that package (extra `hub`).

    Raises:
        CheckpointError: If transformers is missing, does not know the network, or finds no
            safetensors or mask token.
    """
    try:
        from transformers import AutoModelForMaskedLM, AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            "masked language model: expected the package 'transformers', found none; install the "
            "extra `hub`"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
        network = AutoModelForMaskedLM.from_pretrained(
            folder.path,
            dtype=options.dtype or "auto",
            use_safetensors=True,
            device_map=options.device_map,  # for all but None transformers wants accelerate
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"{folder.name}: not read by transformers: {error}") from error
    if tokenizer.mask_token_id is None:
        raise CheckpointError(f"{folder.name}: expected a tokenizer with a mask token, found none")
    if options.quantization is not None:
        where = {name: weight.device for name, weight in network.named_parameters()}
        quantize_linear(network, options.quantization, lambda name: where[name])
    ends = [tokenizer.eos_token_id, tokenizer.sep_token_id]
    return MaskedLMDenoiser(
        network,
        mask_id=int(tokenizer.mask_token_id),
        end_ids=tuple(dict.fromkeys(int(each) for each in ends if each is not None)),
    )


def _reserved_positions(network: Any) -> int:
    """Positions at the start of the table that no token has: padding's and below, as in RoBERTa."""
    base = getattr(network, str(getattr(network, "base_model_prefix", "")), None)
    padding = getattr(getattr(base, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
