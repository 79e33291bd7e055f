"""Learning curves from histories."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pcircuits.errors import StructureError
from pcircuits.learning.history import History
from pcircuits.viz.style import MARKERS, axes_or_new, curve, entitle, legend_beside, without_frame

_FEW = 15
BY = {"epoch": "epoch", "step": "parameter updates", "seconds": "time (s)"}


def learning_curve(
    history: History | Mapping[str, History], *, by: str = "epoch", ax: Axes | None = None
) -> Axes:
    """Draws log-likelihood by time of learning: training data solid, validation data dashed.

    Args:
        history: A history, or several by the name that the legend gives them.
        by: "epoch", "step" or "seconds".
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        StructureError: If there is nothing to draw, or `by` is unknown.

    Examples:
        >>> model = pc.CircuitModel(pc.families.mixture(2, num_components=2, num_categories=2))
        >>> rows = torch.tensor([[0, 0], [1, 1]])
        >>> history = pc.fit_em(model, rows, valid=rows, epochs=3, progress=False)
        >>> ax = pc.viz.learning_curve({"EM": history})
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('epoch', 'log-likelihood (nats a row)')
    """
    named = {"": history} if isinstance(history, History) else dict(history)
    if not named or not all(len(h) for h in named.values()):
        raise StructureError("expected histories of at least one record; found an empty one")
    if by not in BY:
        raise StructureError(f"expected by to be one of {tuple(BY)}; found {by!r}")
    axes = axes_or_new(ax, (6.0, 3.2))
    for number, (name, own) in enumerate(named.items()):
        _curves(axes, number, name, own, by)
    if by != "seconds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(BY[by])
    axes.set_ylabel("log-likelihood (nats a row)")
    axes.grid(alpha=0.3)
    without_frame(axes)
    legend_beside(axes)
    entitle(axes, "log-likelihood during learning")
    return axes


def _curves(axes: Axes, number: int, name: str, history: History, by: str) -> None:
    marker = MARKERS[number % len(MARKERS)] if len(history) <= _FEW else ""
    for what, line in (("train", "-"), ("valid", "--")):
        points = [
            (getattr(record, by), getattr(record, what))
            for record in history
            if getattr(record, what) is not None
        ]
        if points:
            label = f"{name}, {what}" if name else what
            x, y = zip(*points, strict=True)
            curve(axes, number, x, y, label=label, linestyle=line, marker=marker)
