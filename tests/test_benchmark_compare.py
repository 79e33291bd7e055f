"""The comparison: what is wrong has no time, what is missing is said, and figures become tables."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from benchmarks import coupling_step, coupling_targets, expected, measure, peers, suite, targets
from benchmarks.__main__ import main
from benchmarks.ceilings import Ceilings, Demand, demand_of
from benchmarks.compare import Settings, run_compare, run_pass
from benchmarks.comparison_tables import comparison
from benchmarks.coupling_step import run_coupling_step, ways
from benchmarks.measure import interleaved_seconds, quotients
from benchmarks.peers import OURS, Contender, NotApplicableError, contender
from benchmarks.report import markdown, write_folder
from benchmarks.scaling import exponent, run_scaling
from benchmarks.suite import BACKWARD, CASES, EM, FORWARD, MARGINALS, SAMPLING

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
CEILINGS = Ceilings(1e9, 1e9)
SETTINGS = Settings((OURS, "plain"), suite.PASSES, CPU, rounds=3)


def work_of(name: str) -> suite.Work:
    return suite.build(suite.quick(CASES[name]), CPU)


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_right_and_timed_at_small_sizes(name: str) -> None:
    work = work_of(name)

    for pass_ in work.case.passes:
        entry = run_pass(work, pass_, SETTINGS, CEILINGS)
        ours = entry["peers"][OURS]
        assert ours["status"] == "timed"
        assert ours["error"] < (expected.DEVIATIONS if pass_ == SAMPLING else 1e-5)
        assert ours["seconds"]["rounds"] == 3
        plain = entry["peers"]["plain"]
        if plain["status"] == "timed":
            assert plain["ours_over_theirs"]["rounds"] == 3


@pytest.mark.parametrize("pass_", [FORWARD, BACKWARD, EM, MARGINALS, SAMPLING])
def test_a_wrong_result_prints_no_time(pass_: str) -> None:
    work = work_of("hmm")
    called = []

    def spoilt(result: peers.Result) -> peers.Result:
        if pass_ == SAMPLING:
            return torch.zeros_like(result)  # each variable's first category
        if isinstance(result, Tensor):
            return result * 1.001
        name = min(result)
        return {**result, name: result[name] * 1.001}

    def find(name: str, work: suite.Work, pass_: str) -> Contender:
        right = contender(OURS, work, pass_)
        if name == OURS:
            return right
        return Contender(lambda: called.append(name), lambda: spoilt(right.result()))

    entry = run_pass(work, pass_, SETTINGS, CEILINGS, find)

    assert entry["peers"]["plain"]["status"] == "wrong"
    assert "seconds" not in entry["peers"]["plain"]
    assert called == []
    report = {"quick": True, "ceilings": dataclasses.asdict(CEILINGS), "entries": [entry]}
    assert "plain: **wrong: error" in comparison(report)
    assert "| plain |" not in comparison(report)


def test_not_a_number_is_wrong() -> None:
    work = work_of("hmm")

    assert expected.error_of(work, FORWARD, torch.full((6,), math.nan)) == math.inf
    assert expected.error_of(work, FORWARD, torch.zeros(5)) == math.inf
    assert expected.error_of(work, BACKWARD, {}) == math.inf


def test_what_cannot_be_run_is_said() -> None:
    def find(name: str, work: suite.Work, pass_: str) -> Contender:
        match name:
            case "dynamax":
                raise ModuleNotFoundError("No module named 'dynamax'")
            case "hmmlearn":
                raise NotApplicableError("only on Sundays")
            case "cirkit":
                raise RuntimeError("it broke")
        return contender(name, work, pass_)

    settings = dataclasses.replace(SETTINGS, peers=(OURS, "dynamax", "hmmlearn", "cirkit"))
    entry = run_pass(work_of("tree"), FORWARD, settings, CEILINGS, find)

    statuses = {name: found["status"] for name, found in entry["peers"].items()}
    assert statuses == {
        OURS: "timed",
        "dynamax": "not installed",
        "hmmlearn": "not applicable",
        "cirkit": "failed",
    }
    report = {"quick": True, "ceilings": dataclasses.asdict(CEILINGS), "entries": [entry]}
    for part in ("dynamax (not installed", "only on Sundays", "RuntimeError in find"):
        assert part in comparison(report)


def test_our_own_failure_is_an_error_and_our_own_wrong_result_is_named() -> None:
    def broken(name: str, work: suite.Work, pass_: str) -> Contender:
        raise RuntimeError("it broke")

    def off(name: str, work: suite.Work, pass_: str) -> Contender:
        return Contender(list, lambda: torch.zeros(6))

    case = suite.quick(CASES["tree"])
    with pytest.raises(RuntimeError, match="it broke"):
        run_compare([case], SETTINGS, find=broken)
    kept: list[int] = []
    settings = dataclasses.replace(SETTINGS, passes=(FORWARD, BACKWARD))
    report = run_compare([case], settings, find=off, keep=lambda r: kept.append(len(r["entries"])))
    assert report["wrong"] == ["tree, forward", "tree, forward+backward"]
    assert kept == [1, 2]


def test_samples_whose_variables_do_not_depend_on_each_other_are_wrong() -> None:
    case = dataclasses.replace(suite.quick(CASES["hmm"]), sharpness=3.0)
    work = suite.build(case, CPU)
    right = contender(OURS, work, SAMPLING).result()
    assert isinstance(right, Tensor)
    shuffled = torch.stack([column[torch.randperm(len(column))] for column in right.T], 1)

    assert expected.error_of(work, SAMPLING, right) < expected.DEVIATIONS
    assert expected.error_of(work, SAMPLING, shuffled) > expected.DEVIATIONS


def test_float64_here_is_the_reference_implementation() -> None:
    for name in ("hmm", "hmm-soft", "hmm-listed", "tree-pairs", "hclt", "rat", "poon-domingos"):
        work = work_of(name)
        double = {n: p.double() for n, p in work.log_parameters.items()}
        found = pc.forward(work.plan, double, work.evidence, impl="reference")
        assert expected.error_of(work, FORWARD, found) < 1e-12


def test_demand_counts_by_hand() -> None:
    case = suite.Case("hmm", "HMM", {"length": 3, "num_states": 2, "num_categories": 5}, 7)
    work = suite.build(case, CPU)

    found = demand_of(work, FORWARD)
    operations = 3 * 2 + 2 * (2 * 2) + 2 * 2 * 2 + 2  # look-ups, steps, products of two, root
    units = 3 * 2 + 2 * 2 + 2 * 2 + 1
    weights, emitted = 2 * 2 + 2, 3 * 2
    assert found == Demand(2 * 7 * operations, 4 * (weights + 7 * emitted + 2 * 7 * units))
    assert demand_of(work, BACKWARD) == Demand(3 * found.operations, 3 * found.bytes)
    assert demand_of(work, SAMPLING) is None


def test_the_share_is_that_of_the_ceiling_which_is_reached_first() -> None:
    ceilings = Ceilings(operations_per_second=100.0, bytes_per_second=10.0)

    assert ceilings.share(Demand(50, 1), 2.0) == 0.25
    assert ceilings.share(Demand(50, 10), 2.0) == 0.5


def test_slow_calls_are_left_out_of_later_rounds() -> None:
    calls = {"slow": lambda: time.sleep(0.01), "fast": lambda: None}
    found = interleaved_seconds(calls, rounds=9, warmup=0, device=CPU, share=0.0)

    assert {name: len(seconds) for name, seconds in found.items()} == {"slow": 3, "fast": 3}
    assert quotients([2.0, 9.0], [4.0]) == [0.5]


def test_targets_take_the_best_peer_of_each_round() -> None:
    def timed(*seconds: float) -> dict[str, object]:
        return {"status": "timed", "rounds": list(seconds)}

    found = {"cirkit": timed(4.0, 1.0, 4.0), "spflow": timed(2.0, 2.0, 2.0)}
    entry = {"case": "tree-pairs", "pass": FORWARD, "peers": {OURS: timed(1.0, 1.0, 1.0), **found}}
    (target,) = targets.reached({"entries": [entry]})

    assert (target["quotient"], target["at_most"], target["met"]) == (0.5, 0.75, True)


def test_exponents_are_slopes_in_logarithms() -> None:
    sizes = [1.0, 10.0, 100.0]

    assert exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_sweeps_report_points_and_fits() -> None:
    report = run_scaling(["batch", "length"], device=CPU, rounds=1, quick=True)

    for sweep in report["sweeps"].values():
        assert [point["size"] for point in sweep["points"]] == [2, 4, 8]
        assert set(sweep["exponents"]) == {FORWARD, BACKWARD}
    assert "| length |" in markdown(report)


def test_commands_write_results_and_a_folder_of_them_becomes_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compare.json"
    arguments = ["--quick", "--cases", "hmm", "tree", "--passes", FORWARD, "--rounds", "2"]
    assert main(["compare", *arguments, "--peers", OURS, "plain", "--out", str(out)]) == 0
    scaling = ["scaling", "--quick", "--sweeps", "batch", "--rounds", "1"]
    assert main([*scaling, "--out", str(tmp_path / "scaling.json")]) == 0
    (tmp_path / "other.json").write_text("[]")
    report = json.loads(out.read_text())
    assert [entry["case"] for entry in report["entries"]] == ["hmm", "tree"]

    first = write_folder(tmp_path)
    pictures = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    assert set(pictures) == {"compare.svg", "scaling.svg"}
    assert write_folder(tmp_path) == first
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")} == pictures
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(first)


def test_the_coupling_step_reports_every_way_of_the_device() -> None:
    report = run_coupling_step(device=CPU, rounds=1, small=True)

    assert report["wrong"] == []
    for way in ways(CPU):
        assert max(report["entries"][way.name]["errors"].values()) < 1e-6
        assert report["entries"][way.name]["seconds"]["rounds"] == 1
    assert set(report["batch"]["entries"]) == {FORWARD, BACKWARD}
    assert "| exact, copula, one sweep, float64 |" in markdown(report)


def test_a_wrong_coupling_step_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    right = coupling_step.coupling_step

    def off(*arguments: object, **options: object) -> object:
        found = right(*arguments, **options)
        return dataclasses.replace(found, marginals=found.marginals.roll(1, -1))

    monkeypatch.setattr(coupling_step, "coupling_step", off)
    report = run_coupling_step(device=CPU, rounds=1, small=True)

    assert report["wrong"] == [way.name for way in ways(CPU)]
    assert not any("seconds" in report["entries"][way.name] for way in ways(CPU))
    assert "**wrong**" in markdown(report)


def test_limits_of_the_coupling_step_are_judged_on_a_gpu_alone() -> None:
    def entry(*seconds: float, error: float = 1e-6, peak: int = 4) -> dict[str, object]:
        found = {"seconds": dataclasses.asdict(measure.timing(seconds)), "rounds": list(seconds)}
        return {"errors": {"log Z": error}, "wrong": False, "peak_bytes": peak, **found}

    entries = {
        "exact, product, ieee, graph": entry(6e-4, 6e-4, 6e-4),
        "exact, product, tf32x3, graph": entry(4e-4, 4e-4, 4e-4, peak=8),
        "exact, product, bf16, graph": entry(1e-4, 1e-4, 1e-4, error=1e-3),
        "top-k, copula, one sweep, ieee": entry(6e-4, 6e-4, 6e-4),
        "top-k, product, ieee": {"errors": {"log Z": 1.0}, "wrong": True},
        "pyjuice: log Z alone": entry(5e-3, 5e-3, 5e-3),
        "pyjuice, float32: log Z alone": {"missing": "not installed"},
    }
    batch = {FORWARD: entry(4e-4, 6e-4, 5e-4), BACKWARD: entry(3.4e-3, 3e-3, 2.9e-3)}
    report = {
        "benchmark": "coupling-step",
        "description": "a case",
        "machine": {"device": "cuda"},
        "quick": False,
        "entries": entries,
        "batch": {"description": "a case", "entries": batch},
    }
    found = {target["what"]: target for target in coupling_targets.reached(report)}

    exact = found["step: exact, product"]
    assert exact["way"] == "exact, product, tf32x3, graph" and exact["met"]
    assert not found["step: top-k, copula, one sweep"]["met"]
    assert "step: top-k, product" not in found and "step: exact, copula, one sweep" not in found
    share = found["exact step over pyjuice: log Z alone"]
    assert share["figure"] == pytest.approx(0.08) and share["met"]
    assert found["its memory over pyjuice: log Z alone"]["figure"] == 2.0
    assert not found["its memory over pyjuice: log Z alone"]["met"]
    assert found["batch 8: forward"]["figure"] == 5e-4 and found["batch 8: forward"]["met"]
    assert found["batch 8: backward"]["figure"] == pytest.approx(2.4e-3)
    assert coupling_targets.reached({**report, "machine": {"device": "cpu"}}) == []
    assert coupling_targets.reached({**report, "quick": True}) == []
    row = "| step: exact, product | exact, product, tf32x3, graph | 0.400 ms | 0.500 ms | met |"
    assert row in markdown(report)


@pytest.mark.slow
def test_the_gpu_script_runs_at_tiny_sizes(tmp_path: Path) -> None:
    environment = {**os.environ, "DEVICE": "cpu", "OUT": str(tmp_path), "PYTHON": sys.executable}
    script = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh"], capture_output=True, text=True, env=environment
    )

    assert script.returncode == 0, script.stderr
    written = {path.name for path in tmp_path.glob("*.json")}
    assert {"coupling-step.json", "compare-hmm.json", "compare-trees.json"} <= written
    assert len(written) == 6


def test_the_gpu_script_stays_under_nine_minutes() -> None:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text()
    limits = re.findall(r"^ *(?:attempt|compare) [a-z-]+ (\d+) ", script, re.M)

    assert len(limits) == 7
    # With what is installed and written besides.
    assert sum(map(int, limits)) <= 480
    assert script.index("attempt tests") < script.index("attempt coupling-step")
    assert subprocess.run(["bash", "-n", ROOT / "benchmarks" / "gpu.sh"]).returncode == 0
