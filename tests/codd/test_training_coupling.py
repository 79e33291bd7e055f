"""Training circuit and coupling: it helps, resumes exactly, and refuses what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import codd
import pcircuits as pc
from codd.errors import CheckpointError, ConfigError
from codd.training import circuit_loop, coupling_loop
from codd.training.circuit_loop import CircuitTraining, starting_circuit, train_circuit
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.run_state import Outcome
from codd.training.schedule import Schedule
from codd.training.windows import evaluation_windows
from tests.support.interrupt import interrupt_during

SENTENCES = "the cat sat. a dog ran. the dog sat. a cat ran. "


def _tokens() -> tuple[codd.CharacterVocabulary, torch.Tensor]:
    vocabulary = codd.CharacterVocabulary.from_text([SENTENCES])
    return vocabulary, vocabulary.encode(SENTENCES * 40)


def _circuit_run(folder: Path, *, steps: int = 12, resume: bool = False) -> pc.CircuitModel:
    vocabulary, tokens = _tokens()
    circuit = starting_circuit(tokens, 8, 24, vocabulary.size)
    training = CircuitTraining(
        num_states=24, steps=steps, batch_size=32, warmup=2, validate_every=4, checkpoint_every=5
    )
    valid = evaluation_windows(tokens[:400], 8)
    train_circuit(
        circuit, tokens, valid, training, folder, {"data": "x"}, resume=resume, show_progress=False
    )
    return circuit


def _model() -> codd.CoupledModel:
    vocabulary, tokens = _tokens()
    config = codd.TransformerConfig(vocabulary.size, max_length=16, width=16, num_layers=1)
    circuit = starting_circuit(tokens, 8, 24, vocabulary.size)
    torch.manual_seed(0)
    head = codd.make_modulator("latent", circuit.plan, 16, rank=4)
    denoiser = codd.TransformerDenoiser(config, seed=0)
    return codd.CoupledModel(denoiser, circuit, head, vocabulary, block_length=4)


def _coupling_run(
    folder: Path, *, resume: bool = False, steps: int = 8, **rates: float
) -> tuple[codd.CoupledModel, Outcome]:
    model = _model()
    _, tokens = _tokens()
    outcome = train_coupling(
        model,
        tokens,
        evaluation_windows(tokens[:400], 16),
        CouplingTraining(batch_size=8, validation_windows=16, **rates),
        Schedule(steps=steps, warmup_steps=2, validate_every=4, checkpoint_every=3, ema_decay=0.5),
        folder,
        {"data": "x"},
        resume=resume,
        show_progress=False,
    )
    return model, outcome


def test_contexts_and_em_beat_the_start(tmp_path: Path) -> None:
    vocabulary, tokens = _tokens()
    windows = evaluation_windows(tokens[:400], 8)
    start = starting_circuit(tokens, 8, 24, vocabulary.size).log_likelihood(windows).mean()
    learned = _circuit_run(tmp_path).log_likelihood(windows).mean()

    assert learned.item() > start.item()


def test_few_states_start_at_random(tmp_path: Path) -> None:
    vocabulary, tokens = _tokens()
    circuit = starting_circuit(tokens, 8, 1, vocabulary.size)

    assert circuit.probabilities()["emission"].shape == (1, vocabulary.size)


def test_an_interrupted_circuit_run_resumes_to_the_same_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _circuit_run(tmp_path / "whole").log_parameters()
    with monkeypatch.context() as patch:
        interrupt_during(patch, circuit_loop, 6)
        _circuit_run(tmp_path / "parts")
    resumed = _circuit_run(tmp_path / "parts", resume=True).log_parameters()

    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interrupted_coupling_run_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = _coupling_run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_during(patch, coupling_loop, 4)
        _, outcome = _coupling_run(tmp_path / "parts")
    assert 4 <= outcome.step < 8
    resumed, _ = _coupling_run(tmp_path / "parts", resume=True)

    for (name, expected), found in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found), name


def test_training_improves_what_it_trains_and_leaves_the_rest(tmp_path: Path) -> None:
    start = _model()
    model, outcome = _coupling_run(tmp_path, steps=24)

    assert outcome.history[-1].valid_loss < outcome.history[0].valid_loss
    for expected, found in zip(
        start.denoiser.parameters(), model.denoiser.parameters(), strict=True
    ):
        assert torch.equal(expected, found)


def test_the_circuit_is_trained_on_request(tmp_path: Path) -> None:
    start = _model()
    kept, _ = _coupling_run(tmp_path / "kept")
    tuned, _ = _coupling_run(tmp_path / "tuned", circuit_learning_rate=1e-2)
    before, same, after = (m.circuit.probabilities()["transition"] for m in (start, kept, tuned))

    assert torch.equal(before, same)
    assert not torch.allclose(before, after)


def test_one_flag_trains_the_denoiser_along(tmp_path: Path) -> None:
    start = _model()
    model, _ = _coupling_run(tmp_path, denoiser_learning_rate=1e-3)

    moved = [
        not torch.equal(a, b)
        for a, b in zip(start.denoiser.parameters(), model.denoiser.parameters(), strict=True)
    ]
    assert all(moved)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    _circuit_run(tmp_path)
    with pytest.raises(CheckpointError, match="found one; resume it"):
        _circuit_run(tmp_path)
    with pytest.raises(CheckpointError, match=r"training\.steps: expected 13, found 12"):
        _circuit_run(tmp_path, steps=13, resume=True)


def test_nothing_to_train_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing would be trained"):
        _coupling_run(tmp_path, modulator_learning_rate=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CouplingTraining(batch_size=0), "batch_size"),
        (lambda: CouplingTraining(prompt_fraction=1.5), "prompt_fraction"),
        (lambda: CircuitTraining(steps=0), "steps: expected at least 1"),
        (lambda: Schedule(steps=-3), "steps: expected a positive number, found -3"),
    ],
)
def test_settings_are_checked(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
