"""The benchmarks: what they compare is equal, and what is wrong is never timed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.cases import StepSizes, binary_tree_case, hmm_case, step_case
from benchmarks.decoding_step import check_step, run_decoding_step
from benchmarks.execution import WrongResultError, check, run_case
from benchmarks.measure import timing
from benchmarks.report import markdown, write_report

CPU = torch.device("cpu")
CASES = {
    "hmm": lambda: hmm_case(5, 3, 7, 4, device=CPU),
    "tree": lambda: binary_tree_case(8, 3, 5, 6, device=CPU),
}
SIZES = StepSizes(length=4, num_states=3, num_categories=9, num_listed=3)
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("kind", CASES)
def test_a_case_reports_every_variant_and_the_ratio(kind: str) -> None:
    case = CASES[kind]()

    report = run_case(case, device=CPU, rounds=3)

    names = [variant.name for variant in case.variants]
    assert list(report["seconds"]) == list(report["errors"]) == names
    medians = {name: found["median"] for name, found in report["seconds"].items()}
    assert report["ratio_of_medians"] == medians["pcircuits"] / medians["plain"]
    assert max(report["errors"].values()) < 1e-5


@pytest.mark.parametrize("kind", CASES)
def test_a_wrong_value_or_gradient_is_not_timed(kind: str) -> None:
    case = CASES[kind]()
    ours = case.variants[0]
    off = dataclasses.replace(ours, function=lambda p, v: ours.function(p, v) * 1.001)
    detached = dataclasses.replace(
        ours,
        function=lambda p, v: (
            ours.function({n: t.detach() for n, t in p.items()}, v)
            + 0 * sum(t.sum() for t in p.values())
        ),
    )

    with pytest.raises(WrongResultError, match="pcircuits: value is off by"):
        check(off, case.values)
    with pytest.raises(WrongResultError, match=r"pcircuits: gradient of .* is off by"):
        run_case(
            dataclasses.replace(case, variants=(detached, *case.variants[1:])),
            device=CPU,
            rounds=1,
        )


def test_a_wrong_query_of_the_decoding_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = step_case(SIZES, device=CPU)
    check_step(case)
    uniform = torch.full((1, SIZES.length, SIZES.num_categories), 1 / SIZES.num_categories)
    monkeypatch.setattr("pcircuits.queries.marginals", lambda *_: uniform)

    with pytest.raises(WrongResultError, match="exact form: marginals is off by"):
        check_step(case)


def test_the_decoding_step_reports_both_forms(tmp_path: Path) -> None:
    report = run_decoding_step(SIZES, device=CPU, rounds=2)

    assert list(report["forms"]) == ["exact", "top-k"]
    for queries in report["forms"].values():
        assert list(queries) == ["log_z", "marginals", "sample"]
        assert all(found["seconds"]["rounds"] == 2 for found in queries.values())
    write_report(tmp_path / "new" / "step.json", report)
    assert json.loads((tmp_path / "new" / "step.json").read_text()) == report
    table = (tmp_path / "new" / "step.md").read_text()
    assert table == markdown(report)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["step.json", "step.md"]


def test_timing_gives_the_quartiles() -> None:
    assert dataclasses.astuple(timing([4.0, 1.0, 3.0, 2.0, 5.0])) == (3.0, 2.0, 4.0, 5)
    assert dataclasses.astuple(timing([2.0])) == (2.0, 2.0, 2.0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["execution", "--rounds", "0"], "number of at least 1; found '0'"),
        (["execution", "--out", "table.md"], "ends in .json; found 'table.md'"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)

    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_gpu_its_commands_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["execution", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err

    script = subprocess.run([ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True)
    assert script.returncode == 0
    assert "no CUDA device" in script.stdout
