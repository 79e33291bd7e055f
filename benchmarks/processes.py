"""`python -m benchmarks.processes`: EM by two gloo processes against one, largest difference."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

import pcircuits as pc

# The two must agree to this; see also tests/pcircuits/test_learning_processes.py.
TOLERANCE = 1e-6

RUNS: dict[str, dict[str, object]] = {
    "plain": {"epochs": 10},
    "online": {"epochs": 2, "batch_size": 100},
    "anemone": {"epochs": 2, "batch_size": 100, "algorithm": "anemone"},
}


def main() -> int:
    """Prints a row for each algorithm; the exit status says whether all agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.rank is not None:
        _work(options.folder, options.rank)
        return 0
    with tempfile.TemporaryDirectory() as name:
        together, seconds = _two_processes(Path(name))
    agree = True
    print("| algorithm | largest difference of a probability | one process, s | two, s |")
    print("| --- | --- | --- | --- |")
    for algorithm in RUNS:
        started = time.perf_counter()
        alone = _learned(algorithm, None)
        own = time.perf_counter() - started
        gap = max(float((together[f"{algorithm}.{n}"] - t).abs().max()) for n, t in alone.items())
        agree = agree and gap <= TOLERANCE
        print(f"| {algorithm} | {gap:.1e} | {own:.2f} | {seconds[algorithm]:.2f} |")
    return 0 if agree else 1


def _learned(algorithm: str, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Probabilities of a hidden Markov model after a run on 2,000 rows of its own kind."""
    circuit = pc.families.hmm(length=12, num_states=24, num_categories=20)
    teacher = pc.CircuitModel(circuit, seed=1)
    rows = teacher.sample(2000, generator=torch.Generator().manual_seed(0))
    model = pc.CircuitModel(circuit, seed=2)
    pc.fit_em(model, rows, group=group, progress=False, **RUNS[algorithm])
    return model.probabilities()


def _two_processes(folder: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """What both learned, by algorithm and parameter, and the seconds that each run took."""
    command = [sys.executable, "-m", "benchmarks.processes", "--folder", str(folder), "--rank"]
    running = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    if any([process.wait() for process in running]):
        raise RuntimeError("a process failed; see its error above")
    found = load_file(folder / "learned.safetensors")
    return found, {name: float(found.pop(f"{name} seconds")) for name in RUNS}


def _work(folder: Path, rank: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )
    found: dict[str, Tensor] = {}
    for name in RUNS:
        started = time.perf_counter()
        learned = _learned(name, dist.group.WORLD)
        found |= {f"{name}.{parameter}": tensor for parameter, tensor in learned.items()}
        found[f"{name} seconds"] = torch.tensor(time.perf_counter() - started)
    if rank == 0:
        save_file(found, folder / "learned.safetensors")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
