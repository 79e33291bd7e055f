"""A hidden Markov model that starts from a denoiser's hidden states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import codd
import pcircuits as pc
from codd.errors import ConfigError
from codd.training.latent_start import LatentStart, latent_hmm
from codd.training.windows import evaluation_windows

V, K, LENGTH = 30, 6, 12


def chain(count: int) -> tuple[Tensor, Tensor]:
    """States that go round, and tokens of which each state has five of its own."""
    generator = torch.Generator().manual_seed(0)
    moves = (torch.rand(count, generator=generator) < 0.9).long()
    states = moves.cumsum(0) % K
    return states, 5 * states + torch.randint(5, (count,), generator=generator)


class Oracle(nn.Module):
    """A denoiser whose hidden states say the state of the chain, in more dimensions or fewer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_categories = self.mask_id = V
        self.hidden_size, self.max_length = width, LENGTH
        self.register_buffer("means", 3 * torch.randn(K, width, generator=_generator()))

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> codd.DenoiserOutput:
        noise = torch.randn(*tokens.shape, self.hidden_size, generator=_generator())
        hidden = self.means[tokens // 5] + 0.2 * noise
        return codd.DenoiserOutput(hidden @ hidden.new_zeros(self.hidden_size, V), hidden)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("width", [8, 300])
def test_the_states_of_the_text_are_found(width: int) -> None:
    _, tokens = chain(1200)
    sequences = evaluation_windows(tokens, LENGTH)
    found = latent_hmm(Oracle(width), sequences, K, start=LatentStart(200))

    own = found["emission"].view(K, K, 5).sum(-1)  # (found, true) mass of each state's tokens
    order = own.argmax(1)
    assert sorted(order.tolist()) == list(range(K))
    assert own.amax(1).min() > 0.98
    onward = found["transition"][order.argsort()][:, order.argsort()]
    assert torch.allclose(onward.roll(-1, 1).diagonal(), torch.tensor(0.9), atol=0.06)
    for name, table in found.items():
        assert torch.allclose(table.sum(-1), torch.ones(()), atol=1e-5), name
        assert (table > 0).all(), name


def test_it_starts_far_above_a_random_start() -> None:
    _, tokens = chain(1200)
    sequences = evaluation_windows(tokens, LENGTH)
    circuit = pc.CircuitModel(pc.families.hmm(LENGTH, K, V), seed=0)
    held_out = evaluation_windows(chain(2400)[1][1200:], LENGTH)
    before = circuit.log_likelihood(held_out).mean() / LENGTH
    circuit.set_probabilities(latent_hmm(Oracle(8), sequences, K))
    after = circuit.log_likelihood(held_out).mean() / LENGTH

    # At best -2.06: five tokens of a state are alike, and the next state is known but for a tenth.
    assert before < -3.3 and after > -2.2


def test_it_repeats_and_few_tokens_are_refused() -> None:
    sequences = evaluation_windows(chain(600)[1], LENGTH)
    first, second = (latent_hmm(Oracle(300), sequences, K) for _ in range(2))

    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ConfigError, match="at least 13 tokens, one a state, found 12"):
        latent_hmm(Oracle(8), sequences[:1], 13)
    with pytest.raises(ConfigError, match="smoothing: expected a positive number, found 0"):
        LatentStart(smoothing=0)
