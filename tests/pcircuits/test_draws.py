"""Both ways of drawing follow one law: noise for every candidate, and tables with a search."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from pcircuits.execute.numba import race
from pcircuits.execute.weights import Weights
from pcircuits.queries import draws

WAYS = {"noise": 1 << 60, "tables": 0}
DRAWS = 2_000
# Of the largest of a thousand tests one in a million is expected below this.
RAREST = 1e-9


def _logits(*shape: int, seed: int) -> Tensor:
    """Log-weights of which a third is zero, never all of a row; the last is of little weight."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator)
    impossible = torch.rand(shape, generator=generator) < 1 / 3
    return logits.masked_fill_(impossible, -torch.inf).index_fill_(
        -1, torch.tensor([shape[-1] - 1]), -3.0
    )


def _check(picked: Tensor, logits: Tensor) -> None:
    """Chi-square test of the frequencies of draws from one row."""
    expected = logits.double().softmax(-1) * len(picked)
    counts = picked.bincount(minlength=len(logits)).double()
    assert not counts[expected == 0].any(), "an impossible one was drawn"
    rare = expected < 5
    seen = torch.cat((counts[~rare], counts[rare].sum()[None]))
    wanted = torch.cat((expected[~rare], expected[rare].sum()[None]))
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    if len(seen) > 1:
        assert chi2.sf(float(((seen - wanted) ** 2 / wanted).sum()), len(seen) - 1) > RAREST


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "groups, examples, width", [(1, 1, 7), (3, 1, 16), (1, 2, 33), (3, 2, 2), (1, 1, 1)]
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("with_values", [False, True])
def test_draws_follow_their_rows(
    way: str,
    groups: int,
    examples: int,
    width: int,
    temperature: float,
    with_values: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights shared or not by folds and by examples, inputs and sums."""
    monkeypatch.setattr(draws, "_MANY_CANDIDATES", WAYS[way])
    log = _logits(groups, examples, 2, width, seed=width)
    values = torch.randn(3, 2, width, generator=torch.Generator().manual_seed(1))
    example = torch.arange(2).repeat_interleave(2 * DRAWS)
    units = torch.arange(2).repeat_interleave(DRAWS).repeat(2).expand(3, -1)

    picked = draws.draw_children(
        Weights(log),
        values if with_values else None,
        units,
        example,
        temperature,
        torch.Generator().manual_seed(0),
    )

    for fold in range(3):
        for e in range(2):
            for unit in range(2):
                row = log[fold % groups, e % examples, unit]
                row = row + values[fold, e] if with_values else row
                _check(picked[fold, (example == e) & (units[0] == unit)], row / temperature)


@pytest.mark.parametrize("way", WAYS)
def test_temperature_zero_takes_the_first_of_the_most_likely(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "_MANY_CANDIDATES", WAYS[way])
    log = torch.tensor([[0.0, 2.0, 1.0, 2.0], [-torch.inf, -torch.inf, -5.0, -6.0]])[None, None]
    units = torch.tensor([[0, 1, 0, -1, 1]])

    picked = draws.draw_children(Weights(log), None, units, torch.zeros(5, dtype=int), 0.0, None)

    assert picked[units >= 0].tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shape", [(3, 40, 17), (5, 1000), (2, 150_000), (300, 1)])
def test_the_race_has_the_winners_that_all_its_noise_gives(
    shape: tuple[int, ...], temperature: float, dtype: torch.dtype
) -> None:
    logits = _logits(*shape, seed=2).to(dtype)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]

    found = race.winners(logits, temperature, generators[0])

    noise = -torch.rand(shape, generator=generators[1], dtype=torch.float64).neg().log1p()
    scores = logits / temperature - noise.to(dtype).log()
    assert torch.equal(found, scores.argmax(-1))
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_draws_of_many_candidates_are_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples for one seed do not depend on whether they are compiled."""
    logits = _logits(20, 50, 40, seed=5)
    found = []
    for number in WAYS.values():
        monkeypatch.setattr(draws, "_MANY_CANDIDATES", number)
        found.append(draws.draw(logits, 1.0, torch.Generator().manual_seed(0)))
    assert torch.equal(*found)
    _check(draws.draw(logits[:1, :1].expand(20, 50, -1), 1.0, None).flatten(), logits[0, 0])


def test_where_nothing_is_possible_the_first_is_taken() -> None:
    assert race.winners(torch.full((2, 3), -torch.inf), 1.0, None).tolist() == [0, 0]


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("width", [5, 8, 9])
def test_the_ends_of_a_table_are_never_impossible(
    number: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least and the largest random number beside weights of zero at both ends of a row."""
    monkeypatch.setattr(draws, "_MANY_CANDIDATES", 0)
    monkeypatch.setattr(
        torch, "rand", lambda shape, dtype, **_: torch.full(shape, number, dtype=dtype)
    )
    log = torch.randn(50, width, generator=torch.Generator().manual_seed(0))
    log[:, :2] = log[:, -2:] = -torch.inf
    units = torch.arange(50).repeat(1, 2)

    picked = draws.draw_children(
        Weights(log[None, None]), None, units, torch.zeros(100, dtype=int), 1.0, None
    )

    assert (picked == (2 if number == 0 else width - 3)).all()


def test_rare_categories_of_a_long_row_keep_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million beside a likely one: float32 has no number for each of their cumulative weights."""
    monkeypatch.setattr(draws, "_MANY_CANDIDATES", 0)
    number, rare = 400_000, 1 << 20
    log = torch.cat((torch.zeros(1), torch.full((rare,), 2.0**-28).log()))
    units = torch.zeros(1, number, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)

    picked = draws.draw_children(
        Weights(log[None, None, None]), None, units, units[0], 1.0, generator
    )

    found = picked[picked > 0]
    expected = number / 257
    assert abs(len(found) - expected) < 5 * expected**0.5
    # One or two of 1,556 are drawn twice; of every sixteenth of the million, eighteen would be.
    assert len(found) - len(found.unique()) < 10
