"""What `codd evaluate` and `codd demo` compare: ways to decode with one model, and controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling.settings import FACTORISED
from codd.decoding.budgets import Budget
from codd.decoding.rules import quota_from_text
from codd.errors import ConfigError
from codd.evaluation.continuation import FewStepVariant
from codd.evaluation.gap import GapVariant
from codd.evaluation.quota_curves import QuotaFamily
from codd.model import CoupledModel
from codd.modulators.registry import make_modulator


@dataclass(frozen=True)
class VariantRecipe:
    """One way to decode.

    Attributes:
        circuit: "own", the model's with its modulator; "static", without it; "one-state", the
            training text's token frequencies; "shuffled", states that emit as others should.
        coupling: A coupling's name.
        sampler: How the tokens of a step are drawn.
    """

    circuit: str
    coupling: str
    sampler: str = "exact"


# With one state the circuit knows no dependency: what it changes, it changes token by token.
RECIPES = {
    "copula": VariantRecipe("own", "copula"),
    "copula-any-order": VariantRecipe("own", "copula", "any_order"),
    "product": VariantRecipe("own", "product"),
    "copula-static": VariantRecipe("static", "copula"),
    "product-static": VariantRecipe("static", "product"),
    "one-state": VariantRecipe("one-state", "copula"),
    "shuffled-emissions": VariantRecipe("shuffled", "copula"),
}


@dataclass(frozen=True, eq=False)
class Variants:
    """The variants of one model.

    Attributes:
        model: The model.
        train: (N,) ids of the training split, for the one-state circuit.
        names: Keys of `RECIPES`; None for all that differ for this model.
        seed: Seed of the shuffled emissions.
    """

    model: CoupledModel
    train: Tensor
    names: Sequence[str] | None = None
    seed: int = 0

    @cached_property
    def recipes(self) -> dict[str, VariantRecipe]:
        """The chosen recipes by name.

        Raises:
            ConfigError: If a name is unknown.
        """
        if self.names is None:
            modulated = self.model.modulator.kind != "static"
            return {n: r for n, r in RECIPES.items() if modulated or r.circuit != "static"}
        unknown = [name for name in self.names if name not in RECIPES]
        if unknown:
            raise ConfigError(
                f"--variants: expected some of {', '.join(RECIPES)}; found {unknown[0]!r}"
            )
        return {name: RECIPES[name] for name in self.names}

    def for_gap(self) -> dict[str, GapVariant]:
        """Those that differ in their distribution, whatever the sampler."""
        return {
            name: GapVariant(self._models[recipe.circuit], recipe.coupling)
            for name, recipe in self.recipes.items()
            if recipe.sampler == "exact"
        }

    def for_few_step(self) -> dict[str, FewStepVariant]:
        """All, and the circuit off."""
        chosen = {
            name: FewStepVariant(
                self._models[recipe.circuit], recipe.coupling, sampler=recipe.sampler
            )
            for name, recipe in self.recipes.items()
        }
        return {FACTORISED: FewStepVariant(self.model, FACTORISED), **chosen}

    def for_frontier(self) -> dict[str, FewStepVariant]:
        """The rivals first, then the couplings: tokens fixed one by one, and drawn jointly.

        Raises:
            ConfigError: If a chosen name is none of them.
        """
        own = {
            FACTORISED: FewStepVariant(self.model, FACTORISED, sampler="latent"),
            "product": FewStepVariant(self.model, "product", sampler="any_order"),
            "copula": FewStepVariant(self.model, "copula", sampler="any_order"),
            "copula-joint": FewStepVariant(self.model, "copula", sampler="latent"),
        }
        if self.model.modulator.kind != "static":
            static = self._with("static")
            own["copula-static"] = FewStepVariant(static, "copula", sampler="any_order")
        unknown = [name for name in self.names or () if name not in own]
        if unknown:
            raise ConfigError(
                f"--variants: expected some of {', '.join(own)}; found {unknown[0]!r}"
            )
        rivals = (FACTORISED, "product")
        kept = {name for name in own if self.names is None or name in self.names or name in rivals}
        return {name: variant for name, variant in own.items() if name in kept}

    def for_quotas(self, rules: Sequence[str]) -> dict[str, QuotaFamily]:
        """One family for each kind of rule, without and with the circuit; budgets with it alone.

        Args:
            rules: Texts that `quota_from_text` reads.

        Raises:
            DecodingError: If one is no rule.
        """
        by_name: dict[str, list[str]] = {}
        for rule in rules:
            by_name.setdefault(rule.partition("=")[0], []).append(rule)
            quota_from_text(rule)
        families = {}
        for coupling in (FACTORISED, "copula"):
            for name, own in by_name.items():
                budget = isinstance(quota_from_text(name), Budget)
                if budget and coupling == FACTORISED:
                    continue  # independent tokens cost a budget nothing
                sampler = "any_order" if budget else "exact"
                variant = FewStepVariant(self.model, coupling, sampler=sampler)
                families[f"{name}, {coupling}"] = QuotaFamily(variant, tuple(own))
        return families

    def for_tasks(self, sampler: str, temperature: float) -> dict[str, FewStepVariant]:
        """Each coupling once, and the circuit off, all with one sampler and temperature."""
        variants = {FACTORISED: FewStepVariant(self.model, FACTORISED)}
        for name, recipe in self.recipes.items():
            if recipe.sampler == "exact":
                variants[name] = FewStepVariant(self._models[recipe.circuit], recipe.coupling)
        return {
            name: replace(variant, sampler=sampler, temperature=temperature)
            for name, variant in variants.items()
        }

    @cached_property
    def _models(self) -> dict[str, CoupledModel]:
        return {kind: self._with(kind) for kind in {r.circuit for r in self.recipes.values()}}

    def _with(self, kind: str) -> CoupledModel:
        if kind == "own":
            return self.model
        if kind == "static":
            return without_modulator(self.model, self.model.circuit)
        if kind == "one-state":
            return without_modulator(self.model, one_state(self.model, self.train))
        return without_modulator(self.model, shuffled(self.model.circuit, self.seed))


def without_modulator(model: CoupledModel, circuit: pc.CircuitModel) -> CoupledModel:
    """A model's denoiser with a circuit as it is.

    Args:
        model: Gives everything else.
        circuit: Over the same window and categories.
    """
    return CoupledModel(
        model.denoiser,
        circuit.to(model.device),
        make_modulator("static", circuit.plan, model.denoiser.hidden_size).to(model.device),
        model.vocabulary,
        settings=model.settings,
        block_length=model.block,
    )


def one_state(model: CoupledModel, train: Tensor) -> pc.CircuitModel:
    """A circuit of independent tokens: the frequencies of the training text.

    Args:
        model: Gives window and categories.
        train: (N,) ids.
    """
    size = model.num_categories
    circuit = pc.CircuitModel(pc.families.hmm(model.window, 1, size))
    counts = torch.bincount(train, minlength=size) + 1.0
    # What a single state starts with and turns into is certain: only its emission is free.
    circuit.set_probabilities({"emission": (counts / counts.sum())[None]})
    return circuit


def shuffled(circuit: pc.CircuitModel, seed: int) -> pc.CircuitModel:
    """A hidden Markov model whose states have exchanged what they emit.

    Args:
        circuit: Has a parameter "emission", a row for each state.
        seed: Seed of the exchange.

    Raises:
        ConfigError: If there is no such parameter.
    """
    parameters = {name: p.detach() for name, p in circuit.log_parameters().items()}
    if "emission" not in parameters:
        raise ConfigError(
            f"shuffled-emissions: expected a circuit with a parameter 'emission', found "
            f"{', '.join(sorted(parameters)[:4])}"
        )
    rows = len(parameters["emission"])
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    found = pc.CircuitModel(circuit.plan)
    found.set_log_parameters({**parameters, "emission": parameters["emission"][order]})
    return found
