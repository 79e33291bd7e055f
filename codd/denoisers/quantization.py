"""Linear layers of 8 or 4 bits, by bitsandbytes.

See Dettmers et al. 2022 and 2023 (arXiv 2208.07339 and 2305.14314). Embeddings, norms and the
output head stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from codd.denoisers.placement import Place
from codd.errors import ConfigError

QUANTIZATIONS = ("8bit", "4bit")


def quantize_linear(network: nn.Module, quantization: str, place: Place) -> None:
    """Replaces the linear layers of a network's lists of blocks, one after the other.

    Args:
        network: Its weights are read already, on the CPU; they are quantised where they lie.
        quantization: A name in `QUANTIZATIONS`.
        place: The device of each parameter.

    Raises:
        ConfigError: If there is no such quantisation, or bitsandbytes is not installed.
    """
    library = require_quantization(quantization)
    for name, layer in list(network.named_modules()):
        inside = any(part.isdigit() for part in name.split("."))
        if inside and isinstance(layer, nn.Linear):
            owner, _, last = name.rpartition(".")
            device = place(f"{name}.weight")
            setattr(
                network.get_submodule(owner), last, _quantized(library, layer, quantization, device)
            )


def require_quantization(quantization: str) -> Any:
    """The library that quantises.

    Raises:
        ConfigError: If there is no such quantisation, or bitsandbytes is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigError(
            f"quantization: expected one of {', '.join(QUANTIZATIONS)}, found {quantization!r}"
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            "quantization: expected the package 'bitsandbytes', found none; install the extra "
            "`quantize`"
        ) from error
    return bitsandbytes


def _quantized(library: Any, layer: nn.Linear, quantization: str, device: torch.device) -> Any:
    made, weight = library.nn, layer.weight.data
    shape, bias = (layer.in_features, layer.out_features), layer.bias is not None
    if quantization == "8bit":
        new = made.Linear8bitLt(*shape, bias=bias, has_fp16_weights=False, device="meta")
        new.weight = made.Int8Params(weight.half(), requires_grad=False, has_fp16_weights=False)
    else:
        new = made.Linear4bit(
            *shape, bias=bias, compute_dtype=weight.dtype, quant_type="nf4", device="meta"
        )
        new.weight = made.Params4bit(weight, requires_grad=False, quant_type="nf4")
    new.bias = layer.bias
    return new.to(torch.device(device))
