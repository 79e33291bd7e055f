"""The coupled model: windows, the joint of one call, and files that come back equal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import codd
import pcircuits as pc
from codd.errors import CheckpointError, ConfigError, DenoiserError
from tests.support.coupled import TEXT, tiny_model
from tests.support.sealed import edit_description


def masked_tokens(model: codd.CoupledModel) -> torch.Tensor:
    tokens = model.vocabulary.encode(TEXT[:16]).repeat(2, 1)
    tokens[0, 9::2] = model.mask_id
    tokens[1, 12:] = model.mask_id
    return tokens


@pytest.mark.parametrize("modulator", codd.MODULATORS)
@torch.no_grad()
def test_the_joint_of_one_call_sums_to_one(modulator: str) -> None:
    model = tiny_model(modulator=modulator)
    tokens = model.vocabulary.encode(TEXT[:16])[None]
    tokens[0, 12] = tokens[0, 15] = model.mask_id
    joint = model.joint(tokens)
    size = model.num_categories
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    filled = tokens[:, 8:].repeat(len(pairs), 1)
    filled[:, 4], filled[:, 7] = pairs.T
    total = sum(float(joint.log_prob(row[None]).exp()) for row in filled)

    assert total == pytest.approx(1.0, abs=1e-4)


@torch.no_grad()
def test_windows_may_differ_from_row_to_row() -> None:
    model = tiny_model()
    tokens = masked_tokens(model)
    output = model.denoise(tokens)
    both = model.distribution(output, tokens, torch.tensor([3, 8])).marginals()
    for row, start in ((0, 3), (1, 8)):
        one = codd.DenoiserOutput(output.logits[row : row + 1], output.hidden[row : row + 1])
        alone = model.distribution(one, tokens[row : row + 1], torch.tensor([start]))
        torch.testing.assert_close(both[row : row + 1], alone.marginals())


@torch.no_grad()
def test_a_changed_circuit_is_noticed_between_calls() -> None:
    model = tiny_model(modulator="static")
    tokens = masked_tokens(model)
    before = model.joint(tokens).marginals()
    uniform = {n: torch.zeros_like(p) for n, p in model.circuit.log_parameters().items()}
    model.circuit.set_log_parameters(uniform)

    after = model.joint(tokens, coupling="product").marginals()
    assert not torch.allclose(before, after)
    factorised = model.joint(tokens, coupling="factorised").marginals()
    torch.testing.assert_close(after, factorised)


def test_with_and_without_gradients_the_values_are_the_same() -> None:
    model = tiny_model()
    tokens = masked_tokens(model)
    truth = model.vocabulary.encode(TEXT[:16])[8:].repeat(2, 1)
    with torch.no_grad():
        quick = model.joint(tokens).log_prob(truth)
    graph = model.joint(tokens).log_prob(truth)
    graph.sum().backward()

    torch.testing.assert_close(graph.detach(), quick)
    assert all(p.grad is not None for p in model.parameters())


def test_windows_outside_the_sequence_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(DenoiserError, match="windows of 8 tokens start at"):
        model.joint(masked_tokens(model), start=9)


def test_generation_keeps_the_prompt_and_repeats_with_its_seed() -> None:
    model = tiny_model()
    texts = model.generate(["the cat", "a"], new_tokens=8, steps=4, seed=5)

    assert [text[:1] for text in texts] == ["t", "a"]
    assert texts[0].startswith("the cat") and len(texts[0]) == len("the cat") + 8
    assert texts == model.generate(["the cat", "a"], new_tokens=8, steps=4, seed=5)
    assert texts != model.generate(["the cat", "a"], new_tokens=8, steps=4, seed=6)


def test_defaults_make_room_for_other_spellings_and_paces() -> None:
    model = tiny_model()
    named = model.generate("the cat", new_tokens=8, steps=4, seed=5)

    assert named == model.generate("the cat", gen_length=8, num_steps=4, seed=5)
    assert len(model.generate("the cat", gen_length=8)[0]) == len("the cat") + 8
    # A bound of no entropy fixes one token a call, of much entropy a block.
    quotas = (codd.EntropyBound(0.0), codd.EntropyBound(1e3))
    found = [model.generate_tokens("the cat", new_tokens=8, quota=quota) for quota in quotas]
    assert [own.denoiser_calls for own in found] == [8, 2]
    assert len(model.generate("the cat", quota="entropy_bound=1000")[0]) == len("the cat") + 4


@pytest.mark.parametrize("modulator", codd.MODULATORS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 2e-2)])
@torch.no_grad()
def test_files_come_back_equal(
    tmp_path: Path, modulator: str, dtype: str, tolerance: float
) -> None:
    model = tiny_model(modulator=modulator)
    model.save_pretrained(tmp_path, dtype=dtype, record={"made": "here"})
    back = codd.CoupledModel.from_pretrained(tmp_path)
    tokens = masked_tokens(model)

    assert back.vocabulary == model.vocabulary and back.settings == model.settings
    torch.testing.assert_close(
        back.joint(tokens).marginals(),
        model.joint(tokens).marginals(),
        atol=tolerance,
        rtol=0,
    )


def _edit(folder: Path, **changes: object) -> None:
    edit_description(folder / "checkpoint.json", lambda d: d["metadata"].update(changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _edit(f, kind="letter"), "expected a checkpoint of kind"),
        (
            lambda f: _edit(
                f, vocabulary={"kind": "character", "characters": ["a", "b", "\ufffd"]}
            ),
            "fingerprint",
        ),
        (lambda f: _edit(f, coupling={"kind": "glue"}), "glue"),
        (lambda f: _edit(f, denoiser={"width": 3}), "denoiser: expected a kind of .*found None"),
        (lambda f: _edit(f, format_version=3), "expected a coupled model of format version 1 or 2"),
        (lambda f: _edit(f, modulator={"kind": "latent"}), "not a coupled model: 'rank'"),
        (lambda f: _edit(f, circuit={"structure_version": 99}), "structure_version"),
        (lambda f: _edit(f, block_length=999), "block_length"),
        (lambda f: _edit(f, record=1.5), "record: expected names and values, found 1.5"),
        (lambda f: _edit(f, denoiser="net"), "denoiser: expected names and values, found 'net'"),
        (lambda f: _edit(f, block_length="8"), "is not a coupled model"),
        (lambda f: (f / "checkpoint.json").unlink(), "checkpoint.json"),
        (lambda f: (f / "checkpoint.json").write_text("{"), "checkpoint.json"),
        (lambda f: next(f.glob("*.safetensors")).write_bytes(b"1234"), "safetensors"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    tiny_model().save_pretrained(tmp_path)
    damage(tmp_path)  # type: ignore[operator]

    with pytest.raises(CheckpointError, match=message):
        codd.CoupledModel.from_pretrained(tmp_path)


def test_unknown_models_are_named() -> None:
    with pytest.raises(CheckpointError, match="no model '/nowhere/at/all'"):
        codd.CoupledModel.from_pretrained("/nowhere/at/all")


def test_parts_that_do_not_fit_are_named() -> None:
    model = tiny_model()
    other = pc.CircuitModel(pc.families.hmm(8, 5, 3))
    with pytest.raises(ConfigError, match="the circuit has 3"):
        codd.CoupledModel(model.denoiser, other, model.modulator, model.vocabulary)
    with pytest.raises(ConfigError, match="block_length <= window"):
        codd.CoupledModel(
            model.denoiser, model.circuit, model.modulator, model.vocabulary, block_length=9
        )
    with pytest.raises(ConfigError, match="float8"):
        model.save_pretrained("unused", dtype="float8")
