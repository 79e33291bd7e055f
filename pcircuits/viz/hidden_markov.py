"""The two tables of a hidden Markov model: transitions between states, tokens that states emit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pcircuits.errors import ParameterError, StructureError
from pcircuits.module import CircuitModel
from pcircuits.viz.heat import heat_map, label_axis
from pcircuits.viz.style import letters
from pcircuits.viz.subject import checked_names


def transition(
    model: CircuitModel,
    *,
    parameter: str = "transition",
    state_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the transition table of a hidden Markov model, row i = p(next state | i).

    Args:
        model: A model with a square parameter, such as one of `families.hmm`.
        parameter: Its name; `transition_3` and the like where positions have their own.
        state_names: K names; default their numbers.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        ParameterError: If there is no such parameter or it is not square.
        StructureError: If there are too few or many names.
    """
    table = _table(model, parameter)
    if table.shape[0] != table.shape[1]:
        raise ParameterError(f"parameter {parameter!r} has shape {tuple(table.shape)}; not square")
    states = checked_names(state_names, len(table), "state names", "")
    side = float(np.clip(0.22 * len(states) + 1.4, 3.2, 8.0))
    axes = heat_map(
        table.numpy(), "transition probability", (side + 0.9, side), limits=(0.0, None), ax=ax
    )
    axes.set_aspect("equal")
    label_axis(axes.xaxis, states, "next state", side - 1.0)
    label_axis(axes.yaxis, states, "state", side - 1.0)
    return axes


def emission(
    model: CircuitModel,
    *,
    parameter: str = "emission",
    token_names: Sequence[str] | None = None,
    state_names: Sequence[str] | None = None,
    num_tokens: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Draws which tokens each state emits.

    Of many tokens those are shown that some state emits most, in the order of their numbers.

    Args:
        model: A model with a table of states by tokens, such as one of `families.hmm`.
        parameter: Its name; `emission_3` and the like where positions have their own.
        token_names: V texts; default the tokens' numbers.
        state_names: K names; default their numbers.
        num_tokens: Most tokens shown.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        ParameterError: If there is no such parameter or it is not a table.
        StructureError: If there are too few or many names, or `num_tokens` is below one.
    """
    table = _table(model, parameter)
    states = checked_names(state_names, table.shape[0], "state names", "")
    tokens = checked_names(token_names, table.shape[1], "token names", "")
    if num_tokens < 1:
        raise StructureError(f"expected num_tokens >= 1; found {num_tokens}")
    top = table.amax(0).argsort(descending=True, stable=True)[:num_tokens]
    shown = sorted(top.tolist())
    size = (
        float(np.clip(0.24 * len(shown) + 1.8, 3.5, 12.0)),
        float(np.clip(0.22 * len(states) + 1.0, 2.4, 8.0)),
    )
    axes = heat_map(
        table[:, shown].numpy(), "emission probability", size, limits=(0.0, None), ax=ax
    )
    title = "token"
    if len(shown) < len(tokens):
        title = f"token ({len(shown)} of {len(tokens):,}, those that a state emits most)"
    label_axis(axes.xaxis, [letters(tokens[i]) for i in shown], title, size[0] - 1.8)
    label_axis(axes.yaxis, states, "state", size[1] - 1.0)
    return axes


def _table(model: CircuitModel, parameter: str) -> Tensor:
    """(rows, columns) float64 probabilities.

    Raises:
        ParameterError: If there is no such parameter or it has not two axes.
    """
    shapes = model.plan.parameter_shapes
    if parameter not in shapes:
        raise ParameterError(f"no parameter {parameter!r}; found {sorted(shapes)[:8]}")
    if len(shapes[parameter]) != 2:
        raise ParameterError(
            f"parameter {parameter!r} has shape {shapes[parameter]}; expected a table, two axes"
        )
    with torch.no_grad():
        return model.log_parameters()[parameter].exp().double().cpu()
