"""Floating-point operations of training, counted from shapes; a multiply-add is two.

A backward pass counts as two forward passes. Norms, activations, softmax, optimisers and drawing
are left out: they are small beside the matrix products, for the circuit as for the denoiser.
"""

from __future__ import annotations

import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.transformer import TransformerConfig
from codd.training.grpo_config import GRPOTraining

TRAINED = 3  # a forward pass and its backward pass, in forward passes


def denoiser_forward(shape: TransformerConfig, rows: int, length: int) -> float:
    """One forward pass: 2 N D for the weight matrices, and the products of attention.

    Args:
        shape: The denoiser.
        rows: Sequences.
        length: Tokens of each.
    """
    matrices = (4 + 2 * shape.mlp_ratio) * shape.width**2 + shape.conv_width * shape.width
    attention = 2 * length * shape.width
    token = shape.num_layers * (matrices + attention) + shape.width * shape.num_categories
    return 2.0 * token * rows * length


def em_step(plan: pc.Plan, rows: int) -> float:
    """Flows of one mini-batch: a forward and a backward pass on visible tokens."""
    return TRAINED * 2.0 * plan.cost().operations * rows


def coupled_forward(plan: pc.Plan, settings: CouplingSettings, rows: int) -> float:
    """Potentials and normalising constant of windows: what a coupling costs beside the denoiser.

    Every sweep of the copula is a forward and a backward pass with soft evidence.
    """
    sweeps = len(settings.step_sizes) if settings.kind == "copula" else 0
    return (TRAINED * sweeps + 1) * 2.0 * plan.cost().soft_operations * rows


def coupling_step(
    plan: pc.Plan, settings: CouplingSettings, shape: TransformerConfig, rows: int
) -> float:
    """One step of training through a frozen denoiser."""
    observed = 2.0 * plan.cost().operations * rows
    through_circuit = TRAINED * (coupled_forward(plan, settings, rows) + observed)
    return denoiser_forward(shape, rows, shape.max_length) + through_circuit


def grpo_update(shape: TransformerConfig, training: GRPOTraining) -> float:
    """One update: completions are written, then their likelihoods taken, with a gradient."""
    views = {"one_step": 1, "complementary": 3, "trajectory": training.decoding_steps}
    once = denoiser_forward(
        shape, training.prompts_per_step * training.group_size, shape.max_length
    )
    writing = training.decoding_steps / training.inner_updates
    frozen = (training.inner_updates > 1) + (training.kl_weight > 0)
    return once * (writing + views[training.estimate] * (TRAINED + frozen))
