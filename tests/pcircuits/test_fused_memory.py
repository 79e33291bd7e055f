"""Memory that is taken again: never by two at once, not by threads, not by forked processes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import pcircuits as pc
from pcircuits.execute.fused import arenas, memory
from pcircuits.execute.fused.memory import array_of, block_for, carve

FLOAT = np.dtype(np.float32)
SIZE = 12_345
FORKED = """
import os
from pcircuits.execute.fused.memory import block_for
import numpy as np

wanted = [((12_345,), np.dtype(np.float32))]
block_for(wanted).fill(7)  # goes back, and both processes take it again
child = os.fork()
block = block_for(wanted)
if child == 0:
    block.fill(1)
    os._exit(0)
os.waitpid(child, 0)
assert (block == 7).all(), "the child wrote into the parent's memory"
"""


def hmm_and_values(batch: int, seed: int = 0) -> tuple[pc.CircuitModel, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 20, (batch, 12), generator=generator)
    return pc.CircuitModel(pc.families.hmm(12, 16, 20), seed=0), values


def gradients_of(model: pc.CircuitModel, value: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value.sum(), list(model.parameters())))


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_taken_again_when_nobody_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_FREE", [])  # other tests leave blocks that would fit too
    wanted = [((SIZE,), FLOAT)]
    block = block_for(wanted)
    (view,) = carve(block, wanted)
    first = address(block)
    del block
    while_held = block_for(wanted)
    assert address(while_held) != first, "a view still holds it"
    del view
    assert address(block_for(wanted)) == first


def test_what_was_given_back_last_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caches may still hold; results that were kept for a while leave others behind."""
    monkeypatch.setattr(memory, "_FREE", [])
    monkeypatch.setattr(arenas, "_FREE", [])
    wanted = [((SIZE,), FLOAT)]
    blocks = [block_for(wanted) for _ in range(3)]
    last = address(blocks[1])
    for number in (0, 2, 1):
        blocks[number] = np.empty(0)
    assert address(block_for(wanted)) == last

    model, values = hmm_and_values(64)
    names, evidence = ["state_0", "state_5"], pc.Evidence(values)
    found = [model.latent_marginals(evidence, names) for _ in range(3)]
    last = found[1]["state_5"].data_ptr()
    for number in (0, 2, 1):
        found[number] = {}
    assert model.latent_marginals(evidence, names)["state_5"].data_ptr() == last


def test_a_tensor_holds_its_memory() -> None:
    tensor = torch.from_numpy(array_of((SIZE,), FLOAT))
    part = tensor.fill_(3.0)[100:200]
    del tensor
    others = [torch.from_numpy(array_of((SIZE,), FLOAT)).fill_(9.0) for _ in range(20)]
    assert bool((part == 3.0).all()) and len(others) == 20


def test_arenas_are_taken_again_when_nobody_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    free: list[arenas.Arenas] = []
    monkeypatch.setattr(arenas, "_FREE", free)
    model, values = hmm_and_values(8)
    gradients_of(model, model.log_likelihood(values, impl="fused"))
    both = set(free)
    assert len(both) == 2, "those of the pass, and those of the gradient"
    pending = model.log_likelihood(values, impl="fused")
    assert len(free) == 1
    pending.sum().backward()
    assert set(free) == both, "given back, though the value lives"
    with torch.no_grad():
        model.log_likelihood(values, impl="fused")
    assert set(free) == both


@pytest.mark.parametrize("copied", [False, True])
def test_pending_gradients_keep_their_rows(copied: bool) -> None:
    """Also where hooks put what is saved elsewhere, so that the arenas are free at once."""
    model, values = hmm_and_values(8)
    others = hmm_and_values(8, seed=1)[1]
    expected = gradients_of(model, model.log_likelihood(values, impl="fused"))
    change = torch.Tensor.clone if copied else (lambda tensor: tensor)
    with torch.autograd.graph.saved_tensors_hooks(change, lambda tensor: tensor):
        pending = model.log_likelihood(values, impl="fused")
    for _ in range(3):
        gradients_of(model, model.log_likelihood(others, impl="fused"))
    for own, other in zip(gradients_of(model, pending), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


def test_forked_processes_have_memory_of_their_own() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True)


def test_threads_get_the_answers_of_one() -> None:
    model = pc.CircuitModel(pc.families.hmm(12, 16, 20), seed=0)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 20, (8 + n, 12), generator=generator) for n in range(60)]

    def answer(values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.log_likelihood(values, impl="fused")

    expected = [answer(values) for values in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, own in zip(pool.map(answer, batches), expected, strict=True):
                torch.testing.assert_close(found, own, rtol=0, atol=0)
