"""The stages that train the parts together: the coupling, then on request everything along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

import pcircuits as pc
from codd.cli.recipe import JOINT
from codd.cli.workshop import StageLog, Workshop, finished_log
from codd.denoisers.base import DenoiserModule
from codd.denoisers.lora import add_lora, merge_lora
from codd.model import CoupledModel
from codd.modulators.registry import make_modulator
from codd.training.cache import DenoiserCache
from codd.training.cached_loop import CachedTraining, train_cached
from codd.training.coupling_loop import train_coupling


def coupling_stage(
    workshop: Workshop, denoiser: DenoiserModule, circuit: pc.CircuitModel, *, resume: bool
) -> tuple[CoupledModel, StageLog | None]:
    """The third stage, or what it left behind if it is finished; no log if it had no task."""
    recipe = workshop.recipe
    model = _coupled(workshop, denoiser, circuit)
    if not recipe.trains_coupling:
        return model, None
    identity = {
        **workshop.material.identity("coupling-training"),
        **_made_before(workshop),
    }
    if workshop.cache is not None:
        return model, _train_cached(workshop, model, workshop.cache, identity, resume=resume)
    outcome = train_coupling(
        model,
        workshop.material.train,
        workshop.material.held_out(),
        recipe.coupling,
        recipe.schedule,
        workshop.folder("coupling"),
        identity,
        resume=resume,
        **workshop.options("coupling"),
    )
    return model, finished_log(outcome.history, outcome.step, recipe.schedule.steps)


def joint_stage(workshop: Workshop, model: CoupledModel, *, resume: bool) -> StageLog:
    """The joint stage: the denoiser or its adapters, the head and on request the circuit.

    Of a denoiser that is stored whole the adapters are merged at the end.
    """
    recipe = workshop.recipe
    assert recipe.joint is not None, "the caller has asked for it"
    identity = {
        **workshop.material.identity("joint-training"),
        **_made_before(workshop),
        "coupling_training": {**asdict(recipe.coupling), "schedule": asdict(recipe.schedule)},
        "cache": None if workshop.cache is None else workshop.cache.layout.identity,
    }
    if recipe.lora is not None:
        add_lora(model.denoiser, recipe.lora, seed=recipe.joint_schedule.seed)
    outcome = train_coupling(
        model,
        workshop.material.train,
        workshop.material.held_out(),
        recipe.joint,
        recipe.joint_schedule,
        workshop.folder(JOINT),
        identity,
        resume=resume,
        **workshop.options(JOINT),
    )
    log = finished_log(outcome.history, outcome.step, recipe.joint_schedule.steps)
    if recipe.lora is not None and workshop.material.published is None:
        merge_lora(model.denoiser)
    return log


def _made_before(workshop: Workshop) -> dict[str, Any]:
    """What the coupling rests on, as JSON."""
    recipe = workshop.recipe
    training = {**asdict(recipe.denoiser), "betas": list(recipe.denoiser.betas)}
    return {
        "denoiser": workshop.material.network_identity(),
        "denoiser_training": training if workshop.material.published is None else None,
        "circuit_training": asdict(recipe.circuit),
        "window": recipe.window,
        "length": workshop.material.length,
        "block": recipe.block,
        "modulator": {"kind": recipe.modulator, "rank": recipe.rank},
    }


def _train_cached(
    workshop: Workshop,
    model: CoupledModel,
    cache: DenoiserCache,
    identity: Mapping[str, Any],
    *,
    resume: bool,
) -> StageLog:
    recipe = workshop.recipe
    rates = CachedTraining(
        batch_size=recipe.coupling.batch_size,
        modulator_learning_rate=recipe.coupling.modulator_learning_rate,
        circuit_learning_rate=recipe.coupling.circuit_learning_rate,
        validation_rows=recipe.coupling.validation_windows,
        micro_batches=recipe.coupling.micro_batches,
    )
    outcome = train_cached(
        model.circuit,
        model.modulator,
        model.settings,
        cache,
        rates,
        recipe.schedule,
        workshop.folder("coupling"),
        identity,
        resume=resume,
        **workshop.options("coupling"),
    )
    found = finished_log(outcome.run.history, outcome.run.step, recipe.schedule.steps)
    return replace(found, mean_omitted=outcome.mean_omitted)


def _coupled(
    workshop: Workshop, denoiser: DenoiserModule, circuit: pc.CircuitModel
) -> CoupledModel:
    recipe = workshop.recipe
    with torch.random.fork_rng(devices=[]):  # PyTorch's modules draw weights when made
        torch.manual_seed(recipe.schedule.seed)
        modulator = make_modulator(
            recipe.modulator, circuit.plan, denoiser.hidden_size, rank=recipe.rank
        ).to(workshop.device)
    return CoupledModel(
        denoiser.to(workshop.device),
        circuit,
        modulator,
        workshop.material.vocabulary,
        settings=recipe.settings,
        block_length=recipe.block,
    )
