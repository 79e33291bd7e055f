"""The denoisers by kind: which reader takes a folder, and how a denoiser is stored again.

A small network of this package is stored whole, as its configuration and its tensors. A published
one is stored as a reference: its name, the commit, and a fingerprint that is checked when it is
read again. So a coupled model need not copy billions of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codd.checkpoint import DESCRIPTION, has_checkpoint, load_checkpoint, save_checkpoint
from codd.denoisers import masked_lm, mdlm, native, published
from codd.denoisers.base import AS_STORED, DenoiserModule, LoadOptions, Origin
from codd.denoisers.folders import NetworkFolder, open_folder
from codd.denoisers.lora import (
    LoraSettings,
    load_lora,
    lora_of,
    lora_parameters,
    without_lora,
)
from codd.denoisers.mdlm import MDLMConfig, MDLMDenoiser
from codd.denoisers.placement import DeviceMap, single_device
from codd.denoisers.tokenizer import read_tokenizer, turn_ends
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, CoddError, ConfigError, reading

_CHECKPOINT_KIND = "denoiser"
_ADAPTERS = "lora:"  # before their names: no parameter's name has a colon


@dataclass(frozen=True)
class PublishedKind:
    """A family of published networks.

    Attributes:
        reads: Says by config.json whether a folder is of this kind.
        read: Loads it.
    """

    reads: Callable[[dict[str, Any]], bool]
    read: Callable[[NetworkFolder, LoadOptions], DenoiserModule]


@dataclass(frozen=True)
class OwnKind:
    """A network of this package, made from its configuration.

    Attributes:
        to_json: Its configuration.
        make: The network from it; its weights are loaded afterwards.
    """

    to_json: Callable[[Any], dict[str, Any]]
    make: Callable[[dict[str, Any]], DenoiserModule]


PUBLISHED: dict[str, PublishedKind] = {
    "llada": PublishedKind(published.reads_llada, published.read_llada),
    "dream": PublishedKind(published.reads_dream, published.read_dream),
    "mdlm": PublishedKind(mdlm.reads, mdlm.read),
    "masked-lm": PublishedKind(masked_lm.reads, masked_lm.read),
}
_LONGEST = 2**20  # tokens: tables of positions are made, not stored
OWN: dict[str, OwnKind] = {
    "native": OwnKind(native.config_to_json, native.make_native),
    "mdlm": OwnKind(
        lambda denoiser: asdict(denoiser.config),
        lambda config: MDLMDenoiser(MDLMConfig(**config)),
    ),
    "transformer": OwnKind(
        lambda denoiser: asdict(denoiser.config),
        lambda config: TransformerDenoiser(TransformerConfig(**config)),
    ),
}


@dataclass(frozen=True, eq=False)
class StoredDenoiser:
    """What brings a denoiser back.

    Attributes:
        description: JSON: its kind, and its configuration or where it is published.
        tensors: Its weights; none if it is stored as a reference.
    """

    description: dict[str, Any]
    tensors: dict[str, Tensor]


def load_denoiser(
    name: str | Path,
    *,
    kind: str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device_map: DeviceMap = None,
    quantization: str | None = None,
) -> DenoiserModule:
    """Reads a denoiser, in evaluation mode.

    Args:
        name: A folder that `save_denoiser` wrote, a folder with a published network's
            config.json and safetensors, or an id on the Hugging Face hub (extra `hub`).
        kind: A name in `PUBLISHED`; None to tell by the configuration.
        revision: Branch, tag or commit on the hub; None for the newest.
        dtype: Of the weights; None for that of the files.
        device_map: Where a published network lies: a device; "auto" for CUDA devices in turn, as
            long as they have room, then the CPU; or parts -> devices, such as {"": "cuda:0",
            "blocks.31": "cuda:1"}; None for the CPU.
        quantization: "8bit" or "4bit" for the linear layers of a published network's blocks, by
            bitsandbytes (extra `quantize`); None for none.

    Returns:
        The denoiser, its weights frozen.

    Raises:
        CheckpointError: If there is none, it is damaged, or no reader takes it.
        ConfigError: If an option is impossible.

    Examples:
        >>> from codd.denoisers import load_denoiser, save_denoiser
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> save_denoiser("mine", demo.denoiser)
        >>> again = load_denoiser("mine")
        >>> again.num_categories, again.mask_id
        (99, 99)
    """
    options = LoadOptions(dtype, device_map, quantization)
    if has_checkpoint(name):
        return _load_own(Path(name), options)
    folder = open_folder(name, revision)
    with reading(f"{folder.name}: config.json"):
        family = _kind_of(folder, kind)
        denoiser = PUBLISHED[family].read(folder, options)
    if denoiser.vocabulary is None:
        found = read_tokenizer(
            folder.path, num_categories=denoiser.num_categories, mask_id=denoiser.mask_id
        )
        denoiser.vocabulary = found
        ends = denoiser.end_ids + (() if found is None else turn_ends(found))
        denoiser.end_ids = tuple(dict.fromkeys(ends))
    denoiser.requires_grad_(False).set_origin(folder.origin(family))
    return denoiser.eval()


def save_denoiser(
    folder: str | Path, denoiser: nn.Module, *, record: Mapping[str, Any] | None = None
) -> None:
    """Writes a denoiser to a folder that `load_denoiser` reads.

    Args:
        folder: Made if missing.
        denoiser: What to store; see `store_denoiser`.
        record: JSON values about how it was made.

    Raises:
        ConfigError: If it is of no known kind.

    Examples:
        >>> from codd.denoisers import load_denoiser, save_denoiser
        >>> shape = codd.TransformerConfig(num_categories=5, width=8, num_layers=1, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape, seed=0).eval()
        >>> save_denoiser("small", denoiser)
        >>> tokens = torch.tensor([[0, 5, 5, 2]])  # two are masked
        >>> bool(torch.equal(load_denoiser("small")(tokens).logits, denoiser(tokens).logits))
        True
    """
    stored = store_denoiser(denoiser)
    metadata = {
        "kind": _CHECKPOINT_KIND,
        "denoiser": stored.description,
        "record": dict(record or {}),
    }
    save_checkpoint(folder, stored.tensors, metadata)


def store_denoiser(denoiser: nn.Module) -> StoredDenoiser:
    """Says what brings a denoiser back: a reference if it was published, else all of it.

    Raises:
        ConfigError: If it is of no known kind, or a published one whose weights were changed.
    """
    kind = str(getattr(denoiser, "kind", ""))
    origin = getattr(denoiser, "origin", None)
    adapters = store_adapters(denoiser)
    if origin is not None:
        description = {"kind": "published", "origin": asdict(origin)}
        return StoredDenoiser(description | adapters[0], adapters[1])
    if kind not in OWN:
        raise ConfigError(
            f"denoiser: expected one of this package's ({', '.join(OWN)}), or one as "
            f"`load_denoiser` read it, found {type(denoiser).__name__}"
        )
    description = {"kind": kind, "config": OWN[kind].to_json(denoiser)}
    weights = without_lora(denoiser.state_dict().items())
    return StoredDenoiser(description | adapters[0], weights | adapters[1])


def store_adapters(denoiser: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a description and its tensors say of a denoiser's adapters; nothing without any."""
    settings = lora_of(denoiser)
    if settings is None:
        return {}, {}
    adapters = lora_parameters(denoiser)
    tensors = {f"{_ADAPTERS}{name}": p.detach() for name, p in adapters.items()}
    return {"lora": settings.to_json()}, tensors


