"""Circuits that the method's authors publish (Li et al. 2026, arXiv 2603.00045).

They come as a folder or hub repository with a PyJuice circuit in `model.jpc`, or with a circuit in
`pc_model.jpc` and settings in `codd_config.json`. The circuits are pickles; they are read by the
restricted reader of `pcircuits.read_jpc`, which runs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

import pcircuits as pc
from codd.errors import CheckpointError, ConfigError
from codd.hub import is_hub_id, locate

CIRCUIT_FILES = ("pc_model.jpc", "model.jpc")
SETTINGS_FILE = "codd_config.json"


@dataclass(frozen=True)
class PublishedSettings:
    """What a `codd_config.json` says; the defaults are those of its readers.

    Attributes:
        base_model_id: Hub id of the denoiser.
        pc_model_id: Hub id of the circuit, where it is published apart.
        base_model_type: "llada" or "dream".
        mask_id: The denoiser's mask.
        vocab_size: V.
        num_steps: Denoiser calls of a generation.
        gen_length: Tokens of a generation.
        block_length: Tokens of a block.
        temperature: Of the tokens drawn.
        cfg_scale: Weight of classifier-free guidance.
        remasking: Which positions are fixed first.
        pc_temperature: Divides the logits before they are coupled.
        pc_frac: Mask ratio at which the circuit is switched.
        reverse_frac: Whether the circuit is on above that ratio, not below it.

    Examples:
        >>> said = {"mask_id": 99, "pc_temperature": 0.2}
        >>> settings = codd.PublishedSettings.from_json(said, "the file")
        >>> settings.mask_id, settings.pc_temperature, settings.pc_frac
        (99, 0.2, 0.7)
    """

    base_model_id: str = ""
    pc_model_id: str = ""
    base_model_type: str = "llada"
    mask_id: int = 126336
    vocab_size: int = 126464
    num_steps: int = 64
    gen_length: int = 256
    block_length: int = 32
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str = "low_confidence"
    pc_temperature: float = 0.1
    pc_frac: float = 0.7
    reverse_frac: bool = False

    @classmethod
    def from_json(cls, value: Any, where: str) -> PublishedSettings:
        """Reads the parsed file; fields that are not known are left out.

        Raises:
            CheckpointError: If it is no object, or a field has another type.
        """
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{where}: expected an object, found {type(value).__name__}")
        found: dict[str, Any] = {}
        for entry in fields(cls):
            if entry.name in value:
                kind = type(entry.default)
                given = value[entry.name]
                if kind is float and type(given) is int:
                    given = float(given)
                if type(given) is not kind:
                    raise CheckpointError(
                        f"{where}: {entry.name}: expected {kind.__name__}, found {given!r}"
                    )
                found[entry.name] = given
        return cls(**found)

    def check_mask(self, mask_id: int) -> None:
        """Checks that a denoiser has the mask that these settings are about.

        Raises:
            ConfigError: If it has another.
        """
        if mask_id != self.mask_id:
            raise ConfigError(
                f"mask_id: the published circuit is for a denoiser with {self.mask_id}; found one "
                f"with {mask_id}"
            )

    @property
    def decoding(self) -> dict[str, Any]:
        """The arguments of `codd.generate` that these settings stand for.

        `pc_temperature` has none: it sharpens what is coupled, where here the temperature is that
        of the tokens drawn, given the circuit's states.
        """
        options = {
            "steps": self.num_steps,
            "new_tokens": self.gen_length,
            "block_length": self.block_length,
            "selection": self.remasking,
            "sampler": "latent",
            "temperature": self.temperature,
            "guidance": self.cfg_scale,
            "coupling": "product",
        }
        # There is no switch for high mask ratios alone.
        return options if self.reverse_frac else {**options, "mask_ratio_limit": self.pc_frac}


@dataclass(frozen=True, eq=False)
class PublishedCircuit:
    """A published circuit.

    Attributes:
        circuit: The circuit, in float32; a homogeneous hidden Markov model as
            `pcircuits.families.hmm` builds it.
        settings: What lies beside it; None without.
    """

    circuit: pc.CircuitModel
    settings: PublishedSettings | None


def load_published_circuit(
    path: str | Path, *, window: int | None = None, num_categories: int | None = None
) -> PublishedCircuit:
    """Reads a circuit that the method's authors publish.

    A table of a published size (1,024 states, 126,464 categories) is held twice while it is read
    and once afterwards.

    Args:
        path: A folder with `model.jpc`, or with `pc_model.jpc` and `codd_config.json`; or a file
            that ends in `.jpc`; or an id "owner/name" on the hub (extra `hub`), of which nothing
            else is fetched.
        window: Tokens W that the circuit must couple; None takes any.
        num_categories: Categories V that it must have; None takes any.

    Returns:
        The circuit, and the settings that lie beside it.

    Raises:
        CheckpointError: If there is no such file, the settings are damaged, or window or
            categories differ from what is expected or from the settings.
        pcircuits.errors.FormatError: If the circuit cannot be read, or its file asks for anything
            else than a circuit needs.

    Examples:
        >>> circuit = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=5))
        >>> codd.save_published_circuit("mine", circuit)
        >>> published = codd.load_published_circuit("mine", window=4, num_categories=5)
        >>> rows = torch.tensor([[0, 1, 2, 3]])
        >>> torch.allclose(published.circuit.log_likelihood(rows), circuit.log_likelihood(rows))
        True
    """
    file, settings = _files(Path(path))
    weighted = _named(pc.read_jpc(file, dtype=torch.float32))
    sizes = set(weighted.circuit.categories)
    expected = {
        "the caller": num_categories,
        SETTINGS_FILE: None if settings is None else settings.vocab_size,
    }
    for who, size in expected.items():
        if size is not None and sizes != {size}:
            raise CheckpointError(
                f"{file}: expected {size} categories by {who}, found {sorted(sizes)}"
            )
    if window is not None and weighted.circuit.num_variables != window:
        raise CheckpointError(
            f"{file}: expected a circuit over {window} tokens, found "
            f"{weighted.circuit.num_variables}"
        )
    return PublishedCircuit(pc.CircuitModel.of(weighted), settings)


def save_published_circuit(
    folder: str | Path, circuit: pc.CircuitModel, settings: PublishedSettings | None = None
) -> None:
    """Writes a circuit as PyJuice reads it: `pc_model.jpc` with settings, else `model.jpc`.

    Args:
        folder: Made if missing.
        circuit: The circuit.
        settings: What shall lie beside it.

    Raises:
        CheckpointError: If the settings have another number of categories.
        pcircuits.errors.FormatError: If PyJuice has no such circuits.

    Examples:
        >>> circuit = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=5))
        >>> codd.save_published_circuit("mine", circuit)
        >>> codd.load_published_circuit("mine").circuit.circuit.num_variables
        4
    """
    sizes = set(circuit.circuit.categories)
    if settings is not None and sizes != {settings.vocab_size}:
        raise CheckpointError(
            f"{SETTINGS_FILE}: expected the circuit's {sorted(sizes)} categories as vocab_size, "
            f"found {settings.vocab_size}"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pc.write_jpc(folder / CIRCUIT_FILES[settings is None], circuit.weighted())
    if settings is not None:
        text = json.dumps({f.name: getattr(settings, f.name) for f in fields(settings)}, indent=2)
        pc.files.write_atomically(folder / SETTINGS_FILE, (text + "\n").encode())


def _files(path: Path) -> tuple[Path, PublishedSettings | None]:
    if path.suffix != ".jpc" and is_hub_id(path) and not path.exists():
        path = locate(path, files=(*CIRCUIT_FILES, SETTINGS_FILE))
    if path.suffix == ".jpc":
        file, beside = path, path.parent / SETTINGS_FILE
        # Settings are about `pc_model.jpc`; another file beside them may be anything.
        if path.name != CIRCUIT_FILES[0]:
            return file, None
    else:
        found = [path / name for name in CIRCUIT_FILES if (path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path}: expected {' or '.join(CIRCUIT_FILES)}, found neither")
        file, beside = found[0], path / SETTINGS_FILE
    return file, _settings(beside) if beside.is_file() else None


def _settings(path: Path) -> PublishedSettings:
    try:
        value = pc.files.read_json(path)
    except pc.errors.FormatError as error:
        raise CheckpointError(str(error)) from error
    return PublishedSettings.from_json(value, str(path))


def _named(weighted: pc.WeightedCircuit) -> pc.WeightedCircuit:
    """A homogeneous hidden Markov model by the names of its family; others as they are."""
    circuit, names = weighted.circuit, weighted.circuit.parameter_names
    emission = {names[node] for node in circuit.nodes if isinstance(node, pc.Input)}
    transition = {
        names[node]
        for node in circuit.nodes
        if isinstance(node, pc.Sum) and node is not circuit.root
    }
    if len(emission) != 1 or len(transition) != 1 or not isinstance(circuit.root, pc.Sum):
        return weighted
    if not pc.queries.is_chain(pc.compile_circuit(circuit)):
        return weighted
    own = {
        "initial": weighted.log_weights[names[circuit.root]],
        "transition": weighted.log_weights[transition.pop()],
        "emission": weighted.log_weights[emission.pop()],
    }
    states, categories = own["emission"].shape
    return pc.WeightedCircuit(pc.families.hmm(circuit.num_variables, states, categories), own)
