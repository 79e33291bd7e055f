"""Several processes train to what one does, and a killed training resumes to the same curve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from codd.training import cached_loop, circuit_loop, coupling_loop, denoiser_loop
from codd.training.cache import DenoiserCache
from tests.support.training_worker import RUNS, learned, small_cache

ROOT = Path(__file__).resolve().parents[2]
LOOPS = {
    "denoiser": denoiser_loop,
    "circuit": circuit_loop,
    "coupling": coupling_loop,
    "cached": cached_loop,
    "joint": coupling_loop,
}

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("training")
    small_cache(made / "cache")
    return made


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Tensor]]:
    """What each of two processes learned."""
    command = [sys.executable, "-m", "tests.support.training_worker", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen(
            [*command, str(rank), "2"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180)[0].decode() for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_to_what_one_does(
    name: str, results: list[dict[str, Tensor]], folder: Path, tmp_path: Path
) -> None:
    expected, curve = learned(name, tmp_path, DenoiserCache(folder / "cache"))

    for key, tensor in expected.items():
        both = [found[f"{name}.{key}"] for found in results]
        assert torch.equal(both[0], both[1])
        torch.testing.assert_close(both[0], tensor, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        results[0][f"{name}.curve"], torch.tensor(curve, dtype=torch.float64), rtol=0, atol=1e-5
    )
    assert curve[-1] != curve[0]


_PLAIN = ("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")


@pytest.mark.parametrize(
    "launcher",
    [
        ("torch.distributed.run", "--nproc-per-node=2"),
        ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", *_PLAIN),
    ],
    ids=lambda words: words[0].partition(".")[0],
)
def test_processes_of_a_launcher_meet(launcher: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip(launcher[0].partition(".")[0])
    script = tmp_path / "meet.py"
    script.write_text(_MEETING)
    command = [sys.executable, "-m", *launcher, str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert {file.name: file.read_text() for file in tmp_path.glob("[01]")} == {
        "0": "3.0 of 2",
        "1": "3.0 of 2",
    }


# In a function: what still holds on to the group when the interpreter ends may abort it.
_MEETING = """
import pathlib
import sys

import torch
from codd.training.processes import launched_group, torchrun_share


def main():
    with launched_group() as group:
        rank, size = torchrun_share()
        total = torch.tensor([rank + 1.0])
        torch.distributed.all_reduce(total, group=group)
        pathlib.Path(sys.argv[1], str(rank)).write_text(f"{total.item()} of {size}")


main()
"""


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_training_resumes_to_the_same_curve(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = DenoiserCache(folder / "cache")
    whole, curve = learned(name, tmp_path / "whole", cache)
    real = LOOPS[name].step_seed

    def kill(seed: int, step: int) -> int:
        if step == 5:  # the last checkpoint was written after 4 steps
            raise Killed
        return int(real(seed, step))

    with monkeypatch.context() as patch:
        patch.setattr(LOOPS[name], "step_seed", kill)
        with pytest.raises(Killed):
            learned(name, tmp_path / "killed", cache)

    resumed, again = learned(name, tmp_path / "killed", cache, resume=True)

    assert again == curve
    assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())
