import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from codd.checkpoint import DESCRIPTION, load_checkpoint, save_checkpoint
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.errors import CheckpointError, ConfigError, CorpusError, TrainingError
from codd.training import denoiser_loop
from codd.training.corpus import Corpus
from codd.training.denoiser_config import DenoiserTraining
from codd.training.denoiser_loop import TrainedDenoiser, load_trained_denoiser, train_denoiser
from codd.training.objective import loss_at_ratio
from codd.training.run_state import RunState
from codd.training.schedule import rate_factor, step_seed
from codd.training.windows import encode_documents, evaluation_windows
from codd.vocabulary import CharacterVocabulary
from tests.support.interrupt import interrupt_during

TEXT = "abcdefgh" * 60
CORPUS = Corpus((TEXT,), (TEXT[:200],), (TEXT[:200],), sha256="0" * 64, source="eight letters")
VOCABULARY = CharacterVocabulary.from_text(["abcdefgh\n"])
MODEL = TransformerConfig(
    num_categories=VOCABULARY.size, max_length=16, width=16, num_layers=1, num_heads=2, dropout=0.1
)
TRAINING = DenoiserTraining(
    steps=6,
    batch_size=4,
    window_length=16,
    block_length=8,
    warmup_steps=2,
    warmup_plain=0.5,
    precision="float32",
    validate_every=4,
    validation_windows=8,
    checkpoint_every=4,
)


def train(folder: Path, **changes: Any) -> TrainedDenoiser:
    resume = changes.pop("resume", False)
    model = changes.pop("model", MODEL)
    vocabulary = changes.pop("vocabulary", VOCABULARY)
    corpus = changes.pop("corpus", CORPUS)
    training = dataclasses.replace(TRAINING, **changes)
    return train_denoiser(
        corpus, vocabulary, model, training, folder, resume=resume, show_progress=False
    )


def assert_same_weights(first: TransformerDenoiser, second: TransformerDenoiser) -> None:
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same_weights(first.model, train(tmp_path / "b").model)
    other = train(tmp_path / "c", seed=1).model
    assert not torch.equal(first.model.head.weight, other.head.weight)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 5])
def test_an_interrupted_run_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_during(patch, denoiser_loop, stop_at - 1)
        part = train(tmp_path / "part")
    assert part.step == stop_at
    assert load_checkpoint(tmp_path / "part").metadata["step"] == stop_at
    resumed = train(tmp_path / "part", resume=True)
    assert resumed.step == 6
    assert_same_weights(whole.model, resumed.model)
    figures = [[(e.step, e.train_loss, e.valid_loss) for e in r.history] for r in (whole, resumed)]
    assert figures[0] == figures[1]
    assert [step for step, _, _ in figures[0]] == [4, 6]
    everything = [load_checkpoint(tmp_path / name).tensors for name in ("whole", "part")]
    assert everything[0].keys() == everything[1].keys()
    assert all(torch.equal(everything[0][name], everything[1][name]) for name in everything[0])


def test_resuming_a_finished_run_returns_it(tmp_path: Path) -> None:
    first = train(tmp_path)
    again = train(tmp_path, resume=True)
    assert_same_weights(first.model, again.model)
    assert again.history == first.history


def test_resuming_without_a_checkpoint_starts(tmp_path: Path) -> None:
    assert train(tmp_path, resume=True).step == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 1e-3}, "training.learning_rate: expected 0.001, found 0.002"),
        ({"model": dataclasses.replace(MODEL, dropout=0.0)}, "model.dropout: expected 0.0"),
        (
            {"vocabulary": CharacterVocabulary(tuple("zbcdefgh\n\ufffd"))},
            "vocabulary.characters: expected",
        ),
        ({"corpus": dataclasses.replace(CORPUS, sha256="1" * 64)}, "corpus.sha256: expected"),
    ],
)
def test_another_runs_checkpoint_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    train(tmp_path, steps=1)
    with pytest.raises(CheckpointError, match=f"to another run: {message}"):
        train(tmp_path, steps=1, resume=True, **changes)


def test_an_existing_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path, steps=1)
    with pytest.raises(CheckpointError, match="resume it or choose another folder"):
        train(tmp_path, steps=1)


def test_a_checkpoint_without_its_tensors_is_refused(tmp_path: Path) -> None:
    train(tmp_path, steps=1)
    checkpoint = load_checkpoint(tmp_path)
    del checkpoint.tensors["ema.head.weight"]
    save_checkpoint(tmp_path, checkpoint.tensors, checkpoint.metadata)
    with pytest.raises(CheckpointError, match=r"ema\.head\.weight"):
        train(tmp_path, steps=1, resume=True)
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        load_trained_denoiser(tmp_path)


