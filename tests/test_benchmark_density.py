"""The density benchmark on small synthetic sets: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pcircuits as pc
from benchmarks import density
from benchmarks.__main__ import main
from benchmarks.density import (
    DensitySettings,
    WrongDensityError,
    log_likelihoods,
    mixture_weights,
    run_set,
)
from benchmarks.density_data import DataSet, Rows, load
from benchmarks.density_report import density_table, read_rows, write_row

QUICK = DensitySettings(members=2, updates=6, full_epochs=6, min_units=4, max_units=4)


def two_groups(num_rows: int, seed: int, length: int = 8) -> np.ndarray:
    random = np.random.default_rng(seed)
    group = random.random((num_rows, 1)) < 0.5
    return (group ^ (random.random((num_rows, length)) < 0.1)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "sets"
    made.mkdir()
    for seed, name in enumerate(("nltcs", "own")):
        parts = {
            part: two_groups(size, 3 * seed + i)
            for i, (part, size) in enumerate({"train": 300, "valid": 100, "test": 100}.items())
        }
        np.savez(made / f"{name}.npz", **parts)
    return made


@pytest.fixture(autouse=True)
def quick_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.density_command.DensitySettings",
        lambda **given: dataclasses.replace(QUICK, **given),
    )


def command(folder: Path, output: Path, *more: str) -> int:
    options = ["--data", str(folder), "--output", str(output), "--threads", "1", "--members", "2"]
    return main(["density", *options, *more])


def test_the_command_writes_a_row_a_set_and_prints_it_beside_the_published(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "density.json"

    assert command(folder, output) == 0

    rows = json.loads(output.read_text())
    assert [row["dataset"] for row in rows] == ["nltcs", "own"]
    for row in rows:
        test = load(folder, row["dataset"]).test
        # Two groups of eight noisy copies: far from independent, not above the entropy.
        assert -4.4 < row["test_log_likelihood"] < -test.entropy()
        assert row["valid_log_likelihood"] > -4.4 and row["seconds"] > 0
        assert sum(row["mixture_weights"]) == pytest.approx(1, abs=1e-5)
    printed = capsys.readouterr().out
    assert "nltcs: member 2 of 2" in printed
    assert printed.rstrip().endswith(density_table(rows))
    assert f"| {rows[0]['test_log_likelihood']:.4f} |" in printed and "| -5.99 | -5.99 |" in printed
    assert output.with_suffix(".md").read_text() == f"# density\n\n{density_table(rows)}\n"
    assert sorted(path.name for path in output.parent.iterdir()) == ["density.json", "density.md"]


def test_sets_that_are_done_are_not_run_again_unless_asked(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "density.json"
    command(folder, output, "--sets", "own")
    first = read_rows(output)

    command(folder, output)
    second = read_rows(output)
    command(folder, output, "--sets", "own", "--again")
    third = read_rows(output)
    command(folder, output, "--sets", "own", "--members", "1")

    assert [row["dataset"] for row in second] == ["nltcs", "own"]
    assert second[1] == first[0]
    assert third[0] == second[0] and third[1]["seconds"] != first[0]["seconds"]
    assert third[1]["test_log_likelihood"] == first[0]["test_log_likelihood"]
    assert len(read_rows(output)[1]["mixture_weights"]) == 1


def test_repeated_rows_are_learned_all_at_once_and_others_by_equal_batches() -> None:
    repeated = Rows(torch.zeros(100, 3), torch.full((100,), 4.0))
    apart = Rows(torch.zeros(1545, 3), torch.ones(1545))

    settings = DensitySettings()

    assert settings.schedule(repeated)["algorithm"] == "plain"
    assert "batch_size" not in settings.schedule(repeated)
    found = settings.schedule(apart)
    assert (found["algorithm"], found["batch_size"], found["epochs"]) == ("anemone", 387, 150)
    assert [settings.num_units(n) for n in (10, 1600, 8700, 16181, 291326)] == [16, 16, 32, 64, 64]


def test_mixture_weights_are_those_of_the_likeliest_mixture() -> None:
    likelihoods = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    rows = Rows(torch.zeros(2, 1), torch.tensor([6000.0, 4000.0]))

    found = float(mixture_weights(likelihoods.log(), rows, steps=2000)[0])

    grid = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)[:, None]
    totals = ((grid * likelihoods[0] + (1 - grid) * likelihoods[1]).log() * rows.weights).sum(1)
    assert found == pytest.approx(float(grid[totals.argmax()]), abs=2e-3)


def test_test_rows_do_not_influence_what_is_learned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(folder, "own")
    flipped = Rows(1 - data.test.values, data.test.weights)

    rows = [
        run_set(DataSet("own", data.train, data.valid, test), QUICK, lambda line: None)
        for test in (data.test, flipped)
    ]

    assert rows[0]["valid_log_likelihood"] == rows[1]["valid_log_likelihood"]
    assert rows[0]["mixture_weights"] == rows[1]["mixture_weights"]


def test_distinct_rows_stand_for_all(folder: Path) -> None:
    with np.load(folder / "own.npz") as file:
        table = file["train"]
    rows = load(folder, "own").train

    assert rows.total == 300 and len(rows.values) < 300
    everything = rows.thinned(300)
    assert torch.equal(everything.sum(0), torch.from_numpy(table.astype(np.int64)).sum(0))
    assert len(rows.thinned(70)) == 60
    assert rows.mean(rows.values[:, 0]) == pytest.approx(table[:, 0].mean())
    _, counts = np.unique(table, axis=0, return_counts=True)
    assert rows.entropy() == pytest.approx(-(counts / 300 * np.log(counts / 300)).sum())


def test_a_figure_above_the_entropy_is_no_result(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(density, "log_likelihoods", lambda m, r: log_likelihoods(m, r) + 9)

    assert command(folder, tmp_path / "density.json") == 1

    assert "minus the entropy of the test rows" in capsys.readouterr().err
    assert not (tmp_path / "density.json").exists()
    with pytest.raises(WrongDensityError, match="is above"):
        run_set(load(folder, "own"), QUICK, lambda line: None)


def test_an_interrupted_run_keeps_finished_sets_and_no_half_one(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "density.json"
    command(folder, output, "--sets", "nltcs")
    fit_em = pc.fit_em
    monkeypatch.setattr(
        pc,
        "fit_em",
        lambda *a, **k: dataclasses.replace(fit_em(*a, **k), stopped="interrupted"),
    )

    assert command(folder, output) == 130

    assert f"interrupted; finished sets are in {output}" in capsys.readouterr().err
    assert [row["dataset"] for row in read_rows(output)] == ["nltcs"]


def test_missing_data_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "density.json"
    empty = tmp_path / "empty"
    empty.mkdir()
    for where, sets, message in (
        (tmp_path / "nowhere", (), "nowhere; give one with --data"),
        (empty, (), "has no file NAME.npz"),
        (folder, ("--sets", "dna", "own", "book"), "has no dna, book"),
    ):
        assert command(where, output, *sets) == 2
        assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": np.zeros((3, 2))}, "no archive of train, valid and test"),
        ({"train": np.full((3, 2), 2)}, "train holds other values than 0 and 1"),
        ({"valid": np.zeros((3, 3))}, r"valid has shape \(3, 3\); expected \(N, L\)"),
        ({"test": np.zeros(3)}, r"test has shape \(3,\)"),
    ],
)
def test_files_that_are_no_data_set_are_named(
    tmp_path: Path,
    parts: dict[str, np.ndarray],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = {part: np.zeros((3, 2)) for part in ("train", "valid", "test")}
    complete = whole | parts if "archive" not in message else parts
    np.savez(tmp_path / "own.npz", **complete)

    assert command(tmp_path, tmp_path / "density.json") == 2

    assert re.search(message, capsys.readouterr().err)


def test_an_output_that_holds_something_else_is_not_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "density.json"
    for text, message in (("{}", "no list of rows"), ("[", "is no JSON")):
        output.write_text(text)
        assert command(folder, output) == 2
        assert message in capsys.readouterr().err
        assert output.read_text() == text


def test_rows_replace_those_of_their_set(tmp_path: Path) -> None:
    path = tmp_path / "density.json"
    for name, figure in (("plants", -13.0), ("nltcs", -6.0), ("plants", -12.0)):
        write_row(
            path,
            {
                "dataset": name,
                "valid_log_likelihood": figure,
                "test_log_likelihood": figure,
                "test_standard_error": 0.0,
                "num_units": 2,
                "seconds": 1.0,
            },
        )

    rows = read_rows(path)

    assert [(r["dataset"], r["test_log_likelihood"]) for r in rows] == [
        ("nltcs", -6.0),
        ("plants", -12.0),
    ]
    # Means of -5.99 and -14.26, and of -5.99 and -11.99.
    assert "| mean of 2 | -9.0000 | -9.0000 |  | -10.125 | -8.990 |" in density_table(rows)
