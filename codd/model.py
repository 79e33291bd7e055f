"""The coupled model: denoiser, circuit and modulator together, as users hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import pcircuits as pc
from codd.assembly import assemble
from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import TokenDistribution
from codd.decoding.loop import Generation, generate, stream
from codd.decoding.texts import growing_texts, paced, read_texts
from codd.denoisers.base import DenoiserOutput, LoadOptions
from codd.denoisers.key_values import KeyValueCache, Span
from codd.denoisers.placement import DeviceMap, first_device
from codd.errors import CheckpointError, ConfigError, CouplingError
from codd.hub import locate, push
from codd.members import Members
from codd.model_card import model_card
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import AnyModulator
from codd.pretrained import Parts, read_parts, write_parts
from codd.published import PublishedCircuit
from codd.vocabulary import Vocabulary
from codd.window import read_window


class CoupledModel(nn.Module):
    """A denoiser whose one-step output is an exact joint distribution over a window of tokens.

    Args:
        denoiser: A module with the `Denoiser` protocol, for V categories.
        circuit: The learned circuit over W variables of V categories.
        modulator: Turns hidden states into the circuit's parameters.
        vocabulary: Text to tokens.
        settings: The default coupling.
        block_length: Default block of block diffusion, at most W.
        alternatives: More circuits over the same window, each with its modulator.
        choice: By which of all circuits, `circuit` being the first, a window is coupled.

    Attributes:
        record: JSON values about how the model was made, stored with it.

    Raises:
        ConfigError: If the parts do not fit together.

    Examples:
        From parts: a network, a circuit over windows of four characters, the characters.

        >>> vocabulary = codd.CharacterVocabulary.from_text(["abc "])
        >>> V = vocabulary.size
        >>> shape = codd.TransformerConfig(num_categories=V, max_length=8, width=16, num_heads=2)
        >>> denoiser = codd.TransformerDenoiser(shape)
        >>> circuit = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=V))
        >>> model = codd.CoupledModel.from_parts(denoiser, circuit, vocabulary=vocabulary)
        >>> text = model.generate("ab", new_tokens=4, steps=2)[0]
        >>> text.startswith("ab"), len(text)
        (True, 6)
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
        alternatives: Sequence[tuple[pc.CircuitModel, AnyModulator]] = (),
        choice: CircuitChoice | None = None,
    ) -> None:
        super().__init__()
        self.denoiser: Any = denoiser
        self.circuit = circuit
        self.modulator = modulator
        self.vocabulary = vocabulary
        self.settings = settings or CouplingSettings()
        self.block = block_length
        self.record: dict[str, Any] = {}
        self.alternatives = nn.ModuleList(nn.ModuleList(pair) for pair in alternatives)
        self.choice = choice
        self._members = Members([(circuit, modulator), *alternatives])
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

    @property
    def members(self) -> tuple[tuple[pc.CircuitModel, AnyModulator], ...]:
        """All circuits with their modulators, in the order of the choice."""
        return self._members.pairs

    @property
    def device(self) -> torch.device:
        """Where its circuit lies, and tokens are expected."""
        return first_device(self.circuit)

    def for_domain(self, name: str) -> CoupledModel:
        """The model with the circuit of one domain alone; its parts are shared, not copied.

        Raises:
            ConfigError: If the model does not choose by domain, or has no such one.
        """
        domains = () if self.choice is None else self.choice.domains
        if name not in domains:
            raise ConfigError(f"domain: expected one of {domains}, found {name!r}")
        circuit, modulator = self.members[domains.index(name)]
        return CoupledModel(
            self.denoiser,
            circuit,
            modulator,
            self.vocabulary,
            settings=self.settings,
            block_length=self.block,
        )

    def denoise(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        """One call of the denoiser: (B, L) tokens -> logits (B, L, V), hidden (B, L, D)."""
        output: DenoiserOutput = self.denoiser(tokens, attention_mask)
        return output

    @property
    def has_caches(self) -> bool:
        """Whether the denoiser computes spans of a sequence, as decoding with a cache asks."""
        return hasattr(self.denoiser, "attention_block")

    @property
    def attention_block(self) -> int | None:
        """Tokens of a block under the denoiser's block-causal mask; None if all see all."""
        found: int | None = self.denoiser.attention_block
        return found

    def denoise_span(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: KeyValueCache,
        span: Span | None = None,
    ) -> DenoiserOutput:
        """As `denoise`, of a span's tokens alone, among what a cache holds of the others."""
        output: DenoiserOutput = self.denoiser(tokens, attention_mask, span=span, cache=cache)
        return output

    def distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        *,
        coupling: str | CouplingSettings | None = None,
        valid: Tensor | None = None,
        include: Tensor | None = None,
        domain: str | Sequence[str] | None = None,
    ) -> TokenDistribution:
        """The joint distribution of the masked tokens of one window of each row.

        Args:
            output: What the denoiser said of `tokens`.
            tokens: (B, L) tokens, L >= W; all but the mask are visible.
            start: (B,) first position of each row's window.
            coupling: A name of `COUPLING_NAMES`, or settings; default the model's.
            valid: (B, L) bool, False at padding.
            include: (B, L) tokens that the settings' `top_k` lists whatever their rank: the true
                ones, when their probability is learned or judged.
            domain: Of all rows or of each, where circuits are chosen by domain.

        Returns:
            A distribution over positions start .. start + W - 1.

        Raises:
            DenoiserError: If a window leaves the sequence.
            CouplingError: If the circuit contradicts the visible tokens.
        """
        window = read_window(
            output,
            tokens,
            start,
            self.window,
            mask_id=self.mask_id,
            valid=valid,
            include=include,
        )
        return self._members.couple(self._settings(coupling), window, self.choice, domain)

    def why_not_captured(self, coupling: str | CouplingSettings | None = None) -> str | None:
        """Why the step of a coupling cannot be recorded as a CUDA graph; None if it can be.

        Args:
            coupling: Name of a coupling, or its settings; default the model's.
        """
        return self._members.why_not_captured(self._settings(coupling), self.choice)

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
        window = read_window(output, tokens, start, self.window, mask_id=self.mask_id, valid=valid)
        return self._members.captured(
            self._settings(coupling), window, temperature=temperature, generator=generator
        )

    def joint(
        self,
        tokens: Tensor,
        *,
        start: Tensor | int | None = None,
        coupling: str | CouplingSettings | None = None,
        domain: str | Sequence[str] | None = None,
    ) -> TokenDistribution:
        """One forward of the denoiser, then the exact joint of a window's masked tokens.

        Args:
            tokens: (B, L) tokens, `mask_id` where masked.
            start: (B,) or one first position of the window; default the last W positions.
            coupling: A name of `COUPLING_NAMES`, or settings; default the model's.
            domain: Of all rows or of each, where circuits are chosen by domain.

        Returns:
            The distribution; see `distribution`.
        """
        if start is None:
            start = tokens.shape[1] - self.window
        first = torch.as_tensor(start, device=tokens.device).expand(len(tokens))
        output = self.denoise(tokens)
        return self.distribution(output, tokens, first, coupling=coupling, domain=domain)

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
                `block_length`, `mask_ratio_limit`, `seed`, ...; `constraint` also as the text of a
                regular expression that the new text has to match.

        Returns:
            The texts with their continuations.

        Raises:
            DecodingError: If an option is impossible.
        """
        found = self.generate_tokens(
            prompts, new_tokens=new_tokens, steps=paced(steps, options), **options
        )
        return found.texts

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
        encoded, options = read_texts(
            self.vocabulary, self.block, prompts, new_tokens, options, self.device
        )
        found = generate(self, encoded, steps=steps, **options)
        return replace(found, vocabulary=self.vocabulary)

    def stream(
        self,
        prompts: str | Sequence[str],
        *,
        new_tokens: int | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> Iterator[list[str]]:
        """As `generate`, but yields the texts after each step, masks as the vocabulary shows them.

        Args:
            prompts: As there.
            new_tokens: As there.
            steps: Denoiser calls in all; one of the options that say how fast is needed.
            **options: As there, but no callback.

        Raises:
            DecodingError: If an option is impossible: before the first text is asked for.
        """
        encoded, options = read_texts(
            self.vocabulary, self.block, prompts, new_tokens, options, self.device
        )
        records = stream(self, encoded, steps=steps, **options)
        return growing_texts(self.vocabulary, encoded, records)

    @classmethod
    def from_parts(
        cls,
        denoiser: nn.Module | str | Path,
        circuit: pc.CircuitModel | PublishedCircuit | str | Path,
        *,
        modulator: str | AnyModulator = "static",
        vocabulary: Vocabulary | None = None,
        settings: CouplingSettings | None = None,
        block_length: int | None = None,
    ) -> CoupledModel:
        """Couples a denoiser and a circuit, each made or named.

        Args:
            denoiser: A module with the `Denoiser` protocol, or what `load_denoiser` takes.
            circuit: A circuit, or what `load_published_circuit` takes.
            modulator: A modulator, or the kind of a new one.
            vocabulary: Text to tokens; None for the denoiser's own.
            settings: The default coupling; None for the copula, or for the product of a published
                circuit, which was trained for it.
            block_length: Tokens of a block; None for the circuit's window, or for what a
                published circuit says.

        Raises:
            ConfigError: If the parts do not fit together, or there is no vocabulary.
            CheckpointError: If a name leads to nothing that can be read.
        """
        return cls._of(assemble(denoiser, circuit, modulator, vocabulary, settings, block_length))

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: str = "float32",
        record: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes the whole model to a folder: one safetensors file and one JSON.

        Of a published denoiser only where it is and its fingerprint are written, and its adapters
        if it has some; of a user's own module only its sizes.

        Args:
            folder: Made if missing; a model there is replaced in a single step.
            dtype: "float32", or "float16" for half the size.
            record: JSON values about how the model was made; None keeps those it was read with.

        Raises:
            ConfigError: If the type is neither, or the denoiser is a published one whose weights
                were changed and which cannot be stored otherwise.
        """
        if record is not None:
            self.record = dict(record)
        write_parts(folder, self._parts(), dtype=dtype)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        token: str | None = None,
        message: str = "Coupled model",
        dtype: str = "float32",
    ) -> str:
        """Uploads the model, as `save_pretrained` writes it and with a model card, to the hub.

        Args:
            name: Id "owner/name" of the repository; made if there is none.
            private: Whether a new repository is private.
            token: Of an account; None for the one that is logged in.
            message: Of the commit.
            dtype: As in `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: If the id is none, the extra `hub` is missing, or the hub refuses.
            ConfigError: As in `save_pretrained`.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            card = model_card(self._parts(), name)
            (Path(folder) / "README.md").write_text(card, encoding="utf-8")
            return push(Path(folder), name, private=private, token=token, message=message)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        denoiser: nn.Module | str | Path | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: DeviceMap = None,
        quantization: str | None = None,
    ) -> CoupledModel:
        """Reads a model that `save_pretrained` wrote, in evaluation mode.

        Args:
            name: A folder; or "demo" for the model that is shipped with the package; or the id of
                a repository on the Hugging Face hub (needs the extra `hub`).
            denoiser: The user's own module, for a model that was made with one; or where a
                published denoiser is now, if not where it was.
            revision: Branch, tag or commit of the model on the hub.
            dtype: Number type of a published denoiser's weights; None for that of its files.
            device_map: Where the model lies: a device for all of it; or for a published denoiser
                "auto" or its parts -> devices, as `load_denoiser` takes them. The circuit then goes
                to where the denoiser begins. None for the CPU.
            quantization: "8bit" or "4bit" for a published denoiser's blocks; see `load_denoiser`.

        Raises:
            CheckpointError: If it is missing, damaged, of another version or contradicts itself,
                the denoiser is not the one that the model was made with, or an option is none that
                it can have.

        Examples:
            >>> model = codd.CoupledModel.from_pretrained("demo")  # ships with the package
            >>> model.window, model.max_length, model.settings.kind
            (48, 64, 'copula')
        """
        folder = locate(name, revision=revision)
        options = LoadOptions(dtype, device_map, quantization)
        parts = read_parts(folder, denoiser=denoiser, options=options)
        try:
            return cls._of(parts).eval()
        except ConfigError as error:
            raise CheckpointError(f"{folder} is not a coupled model: {error}") from error

    @classmethod
    def _of(cls, parts: Parts) -> CoupledModel:
        model = cls(
            parts.denoiser,
            parts.circuit,
            parts.modulator,
            parts.vocabulary,
            settings=parts.settings,
            block_length=parts.block_length,
            alternatives=parts.alternatives,
            choice=parts.choice,
        )
        model.record = dict(parts.record)
        return model

    def _parts(self) -> Parts:
        return Parts(
            self.denoiser,
            self.circuit,
            self.modulator,
            self.vocabulary,
            self.settings,
            self.block,
            self.record,
            self.members[1:],
            self.choice,
        )

    def _settings(self, coupling: str | CouplingSettings | None) -> CouplingSettings:
        if coupling is None:
            return self.settings
        if isinstance(coupling, CouplingSettings):
            return coupling
        if coupling.startswith("conditioned") and self.modulator.kind == "static":
            raise CouplingError(
                f"coupling {coupling!r}: expected a model with a modulator that reads hidden "
                f"states, found a static one"
            )
        return self.settings.named(coupling)

    def _check(self) -> None:
        plan = self.circuit.plan
        self._members.check(1 if self.choice is None else self.choice.num_circuits)
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
