import pytest
import torch
from torch import nn

from codd.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_singular_values_become_about_one_and_their_vectors_stay(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64, generator=generator)
    result = orthogonalise(matrix, torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    core = left.T @ result @ right.T
    assert torch.all((core.diagonal() > 0.6) & (core.diagonal() < 1.3))
    torch.testing.assert_close(core, torch.diag(core.diagonal()), rtol=0, atol=1e-5)


def test_a_zero_gradient_moves_nothing_but_decay() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    weight.grad = torch.zeros(3, 3)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 3), 0.95))


def test_the_first_step_is_the_orthogonal_gradient_at_adamw_size() -> None:
    gradient = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = nn.Parameter(torch.zeros(4, 8, dtype=torch.float64))
    weight.grad = gradient
    Muon([weight], lr=0.1, dtype=torch.float64).step()
    # The first momentum is a multiple of the gradient, which the iteration normalises away.
    expected = -0.1 * 0.2 * 8**0.5 * orthogonalise(gradient, torch.float64)
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-6)


def test_momentum_follows_its_recursion() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    optimiser = Muon([weight], lr=0.1, momentum=0.8, dtype=torch.float64)
    average = torch.zeros(3, 5, dtype=torch.float64)
    expected = torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(3, 5, dtype=torch.float64, generator=generator)
        weight.grad = gradient.clone()
        optimiser.step()
        average = 0.8 * average + 0.2 * gradient
        direction = orthogonalise(0.2 * gradient + 0.8 * average, torch.float64)
        expected = expected - 0.1 * 0.2 * 5**0.5 * direction
    torch.testing.assert_close(weight.detach(), expected)


def test_it_fits_a_linear_map() -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(5, 4, generator=generator)
    weight = nn.Parameter(torch.zeros(5, 4))
    optimiser = Muon([weight], lr=0.2)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
        optimiser.zero_grad()
        (weight - target).square().sum().backward()
        optimiser.step()
    assert float((weight.detach() - target).abs().max()) < 0.02
