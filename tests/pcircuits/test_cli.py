"""Every command on tiny files: what it writes is what the library says."""

from __future__ import annotations

import csv
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import image, pyplot
from torch import Tensor

import pcircuits as pc
from pcircuits.cli import algorithms, families, models, questions
from pcircuits.cli.fit import CHECKPOINT, HISTORY
from pcircuits.cli.main import main
from pcircuits.cli.tables import read_table
from pcircuits.errors import FormatError
from pcircuits.learning import em_fit

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
NAMES = ["cloudy", "rain", "wind", "wet"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def values() -> Tensor:
    teacher = pc.CircuitModel(pc.families.mixture(4, 3, 2), seed=7)
    return teacher.sample(60, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(4, 3, 2), seed=5)


@pytest.fixture
def saved(model: pc.CircuitModel, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def data(values: Tensor, tmp_path: Path) -> Path:
    return write_csv(tmp_path / "rows.csv", values.tolist(), NAMES)


@pytest.fixture
def gaps(values: Tensor, tmp_path: Path) -> Path:
    """The first rows with missing cells, written in all ways there are."""
    rows: list[list[object]] = [list(row) for row in values[:5].tolist()]
    rows[0][1], rows[1][0], rows[2][3], rows[3][2] = "", -1, "NaN", "?"
    return write_csv(tmp_path / "gaps.csv", rows)


def write_csv(path: Path, rows: list[list[object]], names: list[str] | None = None) -> Path:
    lines = [",".join(map(str, row)) for row in ([names] if names else []) + rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def gaps_evidence(values: Tensor) -> pc.Evidence:
    observed = torch.ones(5, 4, dtype=torch.bool)
    observed[[0, 1, 2, 3], [1, 0, 3, 2]] = False
    return pc.Evidence(values[:5], observed)


def read_back(text: str) -> tuple[list[str], np.ndarray]:
    rows = list(csv.reader(io.StringIO(text)))
    return rows[0], np.array(rows[1:])


# Files of data.


def test_all_kinds_of_files_hold_the_same_rows(tmp_path: Path) -> None:
    numbers = np.array([[0, 1, 2], [2, -1, 0]])
    write_csv(tmp_path / "a.csv", [[0, 1, 2], [2, "", 0]])
    (tmp_path / "b.tsv").write_text("x\ty\tz\n0\t1.0\t2\n2\tnan\t0\n")
    np.save(tmp_path / "c.npy", numbers.astype(np.int8))
    np.save(tmp_path / "d.npy", np.where(numbers < 0, np.nan, numbers))
    np.savez(tmp_path / "e.npz", only=numbers)
    for name in ("a.csv", "b.tsv", "c.npy", "d.npy", "e.npz"):
        table = read_table(tmp_path / name)
        assert table.values.tolist() == [[0, 1, 2], [2, 0, 0]], name
        assert table.observed.tolist() == [[True] * 3, [True, False, True]], name
    named = read_table(tmp_path / "b.tsv").codebook
    assert named is not None and named.names == ("x", "y", "z")
    assert read_table(tmp_path / "a.csv").codebook is None


def test_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"a": [0, 1], "b": [None, 2]}).to_parquet(tmp_path / "f.parquet")
    table = read_table(tmp_path / "f.parquet")
    assert table.observed.tolist() == [[True, False], [True, True]]
    assert table.codebook is not None and table.codebook.names == ("a", "b")


def test_parquet_without_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FormatError, match="need pandas"):
        read_table(tmp_path / "f.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "0,1\n1\n", "line 2 has 1 cells; expected 2"),
        ("a.csv", "x,y\n0,1\n1,red\n", "row 2, column 2 is 'red'"),
        ("a.csv", "0,1\n0,0.5\n", "row 2, column 2 is 0.5"),
        ("a.csv", "0,1\n-2,0\n", "row 2, column 1 is -2"),
        ("a.csv", "\n", "empty"),
        ("a.csv", "x,y\n", "shape"),
        ("a.txt", "0,1\n", "expected one of .csv"),
        ("a.npy", "0,1\n", "not a NumPy file"),
        ("a.npz", "0,1\n", "not a NumPy file"),
    ],
)
def test_wrong_files(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(FormatError, match=message):
        read_table(tmp_path / name)


def test_arrays_of_npz_files_go_by_their_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train=np.zeros((2, 2)), test=np.ones((1, 2)))
    assert read_table(tmp_path / "a.npz", "test").values.tolist() == [[1, 1]]
    with pytest.raises(FormatError, match=r"among \['train', 'test'\]; found None"):
        read_table(tmp_path / "a.npz")
    with pytest.raises(FormatError, match=r"only \.npz files have keys"):
        read_table(tmp_path / "a.csv", "train")


