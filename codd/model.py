"""The coupled model: denoiser, circuit and modulator together, as users hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import pcircuits as pc
from codd.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.distribution import TokenDistribution
from codd.coupling.step import CouplingStepper
from codd.decoding.arguments import is_given
from codd.decoding.loop import Generation, generate
from codd.denoisers.base import DenoiserOutput
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, CoddError, ConfigError, DenoiserError
from codd.modulators.registry import AnyModulator, make_modulator
from codd.vocabulary import Vocabulary, vocabulary_from_json

KIND = "coupled-model"
DEMO = "demo"
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class CoupledModel(nn.Module):
    """A denoiser whose one-step output is an exact joint distribution over a window of tokens.

    Args:
        denoiser: A module with the `Denoiser` protocol, for V categories.
        circuit: The learned circuit over W variables of V categories.
        modulator: Turns hidden states into the circuit's parameters.
        vocabulary: Text to tokens.
        settings: The default coupling.
        block_length: Default block of block diffusion, at most W.

    Raises:
        ConfigError: If the parts do not fit together.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        circuit: pc.CircuitModel,
        modulator: AnyModulator,
        vocabulary: Vocabulary,
        *,
        settings: CouplingSettings | None = None,
        block_length: int = 32,
    ) -> None:
        super().__init__()
        self.denoiser: Any = denoiser
        self.circuit = circuit
        self.modulator = modulator
        self.vocabulary = vocabulary
        self.settings = settings or CouplingSettings()
        self.block = block_length
        self._prepared: tuple[tuple[tuple[int, int], ...], pc.PreparedParameters] | None = None
        self._stepper: CouplingStepper | None = None
        self._check()

    @property
    def mask_id(self) -> int:
        """The id that stands for a masked token."""
        return int(self.denoiser.mask_id)

    @property
    def max_length(self) -> int:
        """Longest sequence the denoiser takes."""
        return int(self.denoiser.max_length)

    @property
    def num_categories(self) -> int:
        """Number of categories V."""
        return int(self.denoiser.num_categories)

    @property
    def window(self) -> int:
        """Tokens W that the circuit couples."""
        return self.circuit.plan.num_variables

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """One call of the denoiser: (B, L) tokens -> logits (B, L, V), hidden (B, L, D)."""
        output: DenoiserOutput = self.denoiser(tokens, attention_mask)
        return output

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
    ) -> TokenDistribution:
        """The joint distribution of the masked tokens of one window of each row.

        Args:
            output: What the denoiser said of `tokens`.
            tokens: (B, L) tokens, L >= W; all but the mask are visible.
            start: (B,) first position of each row's window.
            coupling: Name of a coupling, or its settings; default the model's.
            valid: (B, L) bool, False at padding.

        Returns:
            A distribution over positions start .. start + W - 1.

        Raises:
            DenoiserError: If a window leaves the sequence.
            CouplingError: If the circuit contradicts the visible tokens.
        """
        window = self._read_window(output, tokens, start, valid)
        settings = self._settings(coupling)
        if settings.kind == "factorised":
            return couple(settings, self.circuit.plan, {}, *window.denoised, valid=window.valid)
        plan, parameters, latent = self._modulated(window.hidden)
        return couple(
            settings, plan, parameters, *window.denoised, latent=latent, valid=window.valid
        )

    def why_not_captured(self, coupling: str | CouplingSettings | None = None) -> str | None:
        """Why the step of a coupling cannot be recorded as a CUDA graph; None if it can be.

        Args:
            coupling: Name of a coupling, or its settings; default the model's.
        """
        settings = self._settings(coupling)
        device = self.circuit.log_weights[0].device
        if device.type != "cuda":
            return f"expected the model on a CUDA device, found {device}"
        if settings.kind == "factorised":
            return "expected a coupling with a circuit, found 'factorised'"
        if self.modulator.kind == "parametric":
            return "expected parameters that all windows share, found a parametric modulator"
        if not pc.queries.is_chain(self.circuit.plan):
            return "expected a hidden Markov chain, found another circuit"
        return None

    @torch.no_grad()
    def captured_distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> TokenDistribution:
        """As `distribution`, by one step that is recorded on a CUDA device and replayed.

        On the CPU the same step runs as it is. Its marginals and its sample, of the temperature
        given, are overwritten by the next step.

        Args:
            output: As there.
            tokens: As there.
            start: As there.
            coupling: As there, but not "factorised".
            valid: As there.
            temperature: Of the sample's tokens given the circuit's states.
            generator: Source of the sample.

        Raises:
            DenoiserError: If a window leaves the sequence.
            CouplingError: If the circuit contradicts the visible tokens.
            BackendError: If the step cannot be recorded; see `why_not_captured`.
        """
        window = self._read_window(output, tokens, start, valid)
        plan, parameters, latent = self._modulated(window.hidden)
        settings, own = self._settings(coupling), self._stepper
        if own is None or own.settings != settings or own.parameters is not parameters:
            own = CouplingStepper(settings, plan, parameters, capture=tokens.is_cuda)
            self._stepper = own
        return own.distribution(
            *window.denoised,
            latent=latent,
            valid=window.valid,
            temperature=temperature,
            generator=generator,
        )

    def joint(
        self,
        tokens: Tensor,
        *,
        start: Tensor | int | None = None,
        coupling: str | CouplingSettings | None = None,
    ) -> TokenDistribution:
        """One forward of the denoiser, then the exact joint of a window's masked tokens.

        Args:
            tokens: (B, L) tokens, `mask_id` where masked.
            start: (B,) or one first position of the window; default the last W positions.
            coupling: Name of a coupling, or its settings; default the model's.

        Returns:
            The distribution; see `distribution`.
        """
        if start is None:
            start = tokens.shape[1] - self.window
        first = torch.as_tensor(start, device=tokens.device).expand(len(tokens))
        return self.distribution(self.denoise(tokens), tokens, first, coupling=coupling)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        new_tokens: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> list[str]:
        """Continues texts; see `codd.decoding.loop.generate` for all options.

        Args:
            prompts: One text or several, each of at least one character.
            new_tokens: Tokens to add to each; default one block.
            steps: Denoiser calls in all; default 8 where no other option says how fast.
            **options: `selection`, `quota`, `sampler`, `coupling`, `temperature`, `top_p`, `mode`,
                `block_length`, `mask_ratio_limit`, `seed`, ...

        Returns:
            The texts with their continuations.

        Raises:
            DecodingError: If an option is impossible.
        """
        paces = ("steps", "tokens_per_step", "quota")
        if steps is None and not any(is_given(name, options) for name in paces):
            steps = 8
        found = self.generate_tokens(prompts, new_tokens=new_tokens, steps=steps, **options)
        return [self.vocabulary.decode(row) for row in found.tokens]

    @torch.no_grad()
    def generate_tokens(
        self,
        prompts: str | Sequence[str],
        *,
        new_tokens: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> Generation:
        """As `generate`, with tokens, their steps, history and timings."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        encoded = [self.vocabulary.encode(text) for text in texts]
        if new_tokens is None and not is_given("new_tokens", options):
            new_tokens = self.block
        return generate(self, encoded, new_tokens, steps, **options)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: str = "float32",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the whole model to a folder: one safetensors file and one JSON.

        Args:
            folder: Made if missing; a model there is replaced in a single step.
            dtype: "float32", or "float16" for half the size.
            record: JSON values about how the model was made.

        Raises:
            ConfigError: If the type is neither, or the denoiser is not one of this package's.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {list(_DTYPES)}; found {dtype!r}")
        if not isinstance(self.denoiser, TransformerDenoiser):
            raise ConfigError(
                f"only a TransformerDenoiser is saved with the model; found "
                f"{type(self.denoiser).__name__}"
            )
        parts = {
            "denoiser": self.denoiser.state_dict(),
            "modulator": self.modulator.state_dict(),
            "circuit": self.circuit.log_parameters(),
        }
        tensors = {
            f"{part}.{name}": tensor.detach().to(_DTYPES[dtype])
            for part, named in parts.items()
            for name, tensor in named.items()
        }
        metadata = {
            "kind": KIND,
            "denoiser": asdict(self.denoiser.config),
            "circuit": pc.structure_to_json(self.circuit.circuit),
            "modulator": {"kind": self.modulator.kind, "rank": self.modulator.rank},
            "coupling": asdict(self.settings),
            "block_length": self.block,
            "vocabulary": self.vocabulary.to_json(),
            "vocabulary_fingerprint": self.vocabulary.fingerprint,
            "record": dict(record or {}),
        }
        save_checkpoint(folder, tensors, metadata)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> CoupledModel:
        """Reads a model that `save_pretrained` wrote, in float32 and evaluation mode.

        Args:
            name: A folder; or "demo" for the model that is shipped with the package; or the id of
                a repository on the Hugging Face hub (needs the extra `hub`).

        Raises:
            CheckpointError: If it is missing, damaged, of another version or contradicts itself.
        """
        folder = _locate(name)
        checkpoint = load_checkpoint(folder)
        try:
            return cls._from_checkpoint(checkpoint).eval()
        except CheckpointError:
            raise
        except (CoddError, pc.errors.CircuitError, KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is not a coupled model: {error}") from error

    @classmethod
    def _from_checkpoint(cls, checkpoint: Checkpoint) -> CoupledModel:
        metadata = checkpoint.metadata
        if metadata.get("kind") != KIND:
            raise CheckpointError(
                f"expected a checkpoint of kind {KIND!r}; found {metadata.get('kind')!r}"
            )
        vocabulary = vocabulary_from_json(metadata["vocabulary"])
        if vocabulary.fingerprint != metadata["vocabulary_fingerprint"]:
            raise CheckpointError(
                f"the vocabulary has fingerprint {vocabulary.fingerprint[:12]}; the model was "
                f"trained with {str(metadata['vocabulary_fingerprint'])[:12]}"
            )
        denoiser = TransformerDenoiser(TransformerConfig(**metadata["denoiser"]))
        circuit = pc.CircuitModel(pc.structure_from_json(metadata["circuit"]))
        modulator = make_modulator(
            metadata["modulator"]["kind"],
            circuit.plan,
            denoiser.hidden_size,
            rank=metadata["modulator"]["rank"],
        )
        denoiser.load_state_dict(_part(checkpoint.tensors, "denoiser"))
        modulator.load_state_dict(_part(checkpoint.tensors, "modulator"))
        circuit.set_log_parameters(_part(checkpoint.tensors, "circuit"))
        return cls(
            denoiser,
            circuit,
            modulator,
            vocabulary,
            settings=CouplingSettings(**metadata["coupling"]),
            block_length=metadata["block_length"],
        )

    def _read_window(
        self, output: DenoiserOutput, tokens: Tensor, start: Tensor, valid: Tensor | None
    ) -> _Window:
        index = start[:, None] + torch.arange(self.window, device=tokens.device)
        if bool((index[:, 0] < 0).any()) or bool((index[:, -1] >= tokens.shape[1]).any()):
            raise DenoiserError(
                f"windows of {self.window} tokens start at {start.tolist()}; "
                f"the sequence has {tokens.shape[1]}"
            )
        values = tokens.gather(1, index)
        logits, hidden = (_window(tensor, index) for tensor in (output.logits, output.hidden))
        own = None if valid is None else valid.gather(1, index)
        observed = values != self.mask_id if own is None else (values != self.mask_id) & own
        return _Window((logits.float().log_softmax(-1), values, observed), hidden.float(), own)

    def _settings(self, coupling: str | CouplingSettings | None) -> CouplingSettings:
        if coupling is None:
            return self.settings
        if isinstance(coupling, CouplingSettings):
            return coupling
        return replace(self.settings, kind=coupling)

    def _modulated(self, hidden: Tensor) -> tuple[pc.Plan, Any, dict[str, Tensor] | None]:
        plan = self.modulator.plan
        if torch.is_grad_enabled() or self.modulator.kind == "parametric":
            modulation = self.modulator(hidden, self.circuit.log_parameters())
            return plan, modulation.parameters, modulation.latent
        # Shared parameters are laid out once, and again only after they were changed.
        modulation = self.modulator(hidden, {})
        version = tuple((w.data_ptr(), w._version) for w in self.circuit.log_weights)
        if self._prepared is None or self._prepared[0] != version:
            self._prepared = (version, self.circuit.prepare())
        return plan, self._prepared[1], modulation.latent

    def _check(self) -> None:
        plan = self.circuit.plan
        expected = (self.num_categories, self.num_categories)
        found = (plan.num_categories, self.vocabulary.size)
        if found != expected:
            raise ConfigError(
                f"the denoiser has {expected[0]} categories; the circuit has {found[0]}, "
                f"the vocabulary {found[1]}"
            )
        if not 1 <= self.block <= self.window <= self.max_length:
            raise ConfigError(
                f"expected 1 <= block_length <= window <= max_length; found {self.block}, "
                f"{self.window}, {self.max_length}"
            )


class _Window(NamedTuple):
    """What the denoiser said of one window of each row.

    Attributes:
        denoised: (B, W, V) log-probabilities, (B, W) tokens, (B, W) whether they are visible.
        hidden: (B, W, D) hidden states.
        valid: (B, W) bool, False at padding; None without any.
    """

    denoised: tuple[Tensor, Tensor, Tensor]
    hidden: Tensor
    valid: Tensor | None


def _window(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[2]))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = len(prefix) + 1
    return {n[start:]: t.float() for n, t in tensors.items() if n.startswith(f"{prefix}.")}


def _locate(name: str | Path) -> Path:
    """The folder of a model: as named, shipped with the package, or fetched from the hub."""
    if Path(name).is_dir():
        return Path(name)
    if name == DEMO:
        return Path(__file__).parent / "assets" / DEMO
    if str(name).count("/") != 1 or Path(name).is_absolute():
        raise CheckpointError(
            f"no model {str(name)!r}: expected a folder, {DEMO!r}, or a hub id 'owner/name'"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(
            f"no folder {str(name)!r}; to fetch a model of that id install the extra `hub`"
        ) from error
    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot fetch model {str(name)!r}: {error}") from error
