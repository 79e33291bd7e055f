"""Inner products with listed rows of a table, in compiled code."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pcircuits.execute.numba.gather import gathered_posteriors, gathered_products

DTYPES = [torch.float32, torch.float64]


def case(dtype: torch.dtype, listed: int, units: int = 5) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(listed)
    x, table = (torch.rand(n, units, generator=random, dtype=dtype) for n in (3, 40))
    return x, table, torch.randint(0, 40, (3, listed), generator=random)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("listed", [1, 7, 8, 9, 16, 255, 256, 257, 264, 515])
def test_products_of_any_number_of_rows(dtype: torch.dtype, listed: int) -> None:
    """Eight rows at once, a few hundred a thread, and then the rest."""
    x, table, rows = case(dtype, listed)
    expected = torch.einsum("nu,nju->nj", x, table[rows])
    torch.testing.assert_close(gathered_products(x, table, rows), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("listed", [1, 13, 300])
def test_posteriors_are_normalised_products(dtype: torch.dtype, listed: int) -> None:
    x, table, rows = case(dtype, listed)
    log_x = x.log() - torch.tensor([[0.0], [50.0], [-50.0]])  # only ratios count
    log_factors = torch.randn(3, listed, dtype=dtype)
    if listed > 1:
        log_factors[0, 0] = -torch.inf
    found = gathered_posteriors(
        log_x.numpy(), table.numpy(), rows.numpy(), log_factors.numpy(), 1e-30
    )
    expected = (torch.einsum("nu,nju->nj", x, table[rows]).log() + log_factors).softmax(-1)
    assert found is not None
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("fault", ["at the floor", "below it", "NaN", "no factor", "no number"])
def test_posteriors_that_may_have_lost_terms_are_left_to_others(fault: str) -> None:
    x, table = np.zeros((2, 3)), np.ones((4, 3))
    rows, log_factors = np.array([[0, 1], [2, 3]]), np.zeros((2, 2))
    floor = 2.5
    assert gathered_posteriors(x, table, rows, log_factors, floor) is not None
    if fault == "at the floor":
        floor = 3.0
    elif fault == "below it":
        table[3] = 0.5
    elif fault == "NaN":
        table[3, 1] = np.nan
    elif fault == "no factor":
        log_factors[1] = -np.inf
    else:
        x[1] = -np.inf
    assert gathered_posteriors(x, table, rows, log_factors, floor) is None
