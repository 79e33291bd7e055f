"""Which variables tell most about others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes

from pcircuits.errors import StructureError
from pcircuits.execute.evidence import Evidence
from pcircuits.module import CircuitModel
from pcircuits.viz.style import BLUE, FONT_SIZE, axes_or_new, entitle, number, plain, without_frame
from pcircuits.viz.subject import checked_names, one_row

_LONGEST = 30


def most_informative(
    model: CircuitModel,
    targets: int | Sequence[int],
    evidence: Evidence | None = None,
    *,
    candidates: Sequence[int] | None = None,
    row: int = 0,
    num_shown: int = 15,
    variable_names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws how much observing each variable tells about others, the best on top.

    Args:
        model: The model.
        targets: The variable or variables of interest, together.
        evidence: What is known already, of any kind; default nothing.
        candidates: Variables that could be observed; default all but the targets.
        row: Which example of the evidence.
        num_shown: Most bars.
        variable_names: L names; default X0, X1, ...
        ax: Where to draw; default a new figure.

    Returns:
        The axes; bars are mutual information in nats.

    Raises:
        StructureError: If there are too few or many names, or `num_shown` is below one.
        EvidenceError: As `CircuitModel.most_informative`, or if there is no such row.

    Examples:
        >>> rows = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
        >>> model = pc.CircuitModel.of(pc.chow_liu(rows, pseudocount=0))
        >>> ax = pc.viz.most_informative(model, 0, variable_names=["x", "copy of x", "coin"])
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['copy of x', 'coin']
    """
    names = checked_names(variable_names, model.circuit.num_variables, "variable names", "X")
    if num_shown < 1:
        raise StructureError(f"expected num_shown >= 1; found {num_shown}")
    asked = [targets] if isinstance(targets, int) else [int(i) for i in targets]
    given = one_row(evidence or Evidence(), row)
    with torch.no_grad():
        found = model.most_informative(asked, given, candidates)
    nats = found.information[0].double().cpu()
    order = nats.argsort(descending=True, stable=True)[:num_shown].tolist()
    axes = axes_or_new(ax, (5.5, 0.26 * len(order) + 1.0))
    bars = axes.barh(range(len(order)), nats[order].tolist(), color=BLUE, height=0.7)
    labels = [plain(names[found.candidates[i]]) for i in order]
    axes.bar_label(bars, [number(float(nats[i])) for i in order], padding=3, fontsize=FONT_SIZE - 1)
    axes.set_yticks(range(len(order)), labels, fontsize=FONT_SIZE - 1)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("mutual information with the target (nats)")
    axes.set_ylabel("variable to observe")
    target = ", ".join(names[i] for i in asked)
    target = target if len(target) <= _LONGEST else f"{len(asked)} variables"
    entropy = number(float(found.target_entropy[0]))
    entitle(axes, f"what tells most about {target} (entropy {entropy} nats)")
    without_frame(axes)
    return axes
