"""`codd cache`, and `codd train` on what it made."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from codd.checkpoint import load_checkpoint
from codd.cli.main import main
from codd.model import CoupledModel
from codd.training import cache_writer
from codd.training.cache import DenoiserCache
from codd.training.processes import launched_group, torchrun_share
from codd.training.shards import shard_path
from tests.support.interrupt import interrupt_during

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["the", "list", "returns", "value", "object", "name", "file", "of", "to", "a", "in", "is"]
SIZES = [
    *("--min-count", "1"),
    *("--max-length", "16"),
    *("--window", "8"),
    *("--block", "8"),
    *("--width", "16"),
    *("--layers", "1"),
    *("--heads", "2"),
    *("--states", "40"),
    *("--rank", "4"),
    *("--denoiser-steps", "6"),
    *("--denoiser-batch", "4"),
    *("--circuit-steps", "6"),
    *("--circuit-batch", "16"),
    *("--coupling-steps", "6"),
    *("--coupling-batch", "4"),
    *("--threads", "1"),
]
KEPT = [
    *("--window", "8"),
    *("--block", "8"),
    *("--top-k", "8"),
    "--hidden",
    *("--shard-rows", "100"),
    *("--threads", "1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = random.Random(0)
    paragraphs = [" ".join(rng.choices(WORDS, k=25)).capitalize() + "." for _ in range(60)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def run_folder(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a denoiser and a circuit."""
    folder = tmp_path_factory.mktemp("run") / "run"
    for stage in ("denoiser", "circuit"):
        words = ["train", "--out", str(folder), "--corpus", text, "--stage", stage, *SIZES]
        assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def cache_folder(run_folder: Path, text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    assert main(cache_words(folder, run_folder, text)) == 0
    return folder


def cache_words(folder: Path, run_folder: Path, text: str, *more: str) -> list[str]:
    return ["cache", "--out", str(folder), "--run", str(run_folder), "--corpus", text, *KEPT, *more]


def test_the_size_is_told_before_anything_is_computed(
    run_folder: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(cache_words(tmp_path / "cache", run_folder, text, "--estimate")) == 0

    out = capsys.readouterr().out
    assert "shards" in out
    assert "GB" in out
    assert not (tmp_path / "cache").exists()


def test_an_interrupted_command_says_how_to_go_on(
    run_folder: Path,
    cache_folder: Path,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = cache_words(tmp_path, run_folder, text)
    with monkeypatch.context() as patch:
        interrupt_during(patch, cache_writer, step=0)
        assert main(words) == 130
    assert "interrupted; continue with: codd cache --out" in capsys.readouterr().err
    assert main(words) == 0

    for shard in range(DenoiserCache(cache_folder).layout.num_shards):
        both = [shard_path(folder, shard).read_bytes() for folder in (tmp_path, cache_folder)]
        assert both[0] == both[1]


def test_a_coupling_is_trained_from_a_cache(
    run_folder: Path, cache_folder: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--out", str(run_folder), "--corpus", text, "--stage", "coupling", *SIZES]
    assert main([*words, "--cache", str(cache_folder)]) == 0

    assert "of a window's probability is not listed" in " ".join(capsys.readouterr().out.split())
    model = CoupledModel.from_pretrained(run_folder / "model")
    assert any(p.abs().max() > 0 for n, p in model.modulator.named_parameters() if "up" in n)
    record = load_checkpoint(run_folder / "model").metadata["record"]
    assert 0 < record["stages"]["coupling"]["mean_omitted"] <= 1


def test_a_cache_of_another_text_is_refused(
    run_folder: Path,
    cache_folder: Path,
    tmp_path: Path,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(Path(text).read_text().replace("value", "eulav"))
    words = ["train", "--out", str(tmp_path / "run"), "--corpus", str(other), *SIZES]

    assert main([*words, "--cache", str(cache_folder)]) == 2
    assert "expected a cache of this corpus" in capsys.readouterr().err
    assert main([*words, "--cache", str(cache_folder), "--joint"]) == 2


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    assert torchrun_share() == (0, 1)
    with launched_group() as group:
        assert group is None


@pytest.mark.slow
def test_torchrun_trains_to_what_one_process_does(text: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder, prefix in (("one", []), ("two", launcher)):
        command = [sys.executable, *prefix, "-m", "codd.cli.main", "train"]
        words = [*command, "--out", str(tmp_path / folder), "--corpus", text, *SIZES]
        done = subprocess.run(
            [*words, "--dtype", "float32"], cwd=ROOT, env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
    one, two = (load_checkpoint(tmp_path / n / "model").tensors for n in ("one", "two"))

    assert set(one) == set(two)
    for name, tensor in one.items():
        # The stages follow on each other, and so do the roundings of their sums.
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)