def test_a_pickle_in_an_array_is_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="not a NumPy file"):
        read_table(tmp_path / "a.npy")


# info and validate.


def test_info_prints_sizes_and_parameters(run: Run, saved: Path) -> None:
    code, out, _ = run("info", saved, "--plan")
    assert code == 0
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert rows["variables"][-1] == "4" and rows["parameters"][1] == "18"
    assert rows["transition"][1:] == ["9", "3", "x", "3"]
    assert "SumLayer" in out
    assert "evaluated by      eager: there is little to compute" in out


def test_validate_explains_and_says_by_its_exit_code(run: Run, saved: Path, tmp_path: Path) -> None:
    code, out, err = run("validate", saved)
    assert (code, err) == (0, "")
    assert "smooth                  yes" in out and "which are both positive" in out
    code, _, err = run("validate", saved, "--require", "deterministic")
    assert code == 1 and err == f"pcircuits: violated: {saved} is not deterministic\n"
    pc.CircuitModel(pc.families.hmm(3, 2, 2)).save(tmp_path / "short")
    code, out, err = run("validate", saved, "--compatible-with", tmp_path / "short")
    assert code == 1 and "different variables" in out and "not compatible with" in err
    assert run("validate", saved, "--compatible-with", saved)[0] == 0


def test_weights_of_zero_can_make_a_circuit_deterministic(run: Run, tmp_path: Path) -> None:
    model = pc.CircuitModel(pc.families.mixture(1, 2, 2))
    assert run("validate", _saved(model, tmp_path / "a"), "--require", "deterministic")[0] == 1
    model.set_probabilities({"input_0": torch.eye(2)})
    assert run("validate", _saved(model, tmp_path / "b"), "--require", "deterministic")[0] == 0


def _saved(model: pc.CircuitModel, path: Path) -> Path:
    model.save(path)
    return path


# fit.


