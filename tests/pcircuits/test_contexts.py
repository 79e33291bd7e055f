"""The starting point of chains of text: states that are contexts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pcircuits as pc


def _text(length: int = 6000) -> Tensor:
    """Three tokens; the next depends on the last two: it repeats the last but one, mostly."""
    generator = torch.Generator().manual_seed(0)
    tokens = [0, 1]
    surprises = torch.rand(length, generator=generator) < 0.1
    noise = torch.randint(3, (length,), generator=generator)
    for surprise, other in zip(surprises.tolist(), noise.tolist(), strict=True):
        tokens.append(other if surprise else tokens[-2])
    return torch.tensor(tokens)


def test_all_rows_are_distributions_without_zeros() -> None:
    found = pc.context_hmm(_text(), num_states=12, num_categories=3)

    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    assert shapes == {"initial": (12,), "transition": (12, 12), "emission": (12, 3)}
    for tensor in found.values():
        assert bool((tensor > 0).all())
        torch.testing.assert_close(tensor.sum(-1), torch.ones_like(tensor.sum(-1)))


def test_with_a_state_a_token_it_is_the_chain_of_pairs() -> None:
    text, smoothing = _text(), 0.1

    found = pc.context_hmm(text, num_states=3, num_categories=3, smoothing=smoothing)

    pairs = torch.zeros(3, 3, dtype=torch.float64)
    for a, b in zip(text[:-1].tolist(), text[1:].tolist(), strict=True):
        pairs[a, b] += 1
    frequencies = torch.bincount(text).double() / len(text)
    expected = (1 - smoothing) * pairs / pairs.sum(1, keepdim=True) + smoothing * frequencies
    torch.testing.assert_close(found["transition"], expected, rtol=1e-3, atol=1e-4)
    assert found["emission"].argmax(1).tolist() == [0, 1, 2]
    assert found["emission"].diagonal().min() > 0.999


def test_longer_contexts_predict_better_than_pairs() -> None:
    """The gain over the chain of pairs is most of what the last but one token tells."""
    text = _text()
    rows = text[: 16 * 300].view(-1, 16)
    scores = {}
    for num_states in (3, 12):
        model = pc.CircuitModel(pc.families.hmm(16, num_states, 3))
        model.set_probabilities(pc.context_hmm(text, num_states, 3))
        with torch.no_grad():
            scores[num_states] = model.log_likelihood(rows).mean().item() / 16

    assert scores[12] > scores[3] + 0.3


def test_a_text_without_longer_contexts_still_fills_all_states() -> None:
    found = pc.context_hmm(torch.tensor([0, 1] * 10), num_states=6, num_categories=2)

    assert found["transition"].isfinite().all()


@pytest.mark.parametrize(
    "tokens, num_states, message",
    [
        (torch.tensor([0, 1, 2]), 2, "2 states, 3 categories"),
        (torch.tensor([0]), 3, r"shape \(1,\)"),
        (torch.tensor([[0, 1]]), 3, r"shape \(1, 2\)"),
        (torch.tensor([0, 3, 1]), 5, r"3.*0 \.\. 2"),
        (torch.tensor([0, -1, 1]), 5, r"-1.*0 \.\. 2"),
    ],
)
def test_texts_that_do_not_fit_are_refused(tokens: Tensor, num_states: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pc.context_hmm(tokens, num_states, num_categories=3)
