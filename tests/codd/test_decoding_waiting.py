"""Decoding by recorded steps asks the device for nothing between its first step and its last."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import codd
from codd.errors import CouplingError
from tests.support.coupled import tiny_model
from tests.support.waiting import Waits


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> codd.CoupledModel:
    """A model whose steps are taken by the stepper, as on a CUDA device."""
    monkeypatch.setattr(codd.CoupledModel, "why_not_captured", lambda *_: None)
    monkeypatch.setattr(codd.TransformerDenoiser, "_check_ids", lambda *_: None)  # on CPUs alone
    return tiny_model(window=8, block=8)


def decode(model: codd.CoupledModel, prompts: list[torch.Tensor], steps: int, **more: Any) -> Any:
    return codd.generate(model, prompts, 8, steps, capture=True, seed=5, **more)


@pytest.mark.parametrize("coupling", ["product", "copula", "local"])
@pytest.mark.parametrize("selection", ["low_confidence", "random"])
def test_more_steps_are_no_more_waits(
    model: codd.CoupledModel, coupling: str, selection: str
) -> None:
    prompts = [torch.tensor([1, 2]), torch.tensor([3])]
    counts = []
    for steps in (8, 2, 4, 8):  # the first lays out parameters
        with Waits() as waits:
            found = decode(model, prompts, steps, coupling=coupling, selection=selection)
        assert found.denoiser_calls == steps
        counts.append(waits.count)
    assert counts[1:] == [counts[1]] * 3


def test_recorded_steps_draw_what_others_draw(model: codd.CoupledModel) -> None:
    """The joint is the same: over many texts tokens are as frequent as without a record."""
    prompts = [torch.tensor([1, 2])] * 2000
    first = [
        found.completions[:, 0].bincount(minlength=model.num_categories).double()
        for found in (decode(model, prompts, 1), codd.generate(model, prompts, 8, 1, seed=7))
    ]
    spread = (first[0] + first[1]).clamp_min(1.0)
    assert float(((first[0] - first[1]) ** 2 / spread).sum()) < 3 * model.num_categories


def test_a_text_that_the_circuit_rules_out_is_told_at_the_end(model: codd.CoupledModel) -> None:
    weights = model.circuit.log_parameters()
    (emission,) = (n for n, w in weights.items() if w.shape[-1] == model.num_categories)
    weights[emission][:, 3] = -torch.inf
    model.circuit.set_log_parameters({n: w.log_softmax(-1) for n, w in weights.items()})
    prompts = [torch.tensor([1, 2]), torch.tensor([1, 3]), torch.tensor([2, 1])]
    # The last window has no token of the prompt: what is ruled out has to be in view.
    options = {"coupling": "product", "block_length": 4}
    with pytest.raises(CouplingError, match=r"window 1 \(of 1 such\)"):
        codd.generate(model, prompts, 4, 2, capture=True, **options)
    decoded = codd.generate(model, prompts[::2], 4, 2, capture=True, **options)
    assert bool((decoded.completions != 3).all())
