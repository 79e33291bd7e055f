"""Several processes learn what one does."""

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

from tests.support.process_worker import RUNS, learned

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Tensor], str]]:
    """What each of two processes learned, and the error each was shown."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.support.process_worker", str(folder)]
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
    return [
        (load_file(folder / f"{rank}.safetensors"), (folder / f"{rank}.txt").read_text())
        for rank in range(2)
    ]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_learn_what_one_does(
    name: str, results: list[tuple[dict[str, Tensor], str]]
) -> None:
    expected, history = learned(name, None)

    for key, tensor in expected.items():
        both = [found[f"{name}.{key}"] for found, _ in results]
        assert torch.equal(both[0], both[1])
        torch.testing.assert_close(both[0], tensor, rtol=0, atol=1e-6)
    records = torch.tensor([[r.train, r.valid] for r in history], dtype=torch.float64)
    torch.testing.assert_close(results[0][0][f"{name}.history"], records, rtol=0, atol=1e-5)


def test_an_error_of_one_process_ends_all(results: list[tuple[dict[str, Tensor], str]]) -> None:
    assert "another process" in results[0][1]
    assert "probability zero" in results[1][1]
