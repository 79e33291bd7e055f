"""Muon: momentum whose steps on weight matrices are made orthogonal."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by a Newton-Schulz iteration, for 2-D weights.

    The method is that of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon); steps are
    scaled to the size AdamW's would have and weight decay is decoupled, as in Liu et al. 2025
    (arXiv 2502.16982, section 2.2).

    Args:
        parameters: Weight matrices.
        lr: Learning rate, comparable to AdamW's.
        momentum: Rate of the moving average of gradients.
        weight_decay: Decoupled weight decay.
        dtype: Number type of the iteration's matrix products.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Keeps the settings; momentum begins at the first step."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves every matrix that has a gradient.

        Args:
            closure: Not supported; the loss is never evaluated again.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, float]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient = parameter.grad
        assert gradient is not None
        average = state["momentum"].lerp_(gradient, 1.0 - group["momentum"])
        direction = orthogonalise(gradient.lerp(average, group["momentum"]), self.dtype)
        scale = 0.2 * math.sqrt(max(parameter.shape))
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(direction.to(parameter.dtype), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Pushes all singular values of a matrix towards one, roughly to [0.7, 1.2].

    Args:
        matrix: (M, N).
        dtype: Number type of the products.

    Returns:
        (M, N) of type `dtype`.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x: Tensor = (matrix if wide else matrix.T).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T
