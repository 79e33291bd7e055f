"""The tables of a hidden Markov model: transitions between states, and what the states emit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

from pcircuits.errors import ParameterError, StructureError
from pcircuits.module import CircuitModel
from pcircuits.viz.heat import heat_map, label_axis
from pcircuits.viz.style import FONT_SIZE, entitle, ink_on, letters, plain, text_width
from pcircuits.viz.subject import checked_names

ORDERS = ("number", "clusters", "use")
_BEST_ORDER = 256


def transition(
    model: CircuitModel,
    *,
    parameter: str = "transition",
    state_names: Sequence[str] | None = None,
    order: str = "number",
    logarithmic: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draws the transition table of a hidden Markov model, row i = p(next state | i).

    Args:
        model: A model with a square parameter, such as one of `families.hmm`.
        parameter: Its name; `transition_3` and the like where positions have their own.
        state_names: K names; default their numbers.
        order: "number"; "clusters", so that states with like successors and predecessors stand
            together; or "use", the states of most use first, see `state_use`.
        logarithmic: Whether colours are of logarithms, as large tables need.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        ParameterError: If there is no such parameter or it is not square, or use is not known.
        StructureError: If there are too few or many names, or the order is unknown.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> ax = pc.viz.transition(model, order="use")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('next state (most used first)', 'state (most used first)')
    """
    table = _table(model, parameter)
    if table.shape[0] != table.shape[1]:
        raise ParameterError(f"parameter {parameter!r} has shape {tuple(table.shape)}; not square")
    states = checked_names(state_names, len(table), "state names", "")
    places = _ordered(model, table, order)
    shown = table[places][:, places]
    side = float(np.clip(0.22 * len(states) + 1.4, 3.2, 8.0))
    limits = (min(0.01, 0.1 / len(table)) if logarithmic else 0.0, None)
    axes = heat_map(
        shown.numpy(),
        "transition probability",
        (side + 0.9, side),
        limits=limits,
        logarithmic=logarithmic,
        ax=ax,
    )
    axes.set_aspect("equal")
    names = [states[i] for i in places]
    ordered = {"number": "", "clusters": " (clustered)", "use": " (most used first)"}[order]
    label_axis(axes.xaxis, names, f"next state{ordered}", side - 1.0)
    label_axis(axes.yaxis, names, f"state{ordered}", side - 1.0)
    entitle(axes, "which state follows which")
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

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=2, num_categories=3))
        >>> ax = pc.viz.emission(model, token_names=["a", "b", "c"])
        >>> [label.get_text() for label in ax.get_xticklabels()], ax.get_ylabel()
        (['a', 'b', 'c'], 'state')
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
    entitle(axes, "which tokens each state emits")
    return axes