def restore_adapters(stored: StoredDenoiser, denoiser: nn.Module) -> None:
    """Puts the adapters that were stored into a denoiser, in place.

    Raises:
        CheckpointError: If they do not fit it.
    """
    if "lora" not in stored.description:
        return
    tensors = {
        name.removeprefix(_ADAPTERS): tensor
        for name, tensor in stored.tensors.items()
        if name.startswith(_ADAPTERS)
    }
    settings = LoraSettings(**stored.description["lora"])
    if settings.rank not in {size for tensor in tensors.values() for size in tensor.shape}:
        raise CheckpointError(f"adapters: expected some of rank {settings.rank!r:.60}, found none")
    load_lora(denoiser, settings, tensors)


def restore_denoiser(
    stored: StoredDenoiser,
    *,
    name: str | Path | None = None,
    options: LoadOptions = AS_STORED,
) -> DenoiserModule:
    """Brings back what `store_denoiser` described, in evaluation mode.

    Args:
        stored: Description and tensors.
        name: Where a published network is now, if not where it was.
        options: How it is laid out in memory.

    Raises:
        CheckpointError: If it is damaged, or the published network is gone or another one.
        ConfigError: If it cannot be laid out so.
    """
    description = stored.description
    kind, origin = description.get("kind"), description.get("origin")
    if origin is not None:
        denoiser = _load_origin(origin, name, options)
        restore_adapters(stored, denoiser)
        return denoiser
    if kind not in OWN:
        raise CheckpointError(f"denoiser: expected a kind of {', '.join(OWN)}, found {kind!r}")
    try:
        wanted = options.dtype or _widest(stored.tensors)
        weights = {n: t for n, t in stored.tensors.items() if not n.startswith(_ADAPTERS)}
        _check_claims(OWN[kind], dict(description["config"]), weights)
        denoiser = OWN[kind].make(dict(description["config"]))
        denoiser.to(wanted).load_state_dict(weights)
        restore_adapters(stored, denoiser)
    except (CoddError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{kind} denoiser: missing or damaged field {error}") from error
    return denoiser.to(_one_device(kind, options)).eval()


def _one_device(kind: str, options: LoadOptions) -> torch.device:
    """Where a network of this package goes: it is small, and lies on one device as it is."""
    if options.quantization is not None:
        raise ConfigError(
            f"quantization: expected none for a denoiser of kind {kind!r}, which is not a "
            f"published one, found {options.quantization!r}"
        )
    return single_device(options.device_map)


def _check_claims(kind: OwnKind, config: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Refuses a configuration that is not that of the weights, before it takes any memory."""
    sizes = {**config, **(config["network"] if isinstance(config.get("network"), dict) else {})}
    limits = {"num_layers": len(weights), "max_length": _LONGEST}
    for name, limit in limits.items():
        if not isinstance(sizes.get(name, 0), int) or sizes.get(name, 0) > limit:
            raise ConfigError(f"{name}: expected at most {limit}, found {sizes[name]!r:.60}")
    with torch.device("meta"):
        expected = kind.make(config).state_dict()
    for name in sorted({*expected, *weights}):
        shapes = [tuple(of[name].shape) if name in of else None for of in (expected, weights)]
        if shapes[0] != shapes[1]:
            raise ConfigError(f"{name}: expected shape {shapes[0]}, found {shapes[1]}")


def _widest(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """float64 if weights are stored so, else float32: half precision is for files and devices."""
    return torch.float64 if torch.float64 in {t.dtype for t in tensors.values()} else torch.float32


def _load_own(folder: Path, options: LoadOptions) -> DenoiserModule:
    checkpoint = load_checkpoint(folder)
    found = checkpoint.metadata.get("kind")
    if found != _CHECKPOINT_KIND:
        raise CheckpointError(
            f"{folder / DESCRIPTION}: expected a checkpoint of kind {_CHECKPOINT_KIND!r}, found "
            f"{found!r}"
        )
    description = checkpoint.metadata.get("denoiser")
    if not isinstance(description, dict):
        raise CheckpointError(f"{folder / DESCRIPTION}: expected a denoiser's description")
    return restore_denoiser(StoredDenoiser(description, checkpoint.tensors), options=options)


def _load_origin(origin: Any, name: str | Path | None, options: LoadOptions) -> DenoiserModule:
    try:
        expected = Origin(**origin)
    except TypeError as error:
        raise CheckpointError(f"denoiser's origin: missing or damaged field {error}") from error
    if expected.kind not in PUBLISHED:
        raise CheckpointError(
            f"denoiser: expected a kind of {', '.join(PUBLISHED)}, found {expected.kind!r}"
        )
    place = name or expected.name
    revision = None if Path(place).is_dir() else expected.revision
    found = open_folder(place, revision).origin(expected.kind)
    if found.fingerprint != expected.fingerprint:
        raise CheckpointError(
            f"{place}: expected the network of fingerprint {expected.fingerprint[:12]}, found "
            f"{found.fingerprint[:12]}: it is another one, or was changed"
        )
    return load_denoiser(
        place,
        kind=expected.kind,
        revision=revision,
        dtype=options.dtype,
        device_map=options.device_map,
        quantization=options.quantization,
    )


def _kind_of(folder: NetworkFolder, kind: str | None) -> str:
    if kind is not None and kind not in PUBLISHED:
        raise CheckpointError(f"kind: expected one of {', '.join(PUBLISHED)}, found {kind!r}")
    if kind is not None:
        return kind
    for known, family in PUBLISHED.items():
        if family.reads(folder.config):
            return known
    described = {name: folder.config.get(name) for name in ("model_type", "architectures")}
    raise CheckpointError(
        f"{folder.name}: expected a network of a kind in {', '.join(PUBLISHED)}, found {described}"
    )
