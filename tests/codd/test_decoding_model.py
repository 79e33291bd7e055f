"""Decoding with a real denoiser and circuit: samplers against the distribution's own figures."""

from __future__ import annotations

import itertools

import pytest
import torch

import pcircuits as pc
from codd.decoding.loop import generate
from codd.decoding.uncoupled import UncoupledModel
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.model import CoupledModel
from codd.modulators.static import StaticModulator
from codd.vocabulary import CharacterVocabulary
from tests.support.decoding import assert_follows, rows

SIZE, WINDOW, BLOCK, COUNT = 4, 4, 3, 8_000


@pytest.fixture(scope="module")
def model() -> CoupledModel:
    config = TransformerConfig(SIZE, max_length=8, width=16, num_layers=1, num_heads=2)
    circuit = pc.CircuitModel(
        pc.families.hmm(length=WINDOW, num_states=3, num_categories=SIZE), seed=0
    )
    return CoupledModel(
        TransformerDenoiser(config).eval(),
        circuit,
        StaticModulator(circuit.plan),
        CharacterVocabulary(("a", "b", "c", "\ufffd")),
        block_length=BLOCK,
    )


@pytest.mark.parametrize("coupling", ["factorised", "product", "copula"])
@pytest.mark.parametrize("sampler", ["exact", "latent", "any_order"])
def test_one_step_follows_the_model_s_joint(
    model: CoupledModel, coupling: str, sampler: str
) -> None:
    worlds = torch.tensor(list(itertools.product(range(SIZE), repeat=BLOCK)))
    visible = torch.full((len(worlds), 1), 2)
    masked = torch.cat((visible, torch.full_like(worlds, model.mask_id)), dim=1)
    with torch.no_grad():
        joint = model.joint(masked, coupling=coupling)
        table = joint.log_prob(torch.cat((visible, worlds), dim=1)).exp().double()
    assert float(table.sum()) == pytest.approx(1.0, abs=1e-5)
    # A longer prompt in the same batch pads the others, which must change nothing.
    prompts = [*rows([2]) * COUNT, *rows([0, 1, 2, 3, 0])]
    found = generate(model, prompts, BLOCK, 1, coupling=coupling, sampler=sampler)
    expected = (table / table.sum()).view(SIZE, SIZE, SIZE).numpy()
    assert_follows(found.completions[:COUNT], expected)


@pytest.mark.parametrize("mode", ["block", "full"])
@pytest.mark.parametrize("prompt", [[], [1], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]])
def test_any_prompt_length_decodes(model: CoupledModel, mode: str, prompt: list[int]) -> None:
    found = generate(model, rows(prompt, [3, 3]), 6, 3, mode=mode, sampler="any_order")
    assert [len(row) for row in found.tokens] == [len(prompt) + 6, 8]
    assert bool((found.completions < SIZE).all())


@torch.no_grad()
def test_a_denoiser_alone_sees_what_is_visible_and_no_padding(model: CoupledModel) -> None:
    alone = UncoupledModel(model.denoiser, BLOCK)
    mask = model.mask_id
    tokens = torch.tensor([[0, 1, mask, 2, mask], [3, 3, 3, mask, 1]])
    valid = torch.tensor([[True] * 5, [False, False, True, True, True]])
    start, output = torch.tensor([2, 1]), model.denoise(tokens, attention_mask=valid)

    found = [alone.distribution(output, tokens, start, valid=own) for own in (None, valid)]

    seen = [[False, True, False], [True, True, False]]
    assert found[0].observed.tolist() == seen
    assert found[1].observed.tolist() == [seen[0], [False, True, False]]
    expected = output.logits[0, 2:].softmax(-1)
    torch.testing.assert_close(found[0].marginals()[0, 0], expected[0])
    torch.testing.assert_close(found[0].marginals()[0, 2], expected[2])


@pytest.mark.parametrize("prompt", [[0, 1], [2, 3]])
def test_the_surest_position_anywhere_is_written_first(
    model: CoupledModel, prompt: list[int]
) -> None:
    masked = torch.tensor([prompt + [model.mask_id] * 6])
    with torch.no_grad():
        sure = model.denoise(masked).logits.softmax(-1).amax(-1)[0, 2:]

    found = generate(
        model,
        rows(prompt, [1, 1]),
        6,
        6,
        mode="full",
        coupling="factorised",
        selection="low_confidence",
        record_history=True,
    )

    written = found.history[0].tokens[0, -6:] != model.mask_id
    assert written.nonzero().flatten().tolist() == [int(sure.argmax())]