def test_fit_learns_what_the_library_learns(
    run: Run, data: Path, values: Tensor, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    words = ["--family", "mixture", "--units", 3, "--epochs", 4, "--seed", 2]
    code, text, _ = run("fit", data, *words, "--valid", data, "--output", out)
    expected = pc.CircuitModel(pc.families.mixture(4, 3, 2), seed=2)
    history = pc.fit_em(expected, values, epochs=4, valid=values, seed=2, progress=False)
    assert code == 0 and "4 epochs, finished" in text
    found = pc.load(out)
    for name, log in expected.log_parameters().items():
        torch.testing.assert_close(found.log_parameters()[name], log, rtol=0, atol=1e-6)
    header, rows = read_back((out / HISTORY).read_text())
    assert header == ["step", "epoch", "train", "valid", "seconds"]
    expected_valid = [record.valid for record in history]
    np.testing.assert_allclose(rows[:, 3].astype(float), expected_valid, rtol=1e-6)


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_every_family_can_be_fitted(run: Run, data: Path, tmp_path: Path, family: str) -> None:
    words = ["--units", 4] if "units" in families.FAMILIES[family].sizes else []
    words += ["--shape", 2, 2] if "shape" in families.FAMILIES[family].sizes else []
    words += ["--repetitions", 2] if "repetitions" in families.FAMILIES[family].sizes else []
    words += ["--blocks", 2] if "blocks" in families.FAMILIES[family].sizes else []
    code, _, err = run(
        "fit", data, "--family", family, *words, "--epochs", 1, "--output", tmp_path / "new"
    )
    assert (code, err) == (0, "")
    assert pc.load(tmp_path / "new").circuit.num_variables == 4


@pytest.mark.parametrize("algorithm", list(algorithms.ALGORITHMS))
def test_every_algorithm_raises_the_likelihood(
    run: Run, data: Path, values: Tensor, tmp_path: Path, algorithm: str
) -> None:
    words = ["--family", "hmm", "--units", 3, "--batch-size", 30, "--algorithm", algorithm]
    assert run("fit", data, *words, "--epochs", 8, "--output", tmp_path / "new")[0] == 0
    start = pc.CircuitModel(pc.families.hmm(4, 3, 2))
    found = pc.load(tmp_path / "new")
    assert found.log_likelihood(values).mean() > start.log_likelihood(values).mean() + 0.05


def test_fit_takes_missing_values_and_arrays_by_key(
    run: Run, values: Tensor, tmp_path: Path
) -> None:
    rows = values.numpy().astype(float)
    rows[::3, 1] = np.nan
    np.savez(tmp_path / "all.npz", train=rows, valid=values.numpy())
    words = ["--key", "train", "--valid-key", "valid", "--family", "hclt", "--units", 4]
    code, out, err = run("fit", tmp_path / "all.npz", *words, "--output", tmp_path / "new")
    assert (code, err) == (0, "") and "valid" in out


def test_ctrl_c_writes_what_was_learned_and_resume_ends_as_if_there_was_none(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", data, "--family", "hmm", "--units", 3, "--epochs", 6, "--output"]
    assert run(*words, tmp_path / "whole")[0] == 0
    real, calls = em_fit.em_update, iter(range(100))

    def interrupted(*args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(em_fit, "em_update", interrupted)
    code, out, err = run(*words, tmp_path / "part")
    monkeypatch.undo()
    assert code == 130 and "3 epochs, interrupted" in out
    assert err.startswith("pcircuits: interrupted; wrote") and err.endswith("--resume\n")
    pc.load(tmp_path / "part")
    code, out, _ = run(*words, tmp_path / "part", "--resume")
    assert code == 0 and "6 epochs, finished" in out
    whole, part = (pc.load(tmp_path / name).log_parameters() for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_fit_does_not_overwrite(run: Run, data: Path, saved: Path, tmp_path: Path) -> None:
    before = (saved / "circuit.json").read_bytes()
    code, _, err = run("fit", data, "--output", saved)
    assert code == 2 and "add --resume" in err
    assert (saved / "circuit.json").read_bytes() == before
    assert not (saved / CHECKPOINT).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--family", "mixture", "--order", "2"], "no --order; the sizes it takes: --units"),
        (["--family", "factorized", "--units", "2"], "the sizes it takes: none"),
        (["--family", "quad-tree"], "needs --shape"),
        (["--family", "quad-tree", "--shape", "3", "2"], r"4 pixels in all; found \(3, 2\)"),
        (["--categories", "1"], "the data holds category 1"),
        (["--units", "0"], "0"),
        (["--epochs", "0"], "epochs must be >= 1; found 0"),
        (["--patience", "3"], "patience needs valid"),
        (["--pseudocount", "-1"], "pseudocount"),
        (["--learning-rate", "0.1"], "for --algorithm gradient"),
        (["--key", "train"], "only .npz files have keys"),
    ],
)
def test_wrong_fits(run: Run, data: Path, tmp_path: Path, words: list[str], message: str) -> None:
    code, _, err = run("fit", data, *words, "--output", tmp_path / "new")
    assert code == 2
    assert err.startswith("pcircuits: error: ") and err.count("\n") == 1
    assert re.search(message, err)
    assert not (tmp_path / "new" / "circuit.json").exists()


def test_validation_rows_of_another_width(run: Run, data: Path, tmp_path: Path) -> None:
    other = write_csv(tmp_path / "other.csv", [[0, 1]])
    code, _, err = run("fit", data, "--valid", other, "--output", tmp_path / "new")
    assert code == 2 and "has 2 columns" in err


# query.


def test_log_likelihood(
    run: Run, saved: Path, gaps: Path, model: pc.CircuitModel, values: Tensor
) -> None:
    code, out, _ = run("query", saved, gaps, "--batch-size", 2)
    header, rows = read_back(out)
    expected = model.log_evidence(gaps_evidence(values)).detach().double()
    assert code == 0 and header == ["log_likelihood"]
    np.testing.assert_allclose(rows[:, 0].astype(float), expected, rtol=1e-6)


def test_marginals_in_all_kinds_of_files(
    run: Run, saved: Path, gaps: Path, model: pc.CircuitModel, values: Tensor, tmp_path: Path
) -> None:
    expected = model.marginals(gaps_evidence(values)).detach().numpy()
    for suffix in (".csv", ".tsv", ".npy", ".npz"):
        path = tmp_path / f"out{suffix}"
        code, out, _ = run("query", saved, gaps, "--query", "marginals", "--output", path)
        assert (code, out) == (0, "")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-5)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npz")["result"], np.load(tmp_path / "out.npy")
    )
    header, rows = read_back((tmp_path / "out.csv").read_text())
    assert header[:3] == ["X0=0", "X0=1", "X1=0"] and len(header) == 8
    # Numbers are written in full: nothing is lost between the files.
    numbers = rows.astype(float).reshape(5, 4, 2)
    np.testing.assert_array_equal(numbers, np.load(tmp_path / "out.npy"))
    assert (tmp_path / "out.tsv").read_text() == (tmp_path / "out.csv").read_text().replace(
        ",", "\t"
    )


