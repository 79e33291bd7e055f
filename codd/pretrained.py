"""Coupled models as files: what is stored of each part, and how the parts come back.

The denoiser is stored whole if it exists only here, as a reference with a fingerprint if it was
published, and not at all if it is a user's own module, which is then handed in at loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pcircuits as pc
from codd.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.base import AS_STORED, LoadOptions
from codd.denoisers.lora import lora_of
from codd.denoisers.placement import first_device
from codd.denoisers.registry import (
    OWN,
    PUBLISHED,
    StoredDenoiser,
    restore_adapters,
    restore_denoiser,
    store_adapters,
    store_denoiser,
)
from codd.errors import CheckpointError, ConfigError
from codd.members import Members, part_of, read_members
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import AnyModulator
from codd.vocabulary import Vocabulary, vocabulary_from_json

KIND = "coupled-model"
VERSION = 2
"""Of the description; 1 had the configuration of a small transformer as its `denoiser`."""

_GIVEN = "given"
_SIZES = ("num_categories", "mask_id", "hidden_size")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a coupled model is made of.

    Attributes:
        denoiser: A module with the `Denoiser` protocol.
        circuit: The circuit.
        modulator: What conditions it.
        vocabulary: Text to tokens.
        settings: The coupling.
        block_length: Tokens of a block.
        record: JSON values about how the model was made.
        alternatives: More circuits with their modulators.
        choice: By which of the circuits a window is coupled.
    """

    denoiser: nn.Module
    circuit: pc.CircuitModel
    modulator: AnyModulator
    vocabulary: Vocabulary
    settings: CouplingSettings
    block_length: int
    record: Mapping[str, Any] = field(default_factory=dict)
    alternatives: tuple[tuple[pc.CircuitModel, AnyModulator], ...] = ()
    choice: CircuitChoice | None = None


