"""Small trainings that several processes run together: see tests/codd/test_training_processes."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

import codd
import pcircuits as pc
from codd.coupling.couplings import CouplingSettings
from codd.denoisers.lora import LoraSettings, add_lora
from codd.training.cache import DenoiserCache
from codd.training.cache_layout import CacheSettings
from codd.training.cache_writer import plan_cache, write_cache
from codd.training.cached_loop import CachedTraining, train_cached
from codd.training.circuit_loop import CircuitTraining, train_circuit
from codd.training.corpus import Corpus
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.denoiser_config import DenoiserTraining
from codd.training.denoiser_loop import train_denoiser
from codd.training.schedule import Schedule
from codd.training.windows import evaluation_windows

V, LENGTH, WINDOW = 9, 10, 5
RUNS = ("denoiser", "circuit", "coupling", "cached", "joint")
SCHEDULE = Schedule(
    steps=6, warmup_steps=2, validate_every=3, checkpoint_every=2, ema_decay=0.5, seed=5
)
SETTINGS = CouplingSettings("copula", (1.0, 0.5))

Curve = list[tuple[float, float]]


def tokens() -> torch.Tensor:
    """A text in which neighbours depend on each other."""
    steps = torch.randint(3, (600,), generator=torch.Generator().manual_seed(1))
    return steps.cumsum(0) % V


def parts(seed: int = 0) -> tuple[codd.TransformerDenoiser, pc.CircuitModel, torch.nn.Module]:
    """A denoiser, a circuit and a head."""
    config = codd.TransformerConfig(V, max_length=LENGTH, width=8, num_layers=1, num_heads=2)
    circuit = pc.CircuitModel(pc.families.hmm(WINDOW, 4, V), seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = codd.make_modulator("latent", circuit.plan, 8, rank=3)
    return codd.TransformerDenoiser(config, seed=0), circuit, head


def small_cache(folder: Path) -> DenoiserCache:
    """A cache of all categories, complete."""
    denoiser = parts()[0].eval()
    settings = CacheSettings(
        top_k=V, window=WINDOW, block_length=3, hidden=True, dtype="float32", shard_rows=16
    )
    sequences = evaluation_windows(tokens(), LENGTH)
    layout = plan_cache(denoiser, sequences, settings, {})
    write_cache(denoiser, sequences, layout, folder, show_progress=False)
    return DenoiserCache(folder)


def learned(
    name: str,
    folder: Path,
    cache: DenoiserCache,
    *,
    group: dist.ProcessGroup | None = None,
    seed: int = 0,
    resume: bool = False,
) -> tuple[dict[str, torch.Tensor], Curve]:
    """Parameters after one of the runs, and its curve."""
    denoiser, circuit, head = parts(seed)
    options = {"resume": resume, "group": group, "show_progress": False}
    if name == "denoiser":
        return learned_denoiser(folder, options)
    if name == "circuit":
        training = CircuitTraining(4, 6, 9, warmup=2, validate_every=3, checkpoint_every=2)
        valid = evaluation_windows(tokens()[:100], WINDOW)
        outcome = train_circuit(circuit, tokens(), valid, training, folder, {}, **options)
    elif name == "cached":
        rates = CachedTraining(batch_size=7, validation_rows=8)
        outcome = train_cached(
            circuit, head, SETTINGS, cache, rates, SCHEDULE, folder, {}, **options
        ).run
    else:
        vocabulary = codd.CharacterVocabulary.from_text(["abcdefgh"])
        model = codd.CoupledModel(
            denoiser, circuit, head, vocabulary, settings=SETTINGS, block_length=3
        )
        rates = CouplingTraining(
            7,
            circuit_learning_rate=1e-2,
            denoiser_learning_rate=1e-3,
            validation_windows=8,
            micro_batches=2 if name == "joint" else 1,
        )
        if name == "joint":
            add_lora(denoiser, LoraSettings(2), seed=seed)
        valid = evaluation_windows(tokens()[:100], LENGTH)
        outcome = train_coupling(model, tokens(), valid, rates, SCHEDULE, folder, {}, **options)
    found = {n: t.detach().clone() for n, t in circuit.log_parameters().items()}
    if name != "circuit":
        found |= {f"head.{n}": p.detach().clone() for n, p in head.named_parameters()}
    if name in ("coupling", "joint"):
        found |= {f"denoiser.{n}": p.detach().clone() for n, p in denoiser.named_parameters()}
    return found, [(entry.train_loss, entry.valid_loss) for entry in outcome.history]


def learned_denoiser(
    folder: Path, options: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], Curve]:
    """Weights of a small denoiser, and its curve."""
    vocabulary = codd.CharacterVocabulary.from_text(["abcdefgh"])
    rows = tokens().view(6, 100).tolist()
    texts = ["".join("abcdefgh "[t] for t in row) for row in rows]
    corpus = Corpus(tuple(texts[:4]), (texts[4],), (texts[5],), "", "letters")
    config = codd.TransformerConfig(
        vocabulary.size, max_length=LENGTH, width=8, num_layers=1, num_heads=2
    )
    training = DenoiserTraining(
        steps=6,
        batch_size=7,
        window_length=LENGTH,
        block_length=3,
        validate_every=3,
        checkpoint_every=2,
        precision="float32",
        seed=5,
    )
    trained = train_denoiser(corpus, vocabulary, config, training, folder, **options)
    curve = [(entry.train_loss, entry.valid_loss) for entry in trained.history]
    return trained.model.state_dict(), curve


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
    cache = DenoiserCache(folder / "cache")
    for name in RUNS:
        # Unequal starts: the first process's is the one that counts.
        group = dist.group.WORLD
        parameters, curve = learned(name, folder / name, cache, group=group, seed=rank)
        found |= {f"{name}.{key}": tensor for key, tensor in parameters.items()}
        found[f"{name}.curve"] = torch.tensor(curve, dtype=torch.float64)
    save_file(found, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
