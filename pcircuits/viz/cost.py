"""Where a plan spends its operations."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pcircuits.compile.plan import Plan, operations
from pcircuits.viz.plan import KINDS
from pcircuits.viz.style import COLOURS, WHITE, axes_or_new, entitle, legend_beside, without_frame

_HATCHES = ("", "///", "...", "\\\\\\", "xxx", "++", "oo")


def plan_cost(plan: Plan, *, soft: bool = False, ax: Axes | None = None) -> Axes:
    """Draws the operations of every layer of a plan, for one row.

    Args:
        plan: The compiled circuit.
        soft: Whether every variable has soft evidence, which makes inputs dear.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; layers are numbered from the inputs to the root, their colours say their kind.

    Examples:
        >>> plan = pc.compile_circuit(pc.families.binary_tree(16, num_units=4, num_categories=2))
        >>> ax = pc.viz.plan_cost(plan)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('layer, from the inputs to the root', 'operations for one row')
    """
    counts = np.array([operations(layer, soft=soft) for layer in plan.layers])
    kinds = [KINDS[type(layer)][1] for layer in plan.layers]
    total = max(int(counts.sum()), 1)
    axes = axes_or_new(ax, (7.0, 3.2))
    for place, kind in enumerate(dict.fromkeys(kinds)):
        own = np.array([k == kind for k in kinds])
        share = 100 * counts[own].sum() / total
        axes.bar(
            np.flatnonzero(own),
            counts[own],
            width=1.0 if len(kinds) > 60 else 0.85,
            color=COLOURS[place % len(COLOURS)],
            hatch=_HATCHES[place % len(_HATCHES)],
            edgecolor=WHITE,
            linewidth=0.0,
            label=f"{kind}, {share:.3g} %",
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.7, len(kinds) - 0.3)
    axes.set_xlabel("layer, from the inputs to the root")
    axes.set_ylabel("operations for one row")
    without_frame(axes)
    legend_beside(axes, "kind, share of all operations")
    evidence = "soft evidence" if soft else "observed values"
    entitle(axes, f"cost by layer, {total:,} operations a row in all ({evidence})")
    return axes
