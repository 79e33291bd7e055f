import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from codd.denoisers.base import DenoiserOutput
from codd.training.corruption import CorruptedBatch, corrupt, prompted_rows, stratified_ratios
from codd.training.objective import diffusion_loss, loss_at_ratio, plain_loss, validation_loss

MASK = 7


class Fixed:
    """Predicts every position from a table, whatever it sees."""

    num_categories, mask_id, hidden_size, max_length = MASK, MASK, 1, 64

    def __init__(self, table: Tensor) -> None:
        self.table = table  # (L, V)

    def __call__(self, tokens: Tensor, attention_mask: Tensor | None = None) -> DenoiserOutput:
        logits = self.table.expand(len(tokens), -1, -1)
        return DenoiserOutput(logits, logits[..., :1])


def corrupted(count: int = 400, length: int = 12, block: int = 5) -> CorruptedBatch:
    generator = torch.Generator().manual_seed(0)
    return corrupt(
        torch.randint(MASK, (count, length), generator=generator),
        torch.full((count,), 0.3),
        prompted_rows(count, 0.5),
        block_length=block,
        mask_id=MASK,
        generator=generator,
    )


def test_ratios_cover_the_unit_interval_evenly() -> None:
    generator = torch.Generator().manual_seed(3)
    for count in (1, 8, 64):
        ratios = stratified_ratios(count, generator).sort().values
        strata = torch.arange(count) / count
        assert torch.all(ratios > strata - 1e-6) and torch.all(ratios <= strata + 1 / count + 1e-6)
    assert torch.all(stratified_ratios(4096, generator) > 0)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_prompted_rows_are_spread(fraction: float, expected: int) -> None:
    rows = prompted_rows(8, fraction)
    assert int(rows.sum()) == expected
    assert abs(int(rows[:4].sum()) - int(rows[4:].sum())) == 0


def test_only_candidates_are_masked_at_the_given_ratio() -> None:
    batch = corrupted()
    prompted = prompted_rows(400, 0.5)
    assert not batch.masked[prompted, :7].any()
    assert torch.equal(batch.candidates, torch.where(prompted, 5, 12))
    for part in (batch.masked[prompted, 7:], batch.masked[~prompted]):
        error = 4 * (0.3 * 0.7 / part.numel()) ** 0.5
        assert abs(float(part.float().mean()) - 0.3) < error
    assert torch.equal(batch.tokens == MASK, batch.masked)
    assert torch.equal(batch.tokens[~batch.masked], batch.targets[~batch.masked])


def test_both_losses_are_the_written_sums() -> None:
    batch = corrupted(count=6)
    logits = torch.randn(6, 12, MASK, dtype=torch.float64)
    log_probs = logits.log_softmax(-1)
    plain, weighted = [], []
    for row in range(6):
        losses = [
            -float(log_probs[row, i, batch.targets[row, i]])
            for i in range(12)
            if batch.masked[row, i]
        ]
        plain += losses
        weighted.append(sum(losses) / (0.3 * (5 if row % 2 else 12)))
    assert float(plain_loss(logits, batch)) == pytest.approx(sum(plain) / len(plain), rel=1e-6)
    assert float(diffusion_loss(logits, batch)) == pytest.approx(sum(weighted) / 6, rel=1e-6)


def test_the_expected_diffusion_loss_is_the_likelihood_of_a_factorised_model() -> None:
    # Enumerates all masks of four tokens; a network that ignores its input must get its own NLL.
    logits = torch.randn(1, 4, MASK, dtype=torch.float64)
    targets = torch.tensor([[1, 5, 0, 3]])
    expected = 0.0
    for mask in itertools.product((False, True), repeat=4):
        masked = torch.tensor([mask])
        probability = 0.4 ** sum(mask) * 0.6 ** (4 - sum(mask))
        batch = CorruptedBatch(
            targets.masked_fill(masked, MASK),
            targets,
            masked,
            torch.tensor([0.4], dtype=torch.float64),
            torch.tensor([4]),
        )
        expected += probability * float(diffusion_loss(logits, batch))
    assert expected == pytest.approx(float(F.cross_entropy(logits[0], targets[0])), rel=1e-12)


def test_the_weight_is_bounded_and_nothing_masked_costs_nothing() -> None:
    logits, targets = torch.randn(1, 4, MASK), torch.zeros(1, 4, dtype=torch.int64)
    one = torch.tensor([[True, False, False, False]])
    tiny = CorruptedBatch(targets, targets, one, torch.tensor([1e-6]), torch.tensor([4]))
    assert torch.equal(diffusion_loss(logits, tiny), plain_loss(logits, tiny))
    none = CorruptedBatch(targets, targets, ~one & one, torch.tensor([0.5]), torch.tensor([4]))
    assert float(plain_loss(logits, none)) == 0.0 == float(diffusion_loss(logits, none))


def test_loss_at_ratio_counts_the_block_only() -> None:
    table = torch.randn(12, MASK)
    windows = torch.randint(MASK, (9, 12))
    losses = F.cross_entropy(table.repeat(9, 1), windows.flatten(), reduction="none").view(9, 12)
    whole = loss_at_ratio(Fixed(table), windows, 1.0, batch_size=4)
    block = loss_at_ratio(Fixed(table), windows, 1.0, block_length=5, batch_size=4)
    assert whole == pytest.approx(float(losses.mean()), rel=1e-5)
    assert block == pytest.approx(float(losses[:, 7:].mean()), rel=1e-5)


def test_validation_repeats_exactly_and_estimates_the_likelihood() -> None:
    table = torch.randn(12, MASK)
    windows = torch.randint(MASK, (4000, 12), generator=torch.Generator().manual_seed(1))
    arguments = {"block_length": 12, "prompt_fraction": 0.5, "batch_size": 1000}
    first = validation_loss(Fixed(table), windows, seed=1, **arguments)
    assert first == validation_loss(Fixed(table), windows, seed=1, **arguments)
    assert first != validation_loss(Fixed(table), windows, seed=2, **arguments)
    # Clamping t below 1/12 leaves out at most 1/24 of the loss.
    nll = float(F.cross_entropy(table.repeat(4000, 1), windows.flatten()))
    assert 0.93 * nll < first < 1.02 * nll