def test_map_keeps_what_is_observed_and_beats_every_world(
    run: Run, saved: Path, model: pc.CircuitModel
) -> None:
    words = ["--query", "map", "--method", "branch_and_bound", "--given", "1=0"]
    code, out, _ = run("query", saved, *words)
    header, rows = read_back(out)
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 4)
    worlds = worlds[worlds[:, 1] == 0]
    log = model.log_likelihood(worlds).detach()
    assert code == 0 and header == [
        *("X0", "X1", "X2", "X3"),
        *("log_probability", "upper_bound", "exact"),
    ]
    assert rows[0, :4].astype(int).tolist() == worlds[log.argmax()].tolist()
    assert float(rows[0, 4]) == pytest.approx(float(log.max()), abs=1e-5)
    assert rows[0, 6] == "True"


def test_conditional_tables(run: Run, saved: Path, data: Path, model: pc.CircuitModel) -> None:
    words = ["--query", "conditional", "--target", 2, 0, "--condition", 3]
    code, out, _ = run("query", saved, *words)
    header, rows = read_back(out)
    expected = pc.queries.conditional(model.plan, model.log_parameters(), None, [2, 0], [3])
    assert code == 0 and header[1] == "X2=0 X0=1 | X3=0" and len(header) == 8
    np.testing.assert_allclose(rows[0].astype(float), expected.detach().flatten(), rtol=1e-5)


def test_entropy_and_most_informative(run: Run, saved: Path) -> None:
    _, out, _ = run("query", saved, "--query", "entropy", "--samples", 50, "--seed", 3)
    header, rows = read_back(out)
    exact = pc.load(saved).double()
    with torch.no_grad():
        expected = pc.queries.entropy(
            exact.plan,
            exact.log_parameters(),
            num_samples=50,
            generator=torch.Generator().manual_seed(3),
        )
    assert header == ["lower_bound", "upper_bound", "exact", "estimate", "standard_error"]
    for place, name in ((0, "lower_bound"), (1, "upper_bound"), (3, "estimate")):
        assert float(rows[0, place]) == pytest.approx(float(getattr(expected, name)), rel=1e-5)
    _, out, _ = run("query", saved, "--query", "most-informative", "--target", 0)
    header, rows = read_back(out)
    information = exact.mutual_information()[0, 0, 1:].tolist()
    assert header == ["variable", "X1", "X2", "X3"]
    np.testing.assert_allclose(rows[0, 1:].astype(float), information, rtol=1e-5)
    assert rows[0, 0] == f"X{1 + int(np.argmax(information))}"


def test_mutual_information_is_a_matrix_or_a_row_of_pairs(
    run: Run, saved: Path, gaps: Path, values: Tensor
) -> None:
    model = pc.load(saved).double()  # small differences of large numbers
    header, rows = read_back(run("query", saved, "--query", "mutual-information")[1])
    expected = model.mutual_information()[0].detach().numpy()
    assert header == ["variable", "X0", "X1", "X2", "X3"] and rows[1, 0] == "X1"
    np.testing.assert_allclose(rows[:, 1:].astype(float), expected, rtol=1e-5)
    header, rows = read_back(run("query", saved, gaps, "--query", "mutual-information")[1])
    expected = model.mutual_information(gaps_evidence(values)).detach().numpy()
    assert header[:2] == ["X0 X1", "X0 X2"]
    pairs = expected[:, *np.triu_indices(4, 1)]
    np.testing.assert_allclose(rows.astype(float), pairs, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["kl-divergence", "cross-entropy"])
def test_divergences_of_deterministic_models(run: Run, tmp_path: Path, name: str) -> None:
    first, second = (pc.CircuitModel(pc.families.factorized(3, 2), seed=s) for s in (0, 1))
    paths = [_saved(first, tmp_path / "a"), _saved(second, tmp_path / "b")]
    code, out, _ = run("query", paths[0], "--query", name, "--other", paths[1])
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 3)
    p, q = (model.log_likelihood(worlds).detach().double() for model in (first, second))
    expected = (p.exp() * ((p if name == "kl-divergence" else 0) - q)).sum()
    header, rows = read_back(out)
    assert code == 0 and header == ["value", "standard_error", "exact"]
    assert float(rows[0, 0]) == pytest.approx(float(expected), rel=1e-4)
    assert rows[0, 2] == "True"


