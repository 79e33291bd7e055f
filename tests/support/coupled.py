"""A coupled model with random weights, small enough to be asked for everything."""

from __future__ import annotations

import torch

import codd
import pcircuits as pc

TEXT = "the cat sat on the mat; "


def tiny_model(
    *,
    modulator: str = "latent",
    window: int = 8,
    block: int = 4,
    text: str = TEXT,
    sharpness: float = 1.0,
) -> codd.CoupledModel:
    """A transformer, a hidden Markov model and a head over the characters of a text.

    The circuit's probabilities are taken to a power, the sharpness: tokens depend on one another
    more.
    """
    vocabulary = codd.CharacterVocabulary.from_text([text])
    config = codd.TransformerConfig(vocabulary.size, max_length=16, width=16, num_layers=1)
    denoiser = codd.TransformerDenoiser(config, seed=1)
    circuit = pc.CircuitModel(pc.families.hmm(window, 5, vocabulary.size), seed=2)
    sharp = {n: (sharpness * p).log_softmax(-1) for n, p in circuit.log_parameters().items()}
    circuit.set_log_parameters(sharp)
    torch.manual_seed(3)
    head = codd.make_modulator(modulator, circuit.plan, denoiser.hidden_size, rank=3)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return codd.CoupledModel(denoiser, circuit, head, vocabulary, block_length=block).eval()
