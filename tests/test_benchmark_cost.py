"""The cost benchmark: its counts against PyTorch's, what it remembers, what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import pcircuits as pc
from benchmarks.__main__ import main
from benchmarks.cost import notes, operations
from benchmarks.cost.notes import Notes, ProcessorClock
from benchmarks.cost.picture import cost_figure
from benchmarks.cost.settings import CostSettings
from benchmarks.cost.table import cost_table, finding
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.transformer import TransformerConfig, TransformerDenoiser
from codd.training import grpo
from codd.training.grpo_config import GRPOTraining, RewardedPrompts

SHAPE = TransformerConfig(7, max_length=12, width=16, num_layers=2, num_heads=2, mlp_ratio=2.0)


def counted(call: Any, *, convolutions: bool = True) -> float:
    """What PyTorch's own counter finds; of a grouped convolution's gradient it finds too much."""
    with FlopCounterMode(display=False) as counter:
        call()
    found = counter.get_flop_counts()["Global"]
    return float(sum(n for name, n in found.items() if convolutions or "convol" not in str(name)))


def test_the_denoisers_operations_are_those_pytorch_counts() -> None:
    denoiser = TransformerDenoiser(SHAPE)
    tokens = torch.zeros(3, 12, dtype=torch.int64)
    with torch.no_grad():
        assert counted(lambda: denoiser(tokens)) == operations.denoiser_forward(SHAPE, 3, 12)
        once = counted(lambda: denoiser(tokens), convolutions=False)
    both = counted(lambda: denoiser(tokens).logits.sum().backward(), convolutions=False)
    assert both == operations.TRAINED * once


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
@pytest.mark.parametrize("inner", [1, 2])
@pytest.mark.parametrize("estimate", ["one_step", "complementary", "trajectory"])
def test_an_updates_operations_are_those_pytorch_counts(
    estimate: Any, inner: int, kl_weight: float
) -> None:
    training = GRPOTraining(
        8, 4, inner_updates=inner, kl_weight=kl_weight, estimate=estimate, group_size=4
    )
    prompts = [torch.arange(4)] * 8
    task = RewardedPrompts(prompts, lambda which, completions: completions[:, 0].float())
    denoiser = TransformerDenoiser(SHAPE)
    tuner = grpo._Tuner(denoiser, task, training, 0)
    tokens = torch.zeros(32, 12, dtype=torch.int64)
    with torch.no_grad():
        once = counted(lambda: denoiser(tokens), convolutions=False)
    total = sum(
        counted(lambda s=s: tuner.loss_at(s).backward(), convolutions=False) for s in range(inner)
    )
    forward = operations.denoiser_forward(SHAPE, 32, 12)
    assert total / once == pytest.approx(
        operations.grpo_update(SHAPE, training) * inner / forward, rel=1e-9
    )


def test_the_circuits_operations_follow_from_its_plan() -> None:
    plan = pc.CircuitModel(pc.families.hmm(6, 5, 4)).plan
    cost = plan.cost()
    copula = CouplingSettings("copula", (1.0, 0.5))
    assert operations.em_step(plan, 10) == 60 * cost.operations
    assert operations.coupled_forward(plan, CouplingSettings("product"), 10) == (
        20 * cost.soft_operations
    )
    assert operations.coupled_forward(plan, copula, 10) == 140 * cost.soft_operations
    step = operations.coupling_step(plan, copula, SHAPE, 10)
    circuit = 3 * (140 * cost.soft_operations + 20 * cost.operations)
    assert step == operations.denoiser_forward(SHAPE, 10, 12) + circuit


def test_what_is_noted_is_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> dict[str, Any]:
        calls.append(1)
        return {"n": len(calls)}

    for _ in range(2):
        assert Notes(tmp_path).get("a", {"x": 1}, compute) == {"n": 1}
    assert Notes(tmp_path).get("a", {"x": 2}, compute) == {"n": 2}
    assert Notes(tmp_path).get("b", {"x": 1}, compute) == {"n": 3}


def test_the_clock_adds_up_resumed_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(notes.time, "process_time", lambda: now[0])
    path = tmp_path / "stage" / "seconds.json"
    clock = ProcessorClock(path)
    for step, seconds in ((5, 103.0), (10, 104.0), (15, 109.0)):
        now[0] = seconds
        clock.mark(step)
    assert clock.seconds() == {5: 3.0, 10: 4.0, 15: 9.0}
    now[0] = 1.0  # another process, continued from step 10
    again = ProcessorClock(path)
    now[0] = 3.0
    again.mark(15)
    assert again.seconds() == {5: 3.0, 10: 4.0, 15: 6.0}


def _estimate(value: float) -> dict[str, float]:
    return {"value": value, "standard_error": 0.01}


def _point(method: str, operations: float, valid: float, test: float) -> dict[str, Any]:
    return {
        "method": method,
        "label": f"{operations:g}",
        "share": 8,
        "operations": operations,
        "seconds": operations / 1e9,
        "way": {
            "selection": "low_confidence",
            "temperature": 0.0,
            "sampler": "latent",
            "coupling": "copula",
        },
        "valid": _estimate(valid),
        "accuracy": _estimate(test),
        "decoding_seconds": 0.001,
    }


REPORT = {
    "settings": {"shares": [4, 8]},
    "grpo_learning_rate": 3e-4,
    "denoiser": {
        "parameters": 10,
        "operations": 1e12,
        "seconds": 5.0,
        "one_token_a_step": {"accuracy": _estimate(0.9), "problems": 100},
    },
    "points": [
        _point("factorised", 0.0, 0.2, 0.2),
        _point("coupled", 1e10, 0.5, 0.55),
        _point("coupled", 4e10, 0.6, 0.5),
        _point("grpo", 1e11, 0.4, 0.9),
        _point("grpo", 4e11, 0.7, 0.6),
    ],
}


def test_the_best_is_chosen_on_validation_problems() -> None:
    line = finding(REPORT, 8)
    assert "coupled 50.0 ± 1.0 %, GRPO 60.0 ± 1.0 % with 10 times its training operations" in line
    assert finding(REPORT, 4) == "1/4 of the steps: not measured for both yet."
    assert "| 1/8 | grpo: 1e+11 | 1.00e+11 | 100 | 90.0 ± 1.0 % |" in cost_table(REPORT)


def test_the_picture_shows_every_point_on_a_logarithmic_axis() -> None:
    figure = cost_figure(REPORT)
    empty, full = figure.axes
    assert full.get_xscale() == "log"
    drawn = [c.lines[0].get_xydata().tolist() for c in full.containers]
    assert drawn == [[[1e10, 0.55], [4e10, 0.5]], [[1e11, 0.9], [4e11, 0.6]]]
    assert not empty.containers
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) == len(set(names)) == 4


@pytest.mark.slow
def test_the_command_runs_and_runs_again_from_its_notes(tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    command = ["cost", "--quick", "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main(command) == 0
    first = json.loads(out.read_text(encoding="utf-8"))
    methods = {point["method"] for point in first["points"]}
    assert methods == {"factorised", "coupled", "grpo", "fine-tuned"}
    assert out.with_suffix(".md").is_file() and out.with_suffix(".svg").is_file()
    assert main(command) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == first


def test_the_steps_divide_the_solution() -> None:
    assert all(CostSettings().grpo.new_tokens % share == 0 for share in CostSettings().shares)
