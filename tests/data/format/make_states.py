"""Makes golden files of the formats beside circuits: run once, when a version changes.

    python tests/data/format/make_states.py tests/data/format/states/v2

A model (`model`), unfinished learning (`learning`), a coupled model (`coupled`) and a cache of a
denoiser (`cache`), each with `NAME.expected.json`. Files of earlier versions were
made by the code of their time and are never made again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import codd
import pcircuits as pc
from codd.training.cache import DenoiserCache
from pcircuits.learning.checkpoint import load_checkpoint
from tests.support.coupled import TEXT, tiny_model
from tests.support.training_worker import small_cache


def rows() -> torch.Tensor:
    """What the unfinished learning learns from."""
    return torch.randint(0, 3, (20, 4), generator=torch.Generator().manual_seed(1))


def learning(folder: Path) -> Any:
    """Sums of all that a checkpoint of EM holds."""
    if not folder.exists():
        model = pc.CircuitModel(pc.families.hmm(4, 2, 3), seed=1)
        pc.fit_em(model, rows(), epochs=2, checkpoint=folder, progress=False)
    state: Any = load_checkpoint(folder)
    run = state["run"]
    return {"epoch": run["epoch"], "train": [record["train"] for record in run["records"]]}


def coupled(folder: Path) -> Any:
    """Marginals of a window of a coupled model."""
    if not folder.exists():
        tiny_model().save_pretrained(folder)
    model = codd.CoupledModel.from_pretrained(folder)
    tokens = model.vocabulary.encode(TEXT[:8])
    tokens[4:] = model.mask_id
    with torch.no_grad():
        return model.joint(tokens[None]).marginals()[0, 4].tolist()


def cache(folder: Path) -> Any:
    """Some rows of a cache."""
    if not folder.exists():
        small_cache(folder)
    batch = DenoiserCache(folder).read(torch.tensor([0, 17]))
    return {"tokens": batch.tokens.tolist(), "log_probs": batch.log_probs.sum(-1).tolist()}


def model(folder: Path) -> Any:
    """Log-likelihoods of a circuit with its weights."""
    if not folder.exists():
        pc.CircuitModel(pc.families.hmm(4, 2, 3), seed=1).save(folder)
    return pc.load(folder).log_likelihood(rows()).tolist()


KINDS = {"model": model, "learning": learning, "coupled": coupled, "cache": cache}


def main(target: Path) -> None:
    """Writes one folder for each kind, and what is read from it."""
    target.mkdir(parents=True)
    for name, kind in KINDS.items():
        (target / f"{name}.expected.json").write_text(json.dumps(kind(target / name)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
