"""The same numbers again: in another run, another thread, another process."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import pcircuits as pc
from tests.support.evidence import possible_part, random_values
from tests.support.odd_cases import FAMILIES, TINY, random_case
from tests.support.properties import Record, Trial, over_circuits

THREADS = 4


def answers(trial: Trial) -> dict[str, Tensor]:
    """Values, gradients, posteriors, samples, a step of learning: what a user may ask."""
    plan, parameters, evidence = trial.given
    found = {
        name: pc.forward(plan, parameters, evidence, impl=name)
        for name in trial.implementations()
        if name != "triton"
    }
    found["marginals"] = pc.queries.marginals(plan, parameters, evidence)
    found["information"] = pc.queries.mutual_information(plan, parameters, evidence)
    dice = torch.Generator().manual_seed(7)
    found["samples"] = pc.queries.sample(plan, parameters, 8, evidence, generator=dice)
    found["map"] = pc.queries.map(plan, parameters, evidence, generator=dice).values
    own = {name: log.clone().requires_grad_() for name, log in parameters.items()}
    if own:
        value = pc.forward(plan, own, evidence).sum()
        flows = torch.autograd.grad(value, list(own.values()))
        found |= {f"flow of {name}": flow for name, flow in zip(own, flows, strict=True)}
    return found


def digest(found: dict[str, Tensor]) -> str:
    """Of all bits."""
    total = hashlib.blake2b()
    for name in sorted(found):
        total.update(name.encode() + found[name].contiguous().numpy().tobytes())
    return total.hexdigest()


@over_circuits("threads that ask at once get the same bits", tolerance=0.0, few=8)
def test_threads(trial: Trial) -> None:
    """One plan, one set of parameters and all caches are shared by the threads."""
    expected = answers(trial)
    with ThreadPoolExecutor(THREADS) as threads:
        for found in threads.map(lambda _: answers(trial), range(2 * THREADS)):
            for name, own in expected.items():
                trial.equal(found[name], own)


def _some() -> list[Trial]:
    """Not drawn by hypothesis, whose draws depend on the modules that a process has imported."""
    found = []
    for seed, family in enumerate(FAMILIES):
        chance = random.Random(seed)
        circuit = FAMILIES[family](chance, TINY)
        case = possible_part(random_case(circuit, 3, "mixed", chance, simple=False))
        if case is not None:
            found.append(Trial(case, np.random.default_rng(0), Record()))
    assert len(found) > 5
    return found


def _fitted() -> dict[str, Tensor]:
    """A model learned by mini-batches of EM, and by gradients, from a seed."""
    circuit = pc.families.hmm(6, 4, 5)
    rows = random_values(circuit, 64, torch.Generator().manual_seed(0))
    found = {}
    for name, fit in (("em", pc.fit_em), ("gradient", pc.fit_gradient)):
        model = pc.CircuitModel(circuit, seed=3)
        fit(model, rows, epochs=3, batch_size=16, seed=5, progress=False)
        found |= {f"{name} {key}": log.detach() for key, log in model.log_parameters().items()}
    return found


def report() -> None:
    """What a process prints of itself."""
    print(*[digest(answers(trial)) for trial in _some()], digest(_fitted()))


def test_processes() -> None:
    """Another process has the same bits, whatever the order of its sets and the path it runs in."""
    code = "import tests.conftest, tests.properties.test_repetition as t; t.report()"
    root = Path(pc.__file__).parents[1]
    environment = dict(os.environ, PYTHONHASHSEED="1", PYTHONPATH=str(root))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=root,
    )
    expected = [digest(answers(trial)) for trial in _some()]
    assert ran.stdout.split() == [*expected, digest(_fitted())]
