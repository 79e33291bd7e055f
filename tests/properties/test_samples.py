"""Samples follow the exact law, and depend on their seed alone."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chi2

import pcircuits as pc
from tests.support.properties import Trial, over_circuits

DRAWS = 100_000
# Of the largest of a thousand tests one in a million is expected below this.
RAREST = 1e-9


@over_circuits("conditional samples follow the exact law (χ², 10⁵ draws)", few=8)
def test_samples_follow_the_exact_law(trial: Trial) -> None:
    """Of whole worlds, under evidence of every kind."""
    draws = DRAWS // trial.batch
    found = pc.queries.sample(
        trial.plan, trial.case.parameters, draws, trial.case.evidence, generator=trial.generator
    )
    for row, drawn in enumerate(found.view(trial.batch, draws, -1)):
        law = trial.worlds.posterior[row]
        places = trial.worlds.place(drawn.T.numpy().T)
        counts = np.bincount(places, minlength=len(law))
        trial.holds(not counts[law == 0].any(), "an impossible world was drawn")
        expected = law * draws
        rare = expected < 10
        seen = np.append(counts[~rare], counts[rare].sum())
        wanted = np.append(expected[~rare], expected[rare].sum())
        seen, wanted = seen[wanted > 0], wanted[wanted > 0]
        if len(seen) > 1 and wanted.min() >= 1:
            statistic = ((seen - wanted) ** 2 / wanted).sum()
            trial.holds(chi2.sf(statistic, len(seen) - 1) > RAREST, f"{statistic}, {len(seen)}")


@over_circuits("what is drawn with a seed is drawn again", tolerance=0.0)
def test_seeds_decide(trial: Trial) -> None:
    """Also with other draws in between, and whatever the global generator does."""
    plan, parameters, evidence = trial.given
    number = trial.seed()

    def drawn() -> torch.Tensor:
        torch.rand(3)
        own = torch.Generator().manual_seed(number)
        return pc.queries.sample(plan, parameters, 20, evidence, generator=own)

    first = drawn()
    trial.equal(drawn(), first)
    state = torch.get_rng_state()
    drawn()
    torch.rand(3)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    torch.rand(6)
    trial.equal(after, torch.get_rng_state())
