"""Memory at the size of a real model: a hidden Markov model over LLaDA's whole vocabulary.

Every stage runs in a process of its own, which loads the model anew, so that the largest memory it
ever held (`ru_maxrss`, the libraries included) is that of the stage.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import codd
import pcircuits as pc
from benchmarks.measure import describe_machine
from benchmarks.tables import Report
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.distribution import TokenDistribution
from codd.coupling.targets import list_top
from codd.modulators.registry import AnyModulator
from codd.training.cache import CachedBatch
from codd.training.cached_loop import cached_loss

LIMIT_BYTES = 6_000_000_000
STAGES = (
    "load",
    "couple",
    "couple listed",
    "sample",
    "marginals",
    "train product",
    "train copula",
    "train head",
)


@dataclass(frozen=True)
class FullSize:
    """Sizes of the model and of what is asked of it.

    Attributes:
        length: Tokens W of the window.
        num_states: States K.
        num_categories: V; LLaDA's vocabulary.
        num_listed: Categories listed at each position in training.
        batch_size: Windows of a training step.
        hidden_size: D, width of the hidden states that a head reads.
    """

    length: int = 32
    num_states: int = 1024
    num_categories: int = 126_464
    num_listed: int = 1024
    batch_size: int = 8
    hidden_size: int = 4096


SMALL = FullSize(
    length=6, num_states=16, num_categories=300, num_listed=20, batch_size=2, hidden_size=8
)


def run_full_size(*, small: bool = False, say: Callable[[str], None] = print) -> Report:
    """Measures every stage.

    Args:
        small: Tiny sizes: does everything run?
        say: Told of every finished stage.

    Returns:
        The report, ready for JSON; `wrong` names the stages over the limit.
    """
    sizes = SMALL if small else FullSize()
    with tempfile.TemporaryDirectory() as folder:
        model = pc.CircuitModel(_circuit(sizes), seed=0)
        model.save(Path(folder) / "circuit")
        del model
        stages = {}
        for stage in STAGES:
            stages[stage] = _in_a_process(stage, Path(folder), sizes)
            say(f"{stage}: {stages[stage]['peak_bytes'] / 1e9:.2f} GB")
    over = [name for name, found in stages.items() if found["peak_bytes"] > LIMIT_BYTES]
    return {
        "benchmark": "full-size",
        "machine": describe_machine(torch.device("cpu")),
        "sizes": asdict(sizes),
        "limit_bytes": LIMIT_BYTES,
        "stages": stages,
        "wrong": [f"{name}: more than {LIMIT_BYTES / 1e9:.0f} GB" for name in over],
    }


def _in_a_process(stage: str, folder: Path, sizes: FullSize) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.full_size", stage, str(folder)]
    words = [*command, json.dumps(asdict(sizes)), str(torch.get_num_threads())]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _circuit(sizes: FullSize) -> pc.Circuit:
    return pc.families.hmm(sizes.length, sizes.num_states, sizes.num_categories)


def _stage(stage: str, model: pc.CircuitModel, sizes: FullSize) -> None:
    if stage == "load":
        return
    if stage in ("train product", "train copula"):
        _train_circuit(model, stage.removeprefix("train "), sizes)
        return
    if stage == "train head":
        _train_head(model, sizes)
        return
    with torch.no_grad():
        joint = _coupled(model, sizes, sizes.num_listed if stage == "couple listed" else None)
        joint.log_partition.item()
        if stage == "sample":
            joint.sample(generator=torch.Generator().manual_seed(0))
        if stage == "marginals":
            joint.marginals()


def _coupled(model: pc.CircuitModel, sizes: FullSize, num_listed: int | None) -> TokenDistribution:
    """One window, half of it masked, with every category or the likeliest ones alone."""
    logits = _logits(1, sizes)
    values = torch.zeros(1, sizes.length, dtype=torch.int64)
    observed = torch.arange(sizes.length)[None] % 2 == 0
    return couple(
        CouplingSettings("copula", top_k=num_listed),
        model.plan,
        model.prepare(),
        logits.log_softmax(-1),
        values,
        observed,
    )


def _train_circuit(model: pc.CircuitModel, kind: str, sizes: FullSize) -> None:
    """AdamW on all of the circuit's weights, through all sweeps of the copula."""
    modulator = codd.make_modulator("static", model.plan, 1)
    _steps(model, modulator, model, CouplingSettings(kind), sizes)


def _train_head(model: pc.CircuitModel, sizes: FullSize) -> None:
    """AdamW on a latent head through the copula's sweeps; the circuit is frozen."""
    model.requires_grad_(False)
    modulator = codd.make_modulator("latent", model.plan, sizes.hidden_size)
    _steps(model, modulator, modulator, CouplingSettings("copula"), sizes)


def _steps(
    model: pc.CircuitModel,
    modulator: AnyModulator,
    trained: torch.nn.Module,
    settings: CouplingSettings,
    sizes: FullSize,
) -> None:
    """Two steps: only the second has the optimiser's moments in memory while it computes."""
    optimiser = torch.optim.AdamW(trained.parameters(), lr=1e-3, fused=True)
    for _ in range(2):
        optimiser.zero_grad()
        cached_loss(model, modulator, settings, _listed(sizes)).backward()
        optimiser.step()


def _listed(sizes: FullSize) -> CachedBatch:
    tokens = torch.arange(sizes.length).expand(sizes.batch_size, -1) % sizes.num_categories
    one, lists = list_top(_logits(1, sizes).log_softmax(-1), sizes.num_listed, tokens[:1])
    assert lists.log_omitted is not None
    categories, log_probs, omitted = (
        own.repeat(sizes.batch_size, *[1] * (own.ndim - 1))
        for own in (lists.categories, one, lists.log_omitted)
    )
    masked = (torch.arange(sizes.length) % 2 == 1).expand_as(tokens)
    hidden = torch.randn(*tokens.shape, sizes.hidden_size)
    return CachedBatch(tokens, masked, categories, log_probs, omitted, hidden)


def _logits(batch: int, sizes: FullSize) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, sizes.length, sizes.num_categories)
    return torch.randn(shape, generator=generator) * 3


def _measured(stage: str, folder: Path, sizes: FullSize) -> Mapping[str, float]:
    model = pc.load(folder / "circuit")
    start = time.perf_counter()
    _stage(stage, model, sizes)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"peak_bytes": peak, "seconds": seconds}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("stage", "folder", "sizes"):
        parser.add_argument(name)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = FullSize(**json.loads(options.sizes))
    print(json.dumps(_measured(options.stage, Path(options.folder), sizes)))


if __name__ == "__main__":
    _main()
