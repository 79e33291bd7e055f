"""One of several processes that learn together; its arguments are FOLDER RANK SIZE.

They meet through a file in the folder; each writes what it learned to `RANK.safetensors`.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

import pcircuits as pc
from pcircuits.errors import CircuitError

RUNS: dict[str, dict[str, object]] = {
    "plain": {"method": "em"},
    "online": {"method": "em", "batch_size": 7},
    "anemone": {"method": "em", "batch_size": 7, "algorithm": "anemone"},
    "gradient": {"method": "gradient", "batch_size": 7},
    "single": {"method": "gradient", "batch_size": 1, "epochs": 1},
}


def rows(num_rows: int, seed: int) -> torch.Tensor:
    """(N, 5) values of three categories."""
    return torch.randint(3, (num_rows, 5), generator=torch.Generator().manual_seed(seed))


def learned(
    name: str, group: dist.ProcessGroup | None, *, seed: int = 0
) -> tuple[dict[str, torch.Tensor], pc.History]:
    """Parameters after one of the runs, and its history."""
    options = {"epochs": 4, **RUNS[name]}
    fit = {"em": pc.fit_em, "gradient": pc.fit_gradient}[str(options.pop("method"))]
    model = pc.CircuitModel(pc.families.hmm(5, 3, 3), seed=seed)
    weights = torch.arange(1.0, 21.0) / 10
    history = fit(
        model,
        rows(20, 1),
        weights=weights,
        valid=rows(5, 2),
        patience=3,
        group=group,
        progress=False,
        **options,
    )
    return {k: v.detach().clone() for k, v in model.probabilities().items()}, history


def error_of_an_impossible_row(group: dist.ProcessGroup) -> str:
    """What a process is told when one row, evaluated by the second process, is impossible."""
    model = pc.CircuitModel(pc.families.factorized(1, 2))
    model.set_probabilities({"input_0": torch.tensor([[1.0, 0.0]])})
    try:
        pc.fit_em(model, torch.tensor([[0], [1]]), group=group, progress=False)
    except CircuitError as error:
        return str(error)
    return ""


def main(folder: Path, rank: int, size: int) -> None:
    """Runs everything and writes the results."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    found = {}
    for name in RUNS:
        # Unequal starts: the first process's is the one that counts.
        parameters, history = learned(name, dist.group.WORLD, seed=rank)
        found |= {f"{name}.{key}": tensor for key, tensor in parameters.items()}
        records = [[record.train, record.valid] for record in history]
        found[f"{name}.history"] = torch.tensor(records, dtype=torch.float64)
    save_file(found, folder / f"{rank}.safetensors")
    (folder / f"{rank}.txt").write_text(error_of_an_impossible_row(dist.group.WORLD))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