def states(
    model: CircuitModel,
    *,
    parameter: str = "emission",
    token_names: Sequence[str] | None = None,
    state_names: Sequence[str] | None = None,
    use: Tensor | None = None,
    num_states: int = 16,
    num_tokens: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Draws what latent states stand for: the states of most use with their likeliest tokens.

    Args:
        model: A model with a table of states by tokens, such as one of `families.hmm`.
        parameter: Its name; `emission_3` and the like where positions have their own.
        token_names: V texts; default the tokens' numbers.
        state_names: K names; default their numbers.
        use: (K,) share of each state; default as `state_use`, or equal where that is not known.
        num_states: Most states shown.
        num_tokens: Most tokens shown of each.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; every cell holds a token, its colour is the token's probability.

    Raises:
        ParameterError: If there is no such parameter or it is not a table.
        StructureError: If there are too few or many names or shares, or a number is below one.

    Examples:
        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=2, num_categories=3))
        >>> table = torch.tensor([[0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
        >>> model.set_probabilities(model.probabilities() | {"emission": table})
        >>> ax = pc.viz.states(model, token_names=["a", "b", "c"], num_tokens=1)
        >>> sorted(text.get_text() for text in ax.texts)
        ['a', 'c']
    """
    table = _table(model, parameter)
    names = checked_names(state_names, table.shape[0], "state names", "")
    tokens = checked_names(token_names, table.shape[1], "token names", "")
    if num_states < 1 or num_tokens < 1:
        raise StructureError(
            f"expected num_states and num_tokens >= 1; found {num_states} and {num_tokens}"
        )
    shares = _shares(model, len(table)) if use is None else use.detach().double().cpu()
    if shares.shape != (len(table),):
        raise StructureError(f"expected use ({len(table)},); found shape {tuple(shares.shape)}")
    chosen = shares.argsort(descending=True, stable=True)[:num_states]
    found, which = table[chosen].topk(min(num_tokens, table.shape[1]), dim=1)
    cells = [[plain(letters(tokens[i])) for i in row] for row in which.tolist()]
    rows = [f"{names[i]} ({100 * float(shares[i]):.2g} %)" for i in chosen.tolist()]
    return _token_cells(found, cells, rows, ax)


def state_use(model: CircuitModel) -> Tensor:
    """How often each state of a hidden Markov model is visited, averaged over the positions.

    Args:
        model: A model with parameters `initial` (K,) and `transition` (K, K), as `families.hmm`
            makes it.

    Returns:
        (K,) float64 shares, adding up to one.

    Raises:
        ParameterError: If it has no such parameters.

    Examples:
        A chain that is in state 0 twice as often as in state 1:

        >>> model = pc.CircuitModel(pc.families.hmm(4, num_states=2, num_categories=2))
        >>> always = torch.tensor([2 / 3, 1 / 3])
        >>> tables = {"initial": always, "transition": always.expand(2, 2)}
        >>> model.set_probabilities(model.probabilities() | tables)
        >>> pc.viz.state_use(model)
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """
    transition_table = _table(model, "transition")
    first = model.log_parameters().get("initial")
    if first is None:
        raise ParameterError(f"no parameter 'initial'; found {sorted(model.plan.parameter_shapes)}")
    visited = [first.detach().exp().double().cpu().reshape(-1)]
    for _ in range(1, model.circuit.num_variables):
        visited.append(visited[-1] @ transition_table)
    return torch.stack(visited).mean(0)


def _shares(model: CircuitModel, num_states: int) -> Tensor:
    known = {"initial", "transition"} <= set(model.plan.parameter_shapes)
    if known and model.plan.parameter_shapes["transition"] == (num_states, num_states):
        return state_use(model)
    return torch.full((num_states,), 1 / num_states, dtype=torch.float64)


def _token_cells(
    found: Tensor, cells: Sequence[Sequence[str]], rows: Sequence[str], ax: Axes | None
) -> Axes:
    wide = max(0.45, 0.14 + max(text_width(text) for row in cells for text in row))
    left = max(text_width(row) for row in rows)
    size = (wide * len(cells[0]) + left + 1.7, 0.26 * len(cells) + 1.0)
    axes = heat_map(found.numpy(), "probability of the token", size, limits=(0.0, None), ax=ax)
    (image,) = axes.images
    colours = image.to_rgba(found.numpy())
    for y, row in enumerate(cells):
        for x, text in enumerate(row):
            ink = ink_on(colours[y, x])
            axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=FONT_SIZE)
    ranks = [str(i + 1) for i in range(len(cells[0]))]
    label_axis(axes.xaxis, ranks, "rank of the token in its state", size[0] - left - 1.7)
    label_axis(axes.yaxis, rows, "state (share of positions)", size[1] - 1.0)
    entitle(axes, "what the most used states stand for")
    return axes


def _ordered(model: CircuitModel, table: Tensor, order: str) -> list[int]:
    """The states in the order asked for.

    Raises:
        StructureError: If the order is unknown.
        ParameterError: If use is not known.
    """
    match order:
        case "number":
            return list(range(len(table)))
        case "use":
            found: list[int] = state_use(model).argsort(descending=True, stable=True).tolist()
            return found
        case "clusters":
            return _clustered(table)
    raise StructureError(f"expected order to be one of {ORDERS}; found {order!r}")


def _clustered(table: Tensor) -> list[int]:
    """Leaves of a hierarchical clustering by the Hellinger distances of rows and columns."""
    if len(table) < 3:
        return list(range(len(table)))
    roots = table.sqrt()
    both = torch.cat([roots, roots.T / roots.T.norm(dim=1, keepdim=True).clamp_min(1e-12)], dim=1)
    # The best order of the leaves takes cubic time: of many states any order of the tree will do.
    tree = linkage(both.numpy(), "average", optimal_ordering=len(table) <= _BEST_ORDER)
    return [int(i) for i in leaves_list(tree)]


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
