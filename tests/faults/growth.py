"""Hours of training and generating: does memory grow, or a step take longer?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pcircuits as pc
from tests.support.coupled import TEXT, tiny_model


@dataclass(frozen=True)
class Growth:
    """What a long run shows; growth is a line fitted to its second half.

    Attributes:
        seconds: How long it went on.
        rounds: Rounds of work.
        generations: Texts that were generated.
        memory_mb: Resident memory in the middle.
        memory_percent_an_hour: Its growth, in percent of that.
        memory_percent: Growth of its median from the second quarter to the last.
        step_ms: Median time of a round in the middle.
        step_percent: Change of the median time of a round from the second quarter to the last, in
            times of a fixed piece of work beside it: other programs slow down both.
    """

    seconds: float
    rounds: int
    generations: int
    memory_mb: float
    memory_percent_an_hour: float
    memory_percent: float
    step_ms: float
    step_percent: float


def run_for(seconds: float, say: Callable[[str], None] = lambda line: None) -> Growth:
    """Trains by EM and by gradient and generates, again and again."""
    work = _Work()
    started, samples = time.monotonic(), list[tuple[float, float, float, float]]()
    while (now := time.monotonic() - started) < seconds or len(samples) < 8:
        begun = time.process_time()
        work.round()
        taken = time.process_time() - begun
        samples.append((now, _resident(), taken, taken / _yardstick()))
        if len(samples) % 500 == 0:
            say(f"{now:6.0f} s  {len(samples)} rounds  {samples[-1][1]:.1f} MB")
    return _fitted(np.array(samples), work.generations)


class _Work:
    def __init__(self) -> None:
        self.generations = 0
        self._model = tiny_model()
        self._circuit = pc.CircuitModel(pc.families.hmm(8, 16, 10), seed=0)
        self._rows = torch.randint(0, 10, (64, 8))
        parameters = list(self._model.parameters())
        self._optimiser = torch.optim.AdamW(parameters, lr=1e-4)

    def round(self) -> None:
        pc.fit_em(self._circuit, self._rows, epochs=1, progress=False)
        tokens = self._model.vocabulary.encode(TEXT[:8])[None].repeat(4, 1)
        hidden = tokens.clone()
        hidden[:, 4:] = self._model.mask_id
        loss = -self._model.joint(hidden).log_prob(tokens).mean()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        prompts = [TEXT[:4], TEXT[3:7]]
        self._model.generate(prompts, new_tokens=8, steps=4, seed=self.generations)
        self.generations += len(prompts)


def _yardstick() -> float:
    """Seconds of work that is the same each time: tensors of a few numbers, one after the other."""
    begun = time.process_time()
    state, table = torch.zeros(64), torch.full((64, 64), 0.01)
    for _ in range(1500):
        state = torch.logsumexp(table + state, dim=-1)
    return time.process_time() - begun


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _fitted(samples: Any, generations: int) -> Growth:
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    late = samples[len(samples) // 2 :]
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]  # megabytes a second
    memory, step, share = np.median(second[:, 1:], axis=0)
    return Growth(
        seconds=round(float(samples[-1, 0]), 1),
        rounds=len(samples),
        generations=generations,
        memory_mb=round(float(memory), 1),
        memory_percent_an_hour=round(float(slope * 3600 / memory * 100), 3),
        memory_percent=round(float((np.median(last[:, 1]) / memory - 1) * 100), 3),
        step_ms=round(float(step * 1000), 2),
        step_percent=round(float((np.median(last[:, 3]) / share - 1) * 100), 2),
    )
