"""Pictures of circuits and of what they say: every function takes and returns matplotlib axes.

`save` writes any of them; `style` holds the colours and parts that all share, for pictures of your
own.

Examples:
    >>> model = pc.CircuitModel(pc.families.mixture(3, num_components=2, num_categories=2))
    >>> ax = pc.viz.draw(model, variable_names=["rain", "wind", "snow"])
    >>> path = pc.viz.save(ax, "mixture.svg")
    >>> path.exists()
    True
"""

from pcircuits.viz import style
from pcircuits.viz.calibration import Calibration, calibration
from pcircuits.viz.candidates import candidates, posterior
from pcircuits.viz.comparison import comparison
from pcircuits.viz.cost import plan_cost
from pcircuits.viz.dependencies import (
    dependencies,
    dependency_graph,
    information_graph,
    information_map,
)
from pcircuits.viz.graph import DETAILS, draw, flows
from pcircuits.viz.hidden_markov import emission, state_use, states, transition
from pcircuits.viz.html import circuit_html, history_html, model_html, plan_html
from pcircuits.viz.informative import most_informative
from pcircuits.viz.learning_curve import learning_curve
from pcircuits.viz.plan import draw_plan
from pcircuits.viz.regions import regions
from pcircuits.viz.samples import samples
from pcircuits.viz.save import save
from pcircuits.viz.variables import marginals

__all__ = [
    "DETAILS",
    "Calibration",
    "calibration",
    "candidates",
    "circuit_html",
    "comparison",
    "dependencies",
    "dependency_graph",
    "draw",
    "draw_plan",
    "emission",
    "flows",
    "history_html",
    "information_graph",
    "information_map",
    "learning_curve",
    "marginals",
    "model_html",
    "most_informative",
    "plan_cost",
    "plan_html",
    "posterior",
    "regions",
    "samples",
    "save",
    "state_use",
    "states",
    "style",
    "transition",
]
