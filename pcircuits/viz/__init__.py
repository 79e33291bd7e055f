"""Pictures of circuits and of what they say: every function takes and returns matplotlib axes."""

from pcircuits.viz.dependencies import dependencies, dependency_graph
from pcircuits.viz.graph import DETAILS, draw, flows
from pcircuits.viz.hidden_markov import emission, transition
from pcircuits.viz.html import circuit_html, model_html
from pcircuits.viz.learning_curve import learning_curve
from pcircuits.viz.plan import draw_plan
from pcircuits.viz.regions import regions
from pcircuits.viz.samples import samples
from pcircuits.viz.variables import marginals

__all__ = [
    "DETAILS",
    "circuit_html",
    "dependencies",
    "dependency_graph",
    "draw",
    "draw_plan",
    "emission",
    "flows",
    "learning_curve",
    "marginals",
    "model_html",
    "regions",
    "samples",
    "transition",
]