def test_names_of_the_data_are_kept(run: Run, saved: Path, data: Path) -> None:
    header, _ = read_back(run("query", saved, data, "--query", "marginals")[1])
    assert header[:2] == ["cloudy=0", "cloudy=1"]


@pytest.mark.parametrize("kind", list(questions.KINDS))
def test_a_question_refuses_options_it_does_not_take(run: Run, saved: Path, kind: str) -> None:
    options = {"target": "0", "condition": "1", "method": "max_product", "samples": "3"}
    for option in {*options, "other"} - set(questions.KINDS[kind].options):
        code, _, err = run("query", saved, "--query", kind, f"--{option}", options.get(option, "m"))
        assert code == 2 and f"has no --{option}" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", "conditional"], "needs --target"),
        (["--query", "most-informative"], "needs --target"),
        (["--query", "kl-divergence"], "needs --other"),
        (["--given", "rain"], "expected VARIABLE=CATEGORY like 3=1; found 'rain'"),
        (["--given", "rain=1"], "by name or by number; found 'rain'"),
        (["--given", "0=5"], "--given 0=5"),
        (["--given", "0=1", "0=0"], "given twice"),
        (["--key", "test"], "--key test: expected an .npz data file"),
        (["--output", "out.xml"], "expected one of .csv"),
        (["--output", "no/such/folder.csv"], "does not exist"),
        (["--batch-size", "0"], "expected at least 1; found 0"),
        (["--query", "conditional", "--target", "9"], "by name or by number; found '9'"),
    ],
)
def test_wrong_queries(run: Run, saved: Path, words: list[str], message: str) -> None:
    code, out, err = run("query", saved, *words)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("pcircuits: error: ") and err.count("\n") == 1


def test_wrong_data_for_a_model(run: Run, saved: Path, data: Path, tmp_path: Path) -> None:
    narrow = write_csv(tmp_path / "narrow.csv", [[0, 1]])
    assert "has 2 columns; the model has 4" in run("query", saved, narrow)[2]
    large = write_csv(tmp_path / "large.csv", [[0, 1, 2, 0]])
    assert "values[0, 2] is 2" in run("query", saved, large)[2]
    assert "found both" in run("query", saved, data, "--given", "0=1")[2]
    assert "No such file" in run("query", saved, tmp_path / "missing.csv")[2]
    assert run("query", tmp_path / "missing")[0] == 2


def test_impossible_evidence_is_one_line(run: Run, tmp_path: Path) -> None:
    model = pc.CircuitModel(pc.families.factorized(2, 2))
    model.set_probabilities({"input_0": torch.tensor([[1.0, 0.0]])})
    path = _saved(model, tmp_path / "m")
    code, _, err = run("query", path, "--query", "marginals", "--given", "0=1")
    assert code == 2 and "probability zero" in err and err.count("\n") == 1
    assert read_back(run("query", path, "--given", "0=1")[1])[1].tolist() == [["-inf"]]


# sample.


def test_samples_are_the_librarys(run: Run, saved: Path, model: pc.CircuitModel) -> None:
    code, out, _ = run("sample", saved, "-n", 7, "--seed", 4)
    expected = model.sample(7, generator=torch.Generator().manual_seed(4))
    header, rows = read_back(out)
    assert code == 0 and header == ["X0", "X1", "X2", "X3"]
    assert rows.astype(int).tolist() == expected.tolist()


