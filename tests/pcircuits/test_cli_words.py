"""Data of words: the commands learn from them, keep what they stand for, and speak them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pcircuits as pc
from pcircuits.cli.codebook import NAMES, read_names
from pcircuits.cli.main import main
from pcircuits.cli.tables import read_table
from pcircuits.errors import FormatError

Run = Callable[..., str]
HEADER = ["season", "rain", "wind"]
SEASONS, RAIN, WIND = ["autumn", "spring", "summer"], ["no", "yes"], ["calm", "storm"]
FIT = ["--family", "hclt", "--units", "3", "--epochs", "5", "--quiet"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        found = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return call


def write(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    path.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def codes() -> np.ndarray:
    teacher = pc.CircuitModel(pc.families.mixture(3, 2, 2), seed=3)
    drawn = teacher.sample(80).numpy()
    drawn[:, 0] += np.arange(80) % 2  # three seasons
    return drawn


@pytest.fixture
def rows(codes: np.ndarray) -> list[list[str]]:
    return [[SEASONS[s], RAIN[r], WIND[w]] for s, r, w in codes]


@pytest.fixture
def data(rows: list[list[str]], tmp_path: Path) -> Path:
    return write(tmp_path / "rows.csv", [HEADER, *rows])


@pytest.fixture
def model(run: Run, data: Path, tmp_path: Path) -> Path:
    run("fit", data, *FIT, "--output", tmp_path / "model")
    return tmp_path / "model"


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_words_are_numbered_by_the_alphabet(data: Path, codes: np.ndarray) -> None:
    found = read_table(data)
    assert found.values.tolist() == codes.tolist() and bool(found.observed.all())
    assert found.codebook is not None
    assert found.codebook.words == (tuple(SEASONS), tuple(RAIN), tuple(WIND))


def test_a_model_of_words_is_that_of_their_numbers(
    run: Run, model: Path, data: Path, codes: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "codes.npy", codes)
    run("fit", tmp_path / "codes.npy", *FIT, "--output", tmp_path / "same")
    numbers = run("query", tmp_path / "same", tmp_path / "codes.npy")
    assert run("query", model, data) == numbers == run("query", model, tmp_path / "codes.npy")
    by_name = run("query", model, "--query", "marginals", "--given", "rain=yes")
    by_number = run("query", tmp_path / "same", "--query", "marginals", "--given", "1=1")
    assert [list(row.values()) for row in table(by_name)] == [
        list(row.values()) for row in table(by_number)
    ]
    assert list(table(by_name)[0])[:4] == [*(f"season={word}" for word in SEASONS), "rain=no"]


def test_targets_are_named(run: Run, model: Path) -> None:
    asked = ["--query", "conditional", "--target", "rain", "--condition", "wind"]
    found = table(run("query", model, *asked))[0]
    assert next(iter(found)) == "rain=no | wind=calm"
    assert float(found["rain=no | wind=calm"]) + float(found["rain=yes | wind=calm"]) == (
        pytest.approx(1.0)
    )
    asked = ["--query", "most-informative", "--target", "0"]
    assert table(run("query", model, *asked))[0]["variable"] in ("rain", "wind")
    assert "are season, rain, wind" in run("query", model, *asked[:-1], "snow", code=2)
    assert "'rain'; found 'may'" in run("query", model, "--given", "rain=may", code=2)


def test_samples_are_words_and_can_be_asked_about(run: Run, model: Path, tmp_path: Path) -> None:
    run("sample", model, "-n", "20", "--given", "wind=storm", "--output", tmp_path / "drawn.csv")
    drawn = table((tmp_path / "drawn.csv").read_text())
    assert {row["wind"] for row in drawn} == {"storm"} and {row["season"] for row in drawn} > {
        "autumn"
    }
    answers = table(run("query", model, tmp_path / "drawn.csv"))
    assert all(np.isfinite(float(row["log_likelihood"])) for row in answers)
    best = table(run("query", model, "--query", "map"))[0]
    assert best["season"] in SEASONS and best["exact"] in ("True", "False")


def test_columns_go_by_their_names(
    run: Run, model: Path, data: Path, rows: list[list[str]], tmp_path: Path
) -> None:
    turned = write(tmp_path / "turned.csv", [HEADER[::-1], *(row[::-1] for row in rows)])
    assert run("query", model, turned) == run("query", model, data)
    other = write(tmp_path / "other.csv", [["season", "rain", "snow"], *rows])
    assert "missing: ['wind']" in run("query", model, other, code=2)


def test_a_word_that_the_model_does_not_know(run: Run, model: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.csv", [HEADER, ["winter", "no", "calm"], ["spring", "", "?"]])
    message = run("query", model, new, code=2)
    assert "column 'season' holds 'winter'; expected one of autumn, spring, summer" in message
    gaps = write(tmp_path / "gaps.csv", [HEADER, ["spring", "", "?"]])
    assert run("query", model, gaps) == run("query", model, "--given", "season=spring")


def test_a_word_of_the_held_out_rows_alone(run: Run, data: Path, tmp_path: Path) -> None:
    valid = write(tmp_path / "valid.csv", [HEADER, ["early", "no", "calm"]])
    run("fit", data, "--valid", valid, *FIT, "--output", tmp_path / "model")
    found = read_names(tmp_path / "model", pc.load(tmp_path / "model").circuit)
    assert found is not None and found.words[0] == (*SEASONS, "early")
    assert float(table(run("query", tmp_path / "model", valid))[0]["log_likelihood"]) < 0


def test_pictures_say_the_names(run: Run, model: Path, tmp_path: Path) -> None:
    for picture in ("circuit", "marginals", "dependencies", "dependency-graph", "regions"):
        path = tmp_path / f"{picture}.svg"
        run("draw", model, "--picture", picture, "--output", path)
        assert "season" in path.read_text(), picture
    run("draw", model, "--picture", "marginals", "--given", "rain=yes", "--output", path)
    assert "rain=yes" in path.read_text() and "summer" in path.read_text()


def test_the_names_follow_the_model(run: Run, model: Path, tmp_path: Path) -> None:
    run("convert", model, tmp_path / "copy")
    assert (tmp_path / "copy" / NAMES).read_text() == (model / NAMES).read_text()
    run("convert", model, tmp_path / "model.pc")
    assert table(run("query", tmp_path / "model.pc", "--query", "map"))[0]["X0"].isdigit()


def test_words_need_a_model_that_knows_them(run: Run, data: Path, tmp_path: Path) -> None:
    pc.CircuitModel(pc.families.mixture(3, 2, 3)).save(tmp_path / "plain")
    assert "does not say which categories" in run("query", tmp_path / "plain", data, code=2)


def test_what_is_read_is_said(run: Run, data: Path, tmp_path: Path) -> None:
    out = run("fit", data, *FIT, "--output", tmp_path / "model")
    assert "80 rows of 3 variables with 2 to 3 categories" in out and "identifier" not in out
    named = write(
        tmp_path / "named.csv", [["who", "rain"], *([f"p{i}", RAIN[i % 2]] for i in range(80))]
    )
    out = run("fit", named, *FIT, "--output", tmp_path / "other")
    assert "column 'who' has 80 categories in 80 rows; is it an identifier?" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no,calm\nyes,storm\nno,calm\n", "the first row looks like the others"),
        ("x,y\n0,1\n1,red\n", "row 2, column 2 is 'red'.* as in 1 other rows"),
        ("x;y\nno;calm\n", "separated by ','; found one column with ';'"),
        (",x\n0,no\n1,yes\n", r"column 1 has no name.*to_csv\(index=False\)"),
        ("x,x\nno,yes\n", "two columns are called 'x'"),
        ("x,y\n0.5,no\n", "row 1, column 1 is 0.5.*numpy.digitize"),
    ],
)
def test_wrong_tables_of_words(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(FormatError, match=message):
        read_table(tmp_path / "a.csv")


def test_a_mark_of_the_byte_order_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffx,y\nno,calm\n", encoding="utf-8")
    found = read_table(tmp_path / "a.csv").codebook
    assert found is not None and found.names == ("x", "y")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda found: found | {"format_version": 2}, "another format or version"),
        (lambda found: found | {"variables": found["variables"][:2]}, "names other variables"),
        (lambda found: found | {"variables": "x"}, "expected a name and a list"),
        (lambda found: found | {"variables": [{"name": "a"}] * 3}, "given to two"),
        (lambda found: found | {"variables": [{"name": 1}] * 3}, "expected a name and a list"),
    ],
)
def test_damaged_names(run: Run, model: Path, damage: Callable[[dict], dict], message: str) -> None:
    found = json.loads((model / NAMES).read_text())
    (model / NAMES).write_text(json.dumps(damage(found)))
    assert message in run("query", model, code=2)
