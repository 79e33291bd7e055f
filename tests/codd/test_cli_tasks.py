"""`codd tasks` end to end: data, a model trained on its rows in seconds, and its accuracy."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path

import pytest
import torch

from codd.cli.main import main
from codd.cli.variants import Variants
from codd.model import CoupledModel

SIZES = ["--items=3", "--letters=4", "--train=60", "--valid=8", "--test=12", "--threads=1"]
QUICK = [
    *("--denoiser-steps=4", "--denoiser-batch=4", "--circuit-steps=3", "--circuit-batch=8"),
    *("--width=16", "--layers=1", "--heads=2", "--states=24", "--threads=1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task's data, and a model trained by the command that `codd tasks` prints, only shorter."""
    folder = tmp_path_factory.mktemp("shuffle")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["tasks", "shuffle", "--out", str(folder), *SIZES]) == 0
    command = shlex.split(printed.getvalue().splitlines()[-1])
    assert command[:4] == ["codd", "train", "--corpus", str(folder)]
    assert main([*command[1:], *QUICK]) == 0
    return folder


def test_the_printed_command_trains_on_rows(folder: Path) -> None:
    model = CoupledModel.from_pretrained(folder / "run" / "model")
    assert (model.max_length, model.window, model.block) == (7, 3, 3)
    task = json.loads((folder / "task.json").read_text())
    assert (task["task"], task["prompt_length"], task["answer_length"]) == ("shuffle", 4, 3)


def test_accuracy_is_printed_written_and_drawn(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "run" / "model")
    capsys.readouterr()
    options = ["--model", model, "--sampler=any_order", "--temperature=0.5", "--split=valid"]
    assert main(["tasks", "shuffle", "--out", str(folder), *SIZES, *options]) == 0
    out = capsys.readouterr().out
    written = json.loads((folder / "results.json").read_text())
    assert (written["sampler"], written["temperature"]) == ("any_order", 0.5)
    result = written["result"]
    assert set(result["curves"]) == {"factorised", "copula", "one-state", "shuffled-emissions"}
    assert result["protocol"]["tokens_per_step"] == [1, 2, 3]
    assert result["examples"] == 8
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")
    assert all(label in out for label in result["curves"])
    # One state knows of no dependency: it writes what the factorised output writes.
    for own, other in zip(
        result["curves"]["one-state"], result["curves"]["factorised"], strict=True
    ):
        assert own["accuracy"] == other["accuracy"]


def test_controls_have_the_same_sampler_and_temperature(folder: Path) -> None:
    model = CoupledModel.from_pretrained(folder / "run" / "model")
    variants = Variants(model, torch.zeros(5, dtype=torch.int64)).for_tasks("latent", 0.3)
    assert list(variants) == ["factorised", "copula", "product", "one-state", "shuffled-emissions"]
    assert {(v.sampler, v.temperature) for v in variants.values()} == {("latent", 0.3)}
    assert variants["factorised"].coupling == "factorised"
    assert variants["one-state"].model is not model


def test_wrong_arguments_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["tasks", "copy", "--out", str(folder), *SIZES], "choose another folder"),
        (["tasks", "copy", "--out", str(folder), "--items=1"], "expected 2 to 25 items"),
        (
            ["train", "--rows", "--out", str(folder / "x")],
            "--rows: expected a folder with train.jsonl, found 'python'",
        ),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
