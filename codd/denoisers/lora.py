"""Low-rank adaptation of a denoiser's weight matrices (Hu et al. 2021, arXiv 2106.09685).

The library `peft` puts the adapters in (extra `train`). The weights themselves stay as they are, so
a published denoiser remains one that is stored by reference, with its adapters beside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codd.errors import CheckpointError, ConfigError

_NAME = "codd"  # of the adapter, as peft keeps several apart
_PARTS = ("lora_A", "lora_B")
_IN_A_BLOCK = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class LoraSettings:
    """Which matrices are adapted and how.

    Attributes:
        rank: Rank r of each change.
        alpha: The change is multiplied by alpha / r; None for 2 r.
        targets: Ends of the matrices' names, such as "q_proj"; empty for all linear layers of the
            network's blocks.

    Examples:
        >>> settings = codd.LoraSettings(rank=4, targets=("q_proj", "v_proj"))
        >>> settings.to_json()
        {'rank': 4, 'alpha': None, 'targets': ['q_proj', 'v_proj']}
    """

    rank: int = 8
    alpha: int | None = None
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1:
            raise ConfigError(f"rank: expected at least 1, found {self.rank}")
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(f"alpha: expected a positive number, found {self.alpha}")

    def to_json(self) -> dict[str, Any]:
        """The fields; `LoraSettings(**fields)` reads them."""
        return {**asdict(self), "targets": list(self.targets)}


def add_lora(denoiser: nn.Module, settings: LoraSettings, *, seed: int = 0) -> None:
    """Puts adapters into a denoiser, in place; they change nothing until they are trained.

    Everything else of it is frozen.

    Args:
        denoiser: Any module with linear layers.
        settings: Which and how.
        seed: Seed of the adapters' first weights.

    Raises:
        ConfigError: If `peft` is missing, there are adapters already, or no layer fits.

    Examples:
        Needs the extra `train`:

        >>> shape = codd.TransformerConfig(num_categories=10, max_length=8, width=16, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape)
        >>> before = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
        >>> codd.add_lora(denoiser, codd.LoraSettings(rank=2))
        >>> after = sum(p.numel() for p in denoiser.parameters() if p.requires_grad)
        >>> after < before / 5
        True
    """
    if lora_of(denoiser) is not None:
        raise ConfigError("denoiser: expected one without adapters, found some")
    targets = _targets(denoiser, settings)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "LoRA: expected the package 'peft', found none; install the extra `train`"
        ) from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank if settings.alpha is None else settings.alpha,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):  # peft draws weights from the global generator
        torch.manual_seed(seed)
        inject_adapter_in_model(config, denoiser, adapter_name=_NAME)
    denoiser.requires_grad_(False)
    for parameter in lora_parameters(denoiser).values():
        parameter.requires_grad_(True)
    _set_settings(denoiser, settings)


def lora_of(denoiser: nn.Module) -> LoraSettings | None:
    """The settings of a denoiser's adapters; None without any."""
    found = getattr(denoiser, "lora_settings", None)
    return found if isinstance(found, LoraSettings) else None


def lora_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of the adapters; the names do not say how peft calls them."""
    return {
        _stored_name(name): parameter
        for name, parameter in denoiser.named_parameters()
        if _is_adapter(name)
    }


def without_lora(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """A denoiser's named tensors by the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): tensor for name, tensor in state if not _is_adapter(name)
    }


@torch.no_grad()
def load_lora(denoiser: nn.Module, settings: LoraSettings, tensors: Mapping[str, Tensor]) -> None:
    """Puts stored adapters into a denoiser.

    Args:
        denoiser: The one that they were made for.
        settings: Their settings.
        tensors: What `lora_parameters` gave.

    Raises:
        CheckpointError: If they do not fit it.
    """
    add_lora(denoiser, settings)
    own = lora_parameters(denoiser)
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != found:
        name = min(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n))
        raise CheckpointError(
            f"adapter {name!r}: the denoiser expects the shape {shapes.get(name)}, found "
            f"{found.get(name)}"
        )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])
    denoiser.requires_grad_(False)


@torch.no_grad()
def merge_lora(denoiser: nn.Module) -> None:
    """Adds the adapters' changes to the weights and takes the adapters out, in place.

    A denoiser that was published is then one of its own: it can no longer be stored by reference.

    Args:
        denoiser: A module with adapters, as `add_lora` puts them in.

    Raises:
        ConfigError: If there are none, or a weight has fewer bits than can be added to.

    Examples:
        >>> shape = codd.TransformerConfig(num_categories=10, max_length=8, width=16, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape).eval()
        >>> tokens = torch.tensor([[3, 10, 10, 7]])
        >>> before = denoiser(tokens).logits
        >>> codd.add_lora(denoiser, codd.LoraSettings(rank=2))
        >>> codd.merge_lora(denoiser)
        >>> torch.allclose(denoiser(tokens).logits, before)  # untrained adapters change nothing
        True
    """
    if lora_of(denoiser) is None:
        raise ConfigError("denoiser: expected one with adapters, found none")
    for parent, name, layer in list(_adapted(denoiser)):
        base = layer.get_base_layer()
        if type(base) is not nn.Linear:
            raise ConfigError(f"{name}: expected a plain linear layer, found {type(base).__name__}")
        base.weight.add_(layer.get_delta_weight(_NAME).to(base.weight.dtype))
        setattr(parent, name, base)
    _set_settings(denoiser, None)


def _set_settings(denoiser: Any, settings: LoraSettings | None) -> None:
    denoiser.lora_settings = settings


def _adapted(denoiser: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name in it, layer) of every adapted layer."""
    from peft.tuners.lora import LoraLayer

    for parent in denoiser.modules():
        for name, child in parent.named_children():
            if isinstance(child, LoraLayer):
                yield parent, name, child


def _targets(denoiser: nn.Module, settings: LoraSettings) -> list[str]:
    # Layers of the libraries for 8 and 4 bits are linear layers too.
    linear = [n for n, module in denoiser.named_modules() if isinstance(module, nn.Linear)]
    if settings.targets:
        ends = settings.targets
        found = [n for n in linear if any(n == e or n.endswith(f".{e}") for e in ends)]
    else:
        found = [n for n in linear if _IN_A_BLOCK.search(n)]
    if not found:
        some = ", ".join(linear[:8]) or "none"
        raise ConfigError(
            f"LoRA: expected linear layers {list(settings.targets) or 'in blocks'}, found {some}"
        )
    return found


def _is_adapter(name: str) -> bool:
    return any(f".{part}.{_NAME}." in name for part in _PARTS)


def _stored_name(name: str) -> str:
    return name.replace(f".{_NAME}.", ".")
