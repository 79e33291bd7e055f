"""The coupled model: denoiser, circuit and modulator together, as users hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import pcircuits as pc
from codd.assembly import assemble
from codd.coupled import CoupledDenoiser
from codd.coupling.couplings import CouplingSettings
from codd.decoding.loop import Generation, generate, stream
from codd.decoding.texts import growing_texts, paced, read_texts
from codd.denoisers.base import LoadOptions
from codd.denoisers.placement import DeviceMap
from codd.errors import CheckpointError, ConfigError
from codd.hub import locate, push
from codd.model_card import model_card
from codd.modulators.choice import CircuitChoice
from codd.modulators.registry import AnyModulator
from codd.pretrained import Parts, read_parts, write_parts
from codd.published import PublishedCircuit
from codd.vocabulary import Vocabulary


class CoupledModel(CoupledDenoiser, nn.Module):
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
        super().__init__(
            denoiser,
            circuit,
            modulator,
            settings=settings,
            block_length=block_length,
            alternatives=alternatives,
            choice=choice,
        )
        self.vocabulary = vocabulary
        self.record: dict[str, Any] = {}
        if vocabulary.size != self.num_categories:
            raise ConfigError(
                f"the denoiser has {self.num_categories} categories; the vocabulary "
                f"{vocabulary.size}"
            )

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
        except (ConfigError, TypeError) as error:  # TypeError: a number that is none
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