def test_samples_complete_rows(run: Run, saved: Path, gaps: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    assert run("sample", saved, "-n", 3, "--data", gaps, "--output", path)[0] == 0
    drawn, table = np.load(path), read_table(gaps)
    assert drawn.shape == (15, 4)
    known = table.observed.repeat_interleave(3, 0).numpy()
    assert (drawn == table.values.repeat_interleave(3, 0).numpy())[known].all()
    given = read_back(run("sample", saved, "--given", "2=1", "0=0")[1])[1].astype(int)
    assert (given[:, 2] == 1).all() and (given[:, 0] == 0).all() and len(given) == 10
    assert "num_samples >= 1" in run("sample", saved, "-n", 0)[2]


# convert.


@pytest.mark.parametrize("name", [kind for kind in models.WRITERS if kind != models.FOLDER])
def test_converting_there_and_back_keeps_the_distribution(
    run: Run, saved: Path, model: pc.CircuitModel, tmp_path: Path, name: str
) -> None:
    assert run("convert", saved, tmp_path / f"m{name}")[0] == 0
    code, out, _ = run("convert", tmp_path / f"m{name}", tmp_path / "back")
    assert code == 0 and out.startswith(f"wrote {tmp_path / 'back'}")
    worlds = torch.cartesian_prod(*[torch.arange(2)] * 4)
    found = pc.load(tmp_path / "back").log_likelihood(worlds)
    torch.testing.assert_close(found.float(), model.log_likelihood(worlds), rtol=1e-5, atol=1e-5)


def test_a_formula_is_converted_and_counted(run: Run, tmp_path: Path) -> None:
    # (x0 and not x1) or x1: three of four worlds.
    lines = ["nnf 6 6 2", "L 1", "L -2", "A 2 0 1", "L 2", "O 2 2 2 3"]
    lines[0] = "nnf 5 4 2"
    (tmp_path / "f.nnf").write_text("\n".join(lines) + "\n")
    assert run("convert", tmp_path / "f.nnf", tmp_path / "f")[0] == 0
    for path in (tmp_path / "f.nnf", tmp_path / "f"):
        count = float(read_back(run("query", path)[1])[1][0, 0])
        assert np.exp(count) == pytest.approx(3.0)


def test_wrong_conversions(run: Run, saved: Path, tmp_path: Path) -> None:
    code, _, err = run("convert", saved, tmp_path / "m.psdd")
    assert code == 2 and "expected a folder, .jpc" in err
    code, _, err = run("convert", saved, saved)
    assert code == 2 and "there already" in err
    (tmp_path / "m.xyz").write_text("")
    code, _, err = run("convert", tmp_path / "m.xyz", tmp_path / "new")
    assert code == 2 and "found '.xyz'" in err
    (tmp_path / "bad.spn").write_text("hello\n")
    code, _, err = run("convert", tmp_path / "bad.spn", tmp_path / "new")
    assert code == 2 and "bad.spn" in err and not (tmp_path / "new").exists()


# draw.


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_draw_writes_a_picture(run: Run, saved: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    assert run("draw", saved, "--output", path)[:2] == (0, f"wrote {path}\n")
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--detail", "nodes"],
        ["--picture", "regions"],
        ["--picture", "marginals", "--given", "0=1"],
        ["--picture", "dependencies"],
        ["--picture", "dependency-graph"],
        ["--picture", "transition"],
        ["--picture", "emission"],
    ],
)
def test_every_picture(run: Run, saved: Path, tmp_path: Path, words: list[str]) -> None:
    assert run("draw", saved, *words, "--output", tmp_path / "m.png")[0] == 0
    assert image.imread(tmp_path / "m.png").std() > 0.01


def test_wrong_pictures(run: Run, saved: Path, tmp_path: Path) -> None:
    assert "found '.jpg'" in run("draw", saved, "--output", tmp_path / "m.jpg")[2]
    words = ["--output", tmp_path / "m.png"]
    assert (
        "for --picture circuit"
        in run("draw", saved, "--picture", "regions", "--detail", "nodes", *words)[2]
    )
    assert "--given is for" in run("draw", saved, "--given", "0=1", *words)[2]
    model = pc.CircuitModel(pc.families.mixture(2, 2, 2))
    code, _, err = run("draw", _saved(model, tmp_path / "mix"), "--picture", "transition", *words)
    assert code == 2 and "no parameter 'transition'" in err
    assert not (tmp_path / "m.png").exists() and pyplot.get_fignums() == []


# The command itself.


@pytest.mark.parametrize(
    "command", ["info", "validate", "fit", "query", "sample", "convert", "draw"]
)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and f"example:\n  pcircuits {command} " in out


def test_wrong_words_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["fly"], ["query", "m", "--query", "weather"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "pcircuits query: error" in capsys.readouterr().err


def test_as_a_process(saved: Path, gaps: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def process(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pcircuits.cli.main", *map(str, words)],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )

    good = process("query", saved, gaps)
    assert good.returncode == 0 and len(good.stdout.splitlines()) == 6
    bad = process("query", saved / "nothing", gaps)
    assert bad.returncode == 2 and "Traceback" not in bad.stderr
    assert bad.stderr.startswith("pcircuits: error: cannot read") and bad.stderr.count("\n") == 1
