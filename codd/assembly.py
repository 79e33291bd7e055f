"""The parts of a coupled model from what a user has made, or only names."""

from __future__ import annotations

from pathlib import Path

from torch import nn

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.registry import load_denoiser
from codd.errors import ConfigError
from codd.modulators.registry import AnyModulator, make_modulator
from codd.pretrained import Parts
from codd.published import PublishedCircuit, load_published_circuit
from codd.vocabulary import Vocabulary


def assemble(
    denoiser: nn.Module | str | Path,
    circuit: pc.CircuitModel | PublishedCircuit | str | Path,
    modulator: str | AnyModulator,
    vocabulary: Vocabulary | None,
    settings: CouplingSettings | None,
    block_length: int | None,
) -> Parts:
    """Reads what is named, and chooses what is left open; see `CoupledModel.from_parts`.

    Raises:
        ConfigError: If there is no vocabulary, or a published circuit is for another mask.
        CheckpointError: If a name leads to nothing that can be read.
    """
    network = load_denoiser(denoiser) if isinstance(denoiser, (str, Path)) else denoiser
    found = load_published_circuit(circuit) if isinstance(circuit, (str, Path)) else circuit
    if isinstance(found, PublishedCircuit):
        said, found = found.settings, found.circuit
        settings = settings or CouplingSettings("product")
        if said is not None:
            said.check_mask(int(getattr(network, "mask_id", -1)))
            window = found.plan.num_variables
            block_length = block_length or min(said.block_length, window)
    own = vocabulary or getattr(network, "vocabulary", None)
    if own is None:
        raise ConfigError(
            f"vocabulary: expected one, for {type(network).__name__} brings none, found None"
        )
    if isinstance(modulator, str):
        width = int(getattr(network, "hidden_size", 0))
        modulator = make_modulator(modulator, found.plan, width)
    block = block_length or found.plan.num_variables
    return Parts(network, found, modulator, own, settings or CouplingSettings(), block)
