"""`codd train` with a published denoiser's folder and one's own text, and its joint stage."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from codd.checkpoint import load_checkpoint
from codd.cli.main import main
from codd.denoisers.lora import LoraSettings, lora_of, lora_parameters
from codd.errors import CheckpointError
from codd.model import CoupledModel
from codd.training import coupling_loop
from codd.training.cache import DenoiserCache
from tests.support.published import WORDS, write_masked_lm

SIZES = [
    *("--max-length", "16"),
    *("--window", "8"),
    *("--block", "4"),
    *("--states", "6"),
    *("--rank", "4"),
    *("--top-k", "9"),
    *("--circuit-steps", "6"),
    *("--circuit-batch", "16"),
    *("--coupling-steps", "6"),
    *("--coupling-batch", "4"),
    *("--joint-steps", "6"),
    *("--joint-batch", "4"),
    *("--micro-batches", "2"),
    *("--threads", "1"),
]
JOINT = ["--stage", "joint", "--lora-rank", "2"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(0)
    paragraphs = [" ".join(rng.choices(WORDS[5:], k=30)) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "my.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "bert"
    write_masked_lm(folder)
    return folder


@pytest.fixture(scope="module")
def run_folder(text: Path, network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "mine"
    assert main(_words(folder, text, network)) == 0
    return folder


def _words(run: Path, text: Path, network: Path, *more: str) -> list[str]:
    named = ["--denoiser", str(network), "--text", str(text), "--out", str(run)]
    return ["train", *named, *SIZES, *more]


def test_a_model_comes_out_that_writes_in_the_folders_words(
    run_folder: Path, network: Path
) -> None:
    model = CoupledModel.from_pretrained(run_folder / "model")

    assert (model.window, model.block, model.modulator.kind) == (8, 4, "latent")
    assert model.denoiser.origin.name == str(network.resolve())
    (found,) = model.generate("he is from", new_tokens=4, steps=2, seed=1)
    assert found.startswith("he is from ") and set(found.split()) <= set(WORDS)
    assert model.record["stages"].keys() == {"circuit", "coupling"}
    assert model.record["training"]["denoiser"] is None


def test_the_text_is_read_by_its_tokenizer_and_the_circuit_starts_from_its_states(
    run_folder: Path,
) -> None:
    cache = DenoiserCache(run_folder / "cache")
    circuit = load_checkpoint(run_folder / "circuit").metadata

    assert cache.layout.num_categories == len(WORDS) and cache.layout.settings.hidden
    assert cache.layout.source.keys() == {"corpus", "vocabulary", "denoiser"}
    # Every word is one token of its own: none is unknown.
    assert int(cache.read(torch.arange(4)).tokens.min()) >= 5
    assert circuit["start"] == "latents"
    assert circuit["history"][-1]["valid_loss"] < 2.0  # six words, log 6 = 1.79


def test_a_cache_made_beforehand_is_the_one_that_training_makes(
    run_folder: Path, text: Path, network: Path, tmp_path: Path
) -> None:
    words = ["cache", "--denoiser", str(network), "--text", str(text), "--out", str(tmp_path)]
    sizes = ["--max-length", "16", "--window", "8", "--block", "4", "--top-k", "9", "--hidden"]
    assert main([*words, *sizes]) == 0
    made, own = DenoiserCache(tmp_path), DenoiserCache(run_folder / "cache")

    assert made.layout == own.layout
    rows = torch.arange(len(own))
    assert torch.equal(made.read(rows).log_probs, own.read(rows).log_probs)


def test_the_joint_stage_goes_on_from_a_finished_run(
    run_folder: Path, text: Path, network: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(run_folder, tmp_path / "mine"))
    before = CoupledModel.from_pretrained(run / "model")
    assert main(_words(run, text, network, *JOINT)) == 0
    after = CoupledModel.from_pretrained(run / "model")

    assert lora_of(after.denoiser) == LoraSettings(2)
    changes = [p for n, p in lora_parameters(after.denoiser).items() if n.endswith("B.weight")]
    assert all(float(change.abs().max()) > 0 for change in changes)
    head = [model.modulator.head.up.weight for model in (before, after)]
    assert not torch.equal(*head)
    assert after.record["stages"].keys() == {"circuit", "coupling", "joint"}
    assert after.record["training"]["joint"]["lora"]["rank"] == 2


def test_an_interrupted_joint_stage_resumes_to_the_same_model(
    run_folder: Path,
    text: Path,
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [Path(shutil.copytree(run_folder, tmp_path / name)) for name in ("whole", "cut")]
    assert main(_words(runs[0], text, network, *JOINT)) == 0
    real = coupling_loop.step_seed

    def interrupt(seed: int, step: int) -> int:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return real(seed, step)

    with monkeypatch.context() as patch:
        patch.setattr(coupling_loop, "step_seed", interrupt)
        assert main(_words(runs[1], text, network, *JOINT)) == 130
    assert load_checkpoint(runs[1] / "joint").metadata["step"] == 4
    assert main(_words(runs[1], text, network, *JOINT, "--resume")) == 0

    tensors = [load_checkpoint(run / "model").tensors for run in runs]
    assert tensors[0].keys() == tensors[1].keys()
    assert any("lora" in name for name in tensors[0])
    assert all(torch.equal(tensors[1][name], tensor) for name, tensor in tensors[0].items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-length", "32"], "--max-length: expected at most the denoiser's 20, found 32"),
        (["--stage", "denoiser"], "--stage denoiser trains a denoiser, --denoiser brings one"),
        ([*JOINT], "expected the finished circuit, found none"),
        (["--stage", "joint"], "--joint: expected --lora-rank with "),
        (["--joint"], "only adapters to it can be stored"),
        (["--stage", "joint", "--lora-rank", "0"], "joint: rank: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(
    more: list[str],
    message: str,
    text: Path,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(_words(tmp_path / "run", text, network, *more)) == 2
    assert message in capsys.readouterr().err


def test_a_cache_or_a_tokenizer_that_is_missing_or_of_another_is_named(
    run_folder: Path,
    text: Path,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, bare = tmp_path / "other", tmp_path / "bare"
    write_masked_lm(other, seed=1)
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace('"vocab_size"', '"x": 1, "vocab_size"'))
    words = _words(tmp_path / "run", text, other, "--cache", str(run_folder / "cache"))
    assert main(words) == 2
    assert "a cache of this corpus, vocabulary and denoiser" in capsys.readouterr().err
    shutil.copytree(network, bare)
    (bare / "config.json").unlink()
    assert main(_words(tmp_path / "run", text, bare)) == 2
    assert "config.json" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "run" / "circuit")


def test_an_own_denoiser_is_trained_jointly_and_stored_whole(text: Path, tmp_path: Path) -> None:
    small = ["--width", "16", "--layers", "1", "--heads", "2", "--min-count", "1"]
    steps = ["--denoiser-steps", "4", "--denoiser-batch", "4", "--states", "30", "--dtype"]
    named = ["train", "--text", str(text), "--out", str(tmp_path), *SIZES, *small, *steps]
    assert main([*named, "float32", "--lora-rank", "2"]) == 0
    model = CoupledModel.from_pretrained(tmp_path / "model")
    kept = load_checkpoint(tmp_path / "denoiser").tensors

    assert lora_of(model.denoiser) is None
    changed = {
        name
        for name, weight in model.denoiser.named_parameters()
        if not torch.equal(weight, kept[f"ema.{name}"])
    }
    layers = ("qkv", "attention_out", "mlp_in", "mlp_out")
    assert changed == {f"blocks.0.{layer}.weight" for layer in layers}
