"""Pictures of generations and measurements, and the page that shows a generation step by step."""

from codd.viz.filling import filling
from codd.viz.joint import candidates, dependencies, position_errors, position_log_probs
from codd.viz.measured import few_step, gap, task, training

__all__ = [
    "candidates",
    "dependencies",
    "few_step",
    "filling",
    "gap",
    "position_errors",
    "position_log_probs",
    "task",
    "training",
]