def test_the_trained_denoiser_is_read_back(tmp_path: Path) -> None:
    trained = train(tmp_path)
    model, vocabulary = load_trained_denoiser(tmp_path)
    assert_same_weights(trained.model, model)
    assert vocabulary == VOCABULARY
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_another_kind_of_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"x": torch.zeros(1)}, {"kind": "circuit"})
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of kind.*found 'circuit'"):
        load_trained_denoiser(tmp_path)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    train(tmp_path, steps=1)
    names = sorted(p.suffix for p in tmp_path.iterdir())
    assert names == [".json", ".safetensors"]
    json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> TrainedDenoiser:
    return train(
        tmp_path_factory.mktemp("learned"),
        model=dataclasses.replace(MODEL, dropout=0.0, width=32, num_layers=2),
        steps=150,
        batch_size=16,
        warmup_plain=0.2,
        ema_decay=0.9,
        learning_rate=1e-2,
        matrix_learning_rate=1e-2,
        validate_every=50,
        checkpoint_every=150,
    )


def test_it_learns_a_pattern_that_frequencies_do_not_show(learned: TrainedDenoiser) -> None:
    losses = [entry.valid_loss for entry in learned.history]
    # Letters alone cost log 8 each; with the pattern, only the first one of a window does.
    assert losses[-1] < 0.3 * math.log(8)
    assert losses[-1] < losses[0]
    windows = evaluation_windows(encode_documents(CORPUS.test, VOCABULARY), 16)
    # One visible letter gives all the others away; all letters are equally frequent.
    assert loss_at_ratio(learned.model, windows, 0.5) < 0.2 * math.log(8)


def test_weights_rounded_to_half_predict_the_same(learned: TrainedDenoiser) -> None:
    windows = evaluation_windows(encode_documents(CORPUS.test, VOCABULARY), 16)
    exact = loss_at_ratio(learned.model, windows, 0.9)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = copy.deepcopy(learned.model).to(dtype).float()
        assert loss_at_ratio(rounded, windows, 0.9) == pytest.approx(exact, rel=0.02, abs=2e-3)


def test_bfloat16_training_stays_near_float32(tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, dropout=0.0)
    losses = [
        train(tmp_path / p, model=model, steps=20, precision=p, validate_every=20).history[-1]
        for p in ("float32", "bfloat16")
    ]
    assert losses[0].valid_loss != losses[1].valid_loss
    assert losses[1].valid_loss == pytest.approx(losses[0].valid_loss, rel=0.05)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: expected a finite loss, found nan"):
        train(tmp_path, steps=50, learning_rate=1e38, matrix_learning_rate=1e38)


def test_the_schedule_rises_and_falls() -> None:
    training = dataclasses.replace(TRAINING, steps=100, warmup_steps=10, final_fraction=0.1)
    values = [rate_factor(step, training.schedule) for step in range(101)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == values[10] == pytest.approx(1.0)
    assert values[55] == pytest.approx(0.55)
    assert values[100] == pytest.approx(0.1)


def test_step_seeds_are_stable_and_distinct() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(0, 0) == step_seed(0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected a positive number, found 0"),
        ({"warmup_steps": -1}, "warmup_steps: expected 0 or more, found -1"),
        ({"prompt_fraction": 1.5}, "prompt_fraction: expected 0 to 1, found 1.5"),
        ({"ema_decay": 1.0}, "ema_decay: expected at least 0 and below 1, found 1.0"),
        ({"block_length": 17}, "block_length: expected at most window_length = 16, found 17"),
        ({"precision": "float16"}, "precision: expected one of .*found 'float16'"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TRAINING, **changes)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_categories: expected the vocabulary's size 10"):
        train(tmp_path, model=dataclasses.replace(MODEL, num_categories=5))
    with pytest.raises(ConfigError, match=r"window_length: expected at most .* 16, found 32"):
        train(tmp_path, window_length=32)
    with pytest.raises(CorpusError, match="at least one window of 16 tokens, found 3"):
        train(tmp_path, corpus=dataclasses.replace(CORPUS, valid=("abc",)))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_just_validated_still_says_its_loss() -> None:
    state = RunState().after_step(2.0, 0.1)
    assert state.summary() == "loss 2.000"
    state = state.after_validation(1.5, 0.1)
    assert state.summary() == "loss 2.000, valid 1.5000"
    assert state.after_step(1.0, 0.1).summary() == "loss 1.000, valid 1.5000"