def write_parts(folder: str | Path, parts: Parts, *, dtype: str = "float32") -> None:
    """Writes a model to a folder, replacing the one there in a single step.

    Args:
        folder: Made if missing.
        parts: The model.
        dtype: "float32", or "float16" for half the size.

    Raises:
        ConfigError: If the type is neither, or the denoiser is a published one whose weights were
            changed and which cannot be stored otherwise.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"dtype must be one of {list(_DTYPES)}; found {dtype!r}")
    stored = _stored(parts.denoiser)
    members = Members([(parts.circuit, parts.modulator), *parts.alternatives])
    tensors = {
        f"{part}.{name}": tensor.detach().to(_DTYPES[dtype])
        for part, named in {
            "denoiser": stored.tensors,
            **members.tensors(),
        }.items()
        for name, tensor in named.items()
    }
    metadata = {
        "kind": KIND,
        "format_version": VERSION,
        "denoiser": stored.description,
        **members.description(),
        "choice": None if parts.choice is None else parts.choice.to_json(),
        "coupling": asdict(parts.settings),
        "block_length": parts.block_length,
        "vocabulary": _vocabulary_to_json(parts, stored),
        "vocabulary_fingerprint": parts.vocabulary.fingerprint,
        "record": dict(parts.record),
    }
    save_checkpoint(folder, tensors, metadata)


def read_parts(
    folder: Path,
    *,
    denoiser: nn.Module | str | Path | None = None,
    options: LoadOptions = AS_STORED,
) -> Parts:
    """Reads what `write_parts` wrote, in evaluation mode.

    Args:
        folder: The folder.
        denoiser: The user's own module, if it was one; or where a published network is now, if not
            where it was.
        options: How the denoiser is laid out in memory.

    Raises:
        CheckpointError: If the files are missing, damaged, of another version or contradict
            themselves, or the denoiser is not the one that the model was made with.
    """
    checkpoint = load_checkpoint(folder)
    try:
        return _parts(checkpoint, denoiser, options)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    # Errors of both packages are ValueErrors; the others come of values of the wrong kind.
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{folder} is not a coupled model: {error}") from error


def _parts(
    checkpoint: Checkpoint, given: nn.Module | str | Path | None, options: LoadOptions
) -> Parts:
    metadata = checkpoint.metadata
    _check_kind(metadata)
    tensors = checkpoint.tensors
    stored = StoredDenoiser(_description(metadata), part_of(tensors, "denoiser"))
    denoiser = _denoiser(stored, given, options)
    members = read_members(metadata, tensors, _size(denoiser, "hidden_size"))
    if options.device_map is not None:
        device = first_device(denoiser)
        members = [(circuit.to(device), modulator.to(device)) for circuit, modulator in members]
    first, *alternatives = members
    return Parts(
        denoiser,
        *first,
        _vocabulary(metadata, denoiser),
        CouplingSettings(**metadata["coupling"]),
        metadata["block_length"],
        _record(metadata),
        tuple(alternatives),
        CircuitChoice.from_json(metadata.get("choice")),
    )


def _record(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    found = metadata.get("record", {})
    if not isinstance(found, dict):
        raise CheckpointError(f"record: expected names and values, found {found!r:.60}")
    return found


def _check_kind(metadata: Mapping[str, Any]) -> None:
    if metadata.get("kind") != KIND:
        raise CheckpointError(
            f"expected a checkpoint of kind {KIND!r}; found {metadata.get('kind')!r}"
        )
    version = metadata.get("format_version", 1)
    if version not in (1, VERSION):
        raise CheckpointError(
            f"expected a coupled model of format version 1 or {VERSION}; found {version!r}"
        )


def _description(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if metadata.get("format_version", 1) == 1:
        return {"kind": "transformer", "config": metadata["denoiser"]}
    found = metadata["denoiser"]
    if not isinstance(found, dict):
        raise CheckpointError(f"denoiser: expected names and values, found {found!r:.60}")
    return found


def _stored(denoiser: nn.Module) -> StoredDenoiser:
    if getattr(denoiser, "kind", None) in {*OWN, *PUBLISHED}:
        return store_denoiser(denoiser)
    sizes = {name: _size(denoiser, name) for name in _SIZES}
    adapters, tensors = store_adapters(denoiser)
    own = {"kind": _GIVEN, "class": type(denoiser).__name__, **sizes}
    return StoredDenoiser(own | adapters, tensors)


def _denoiser(
    stored: StoredDenoiser, given: nn.Module | str | Path | None, options: LoadOptions
) -> nn.Module:
    if isinstance(given, nn.Module):
        if options.quantization is not None:
            raise ConfigError(
                "quantization: expected none with a module of the user's own, found "
                f"{options.quantization!r}"
            )
        _check_given(stored.description, given)
        if lora_of(given) is None:
            restore_adapters(stored, given)
        return given
    if stored.description.get("kind") == _GIVEN:
        raise CheckpointError(
            f"the model was made with a module {stored.description.get('class')!r} of its user, "
            "which is not stored; hand it in: from_pretrained(name, denoiser=module)"
        )
    return restore_denoiser(stored, name=given, options=options)


def _check_given(description: Mapping[str, Any], denoiser: nn.Module) -> None:
    """Checks a module against the sizes that are stored of a user's own."""
    for name in _SIZES:
        expected = description.get(name, _size(denoiser, name))
        if _size(denoiser, name) != expected:
            raise CheckpointError(
                f"{name}: the model was made with a denoiser of {expected}; the one handed in has "
                f"{_size(denoiser, name)}"
            )


def _vocabulary_to_json(parts: Parts, stored: StoredDenoiser) -> dict[str, Any] | None:
    """The vocabulary; None if it comes with a denoiser that is stored by reference."""
    own = getattr(parts.denoiser, "vocabulary", None)
    comes_along = own is not None and own.fingerprint == parts.vocabulary.fingerprint
    if comes_along and "origin" in stored.description:
        return None
    return parts.vocabulary.to_json()


def _vocabulary(metadata: Mapping[str, Any], denoiser: nn.Module) -> Vocabulary:
    description, expected = metadata["vocabulary"], str(metadata["vocabulary_fingerprint"])
    found: Vocabulary | None = getattr(denoiser, "vocabulary", None)
    if description is not None:
        found = vocabulary_from_json(description)
    if found is None:
        raise CheckpointError("the denoiser's folder has no tokenizer; the model was made with one")
    if found.fingerprint != expected:
        raise CheckpointError(
            f"the vocabulary has fingerprint {found.fingerprint[:12]}; the model was trained with "
            f"{expected[:12]}"
        )
    return found


def _size(denoiser: Any, name: str) -> int:
    return int(getattr(denoiser, name))
