"""The stages that train the parts, each by itself: the denoiser, then the circuit."""

from __future__ import annotations

import pcircuits as pc
from codd.checkpoint import has_checkpoint
from codd.cli.workshop import StageLog, Workshop, finished_log
from codd.denoisers.base import DenoiserModule
from codd.training.circuit_loop import starting_circuit, train_circuit
from codd.training.denoiser_loop import train_denoiser
from codd.training.latent_start import LatentStart, latent_hmm
from codd.training.windows import evaluation_windows

_CIRCUIT_VALIDATION_WINDOWS = 512


def denoiser_stage(workshop: Workshop, *, resume: bool) -> tuple[DenoiserModule, StageLog | None]:
    """The first stage, or what it left behind if it is finished, or the published denoiser."""
    training, network = workshop.recipe.denoiser, workshop.material.network
    if isinstance(network, DenoiserModule):
        return network, None
    trained = train_denoiser(
        workshop.material.corpus,
        workshop.material.vocabulary,
        network,
        training,
        workshop.folder("denoiser"),
        resume=resume,
        **workshop.options("denoiser"),
    )
    return trained.model, finished_log(trained.history, trained.step, training.steps)


def circuit_stage(workshop: Workshop, *, resume: bool) -> tuple[pc.CircuitModel, StageLog]:
    """The second stage, or what it left behind if it is finished."""
    recipe, folder = workshop.recipe, workshop.folder("circuit")
    circuit = _starting_circuit(workshop, resumed=resume and has_checkpoint(folder))
    circuit.to(workshop.device)
    valid = evaluation_windows(workshop.material.valid, recipe.window)
    outcome = train_circuit(
        circuit,
        workshop.material.train,
        valid[:_CIRCUIT_VALIDATION_WINDOWS],
        recipe.circuit,
        folder,
        {
            **workshop.material.identity("circuit-training"),
            "window": recipe.window,
            "start": "latents" if _starts_from_latents(workshop) else "contexts",
        },
        resume=resume,
        **workshop.options("circuit"),
    )
    return circuit, finished_log(outcome.history, outcome.step, recipe.circuit.steps)


def _starts_from_latents(workshop: Workshop) -> bool:
    """Whether the circuit starts from a published denoiser's hidden states.

    Contexts are better, but need a state for every category.
    """
    few = workshop.recipe.circuit.num_states < workshop.material.num_categories
    return few and workshop.material.published is not None


def _starting_circuit(workshop: Workshop, *, resumed: bool) -> pc.CircuitModel:
    size, recipe = workshop.material.num_categories, workshop.recipe
    states, seed = recipe.circuit.num_states, recipe.circuit.seed
    if resumed:
        # The checkpoint brings the parameters: counting again would be for nothing.
        return pc.CircuitModel(pc.families.hmm(recipe.window, states, size))
    denoiser = workshop.material.published
    if denoiser is None or not _starts_from_latents(workshop):
        return starting_circuit(workshop.material.train, recipe.window, states, size, seed=seed)
    circuit = pc.CircuitModel(pc.families.hmm(recipe.window, states, size))
    sequences, start = workshop.material.sequences(), LatentStart(seed=seed)
    found = latent_hmm(denoiser, sequences, states, start=start, device=workshop.device)
    circuit.set_probabilities(found)
    return circuit
