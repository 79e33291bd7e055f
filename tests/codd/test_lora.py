"""Low-rank adapters: they change nothing at first, train alone, and are stored apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import codd
from codd.denoisers.lora import (
    LoraSettings,
    add_lora,
    load_lora,
    lora_of,
    lora_parameters,
    merge_lora,
    without_lora,
)
from codd.errors import CheckpointError, ConfigError
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.schedule import Schedule
from codd.training.windows import evaluation_windows
from tests.support.training_worker import LENGTH, SCHEDULE, SETTINGS, parts, tokens


def small() -> codd.TransformerDenoiser:
    return parts()[0].eval()


def stirred(denoiser: torch.nn.Module) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in lora_parameters(denoiser).values():
            parameter.add_(0.3 * torch.randn_like(parameter))


@torch.no_grad()
def test_new_adapters_change_nothing_and_repeat_with_their_seed() -> None:
    batch = tokens()[:LENGTH][None]
    plain = small()(batch).logits
    made = []
    for seed in (3, 3, 4):
        denoiser = small()
        add_lora(denoiser, LoraSettings(2), seed=seed)
        assert torch.equal(denoiser(batch).logits, plain)
        made.append(lora_parameters(denoiser)["blocks.0.qkv.lora_A.weight"])

    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert made[0].shape == (2, 8)


def test_all_linear_layers_of_the_blocks_are_adapted_or_those_named() -> None:
    denoiser, one = small(), small()
    add_lora(denoiser, LoraSettings(2))
    add_lora(one, LoraSettings(2, targets=("qkv", "head")))

    layers = {name.rsplit(".lora_", 1)[0] for name in lora_parameters(denoiser)}
    expected = {"qkv", "attention_out", "mlp_in", "mlp_out"}
    assert layers == {f"blocks.0.{name}" for name in expected}
    assert {n.rsplit(".lora_", 1)[0] for n in lora_parameters(one)} == {"blocks.0.qkv", "head"}


@torch.no_grad()
def test_adapters_are_merged_and_stored_apart() -> None:
    batch = tokens()[:LENGTH][None]
    denoiser, weights = small(), small().state_dict()
    settings = LoraSettings(2, alpha=3)
    add_lora(denoiser, settings)
    stirred(denoiser)
    adapted = denoiser(batch).logits
    kept = without_lora(denoiser.state_dict().items())
    again = small()
    load_lora(again, settings, lora_parameters(denoiser))

    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weights[name]) for name in weights)
    assert torch.equal(again(batch).logits, adapted) and lora_of(again) == settings
    assert not any(parameter.requires_grad for parameter in again.parameters())
    merge_lora(denoiser)
    assert list(denoiser.state_dict()) == list(weights) and lora_of(denoiser) is None
    torch.testing.assert_close(denoiser(batch).logits, adapted)
    assert not torch.allclose(adapted, small()(batch).logits)


def test_alpha_over_rank_scales_the_change() -> None:
    changes = []
    for alpha in (2, 4):
        denoiser = small()
        add_lora(denoiser, LoraSettings(2, alpha=alpha))
        stirred(denoiser)
        merge_lora(denoiser)
        changes.append(denoiser.blocks[0].qkv.weight - small().blocks[0].qkv.weight)

    torch.testing.assert_close(changes[1], 2 * changes[0])


def test_joint_training_moves_adapters_circuit_and_head_and_nothing_else(tmp_path: Path) -> None:
    denoiser, circuit, head = parts()
    add_lora(denoiser, LoraSettings(2))
    model = codd.CoupledModel(
        denoiser,
        circuit,
        head,
        codd.CharacterVocabulary.from_text(["abcdefgh"]),
        settings=SETTINGS,
        block_length=3,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rates = CouplingTraining(7, circuit_learning_rate=1e-2, denoiser_learning_rate=1e-3)
    valid = evaluation_windows(tokens()[:100], LENGTH)
    train_coupling(model, tokens(), valid, rates, SCHEDULE, tmp_path, {}, show_progress=False)

    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    frozen = {name for name in before if name.startswith("denoiser.") and "lora_" not in name}
    assert moved == before.keys() - frozen and frozen


def test_parts_of_a_step_add_up_to_its_gradient(tmp_path: Path) -> None:
    found = []
    for count in (1, 3):
        denoiser, circuit, head = parts()
        model = codd.CoupledModel(
            denoiser,
            circuit,
            head,
            codd.CharacterVocabulary.from_text(["abcdefgh"]),
            settings=SETTINGS,
            block_length=3,
        )
        rates = CouplingTraining(7, circuit_learning_rate=1e-2, micro_batches=count)
        schedule = Schedule(3, warmup_steps=1, validate_every=3, checkpoint_every=3)
        valid = evaluation_windows(tokens()[:100], LENGTH)
        folder = tmp_path / str(count)
        train_coupling(model, tokens(), valid, rates, schedule, folder, {}, show_progress=False)
        found.append(model.circuit.log_parameters()["emission"].detach())

    start = parts()[1].log_parameters()["emission"]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    assert (found[0] - start).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank: expected at least 1, found 0"),
        ({"alpha": -1}, "alpha: expected a positive number, found -1"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**settings)


def test_what_does_not_fit_is_named() -> None:
    denoiser = small()
    with pytest.raises(ConfigError, match=r"expected linear layers \['up'\], found blocks.0.qkv"):
        add_lora(denoiser, LoraSettings(targets=("up",)))
    with pytest.raises(ConfigError, match="expected one with adapters, found none"):
        merge_lora(denoiser)
    add_lora(denoiser, LoraSettings(2))
    with pytest.raises(ConfigError, match="expected one without adapters"):
        add_lora(denoiser, LoraSettings(2))
    stored = dict(lora_parameters(denoiser))
    with pytest.raises(CheckpointError, match=r"expects the shape \(3, 8\), found \(2, 8\)"):
        load_lora(small(), LoraSettings(3), stored)
