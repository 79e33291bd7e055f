"""Pictures of generations and measurements, and the page that shows a generation step by step.

Examples:
    >>> model = codd.CoupledModel.from_pretrained("demo")
    >>> options = {"new_tokens": 4, "steps": 2, "coupling": "factorised"}
    >>> recording = codd.viz.record(model, "Return ", **options)
    >>> codd.viz.write_page("steps.html", [recording]).name  # every step, in any browser
    'steps.html'
"""

from codd.viz.curves import frontier, quotas
from codd.viz.filling import filling
from codd.viz.html import generation_html, joint_html
from codd.viz.joint import candidates, dependencies, position_errors, position_log_probs
from codd.viz.measured import few_step, gap, task, training
from codd.viz.observer import record
from codd.viz.recording import Moment, Recording, page_of, write_page

__all__ = [
    "Moment",
    "Recording",
    "candidates",
    "dependencies",
    "few_step",
    "filling",
    "frontier",
    "gap",
    "generation_html",
    "joint_html",
    "page_of",
    "position_errors",
    "position_log_probs",
    "quotas",
    "record",
    "task",
    "training",
    "write_page",
]
