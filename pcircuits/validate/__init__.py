"""What a circuit's structure promises, and a counterexample where it does not."""

from pcircuits.validate.determinism import Determinism, Overlap, determinism
from pcircuits.validate.properties import Properties, validate
from pcircuits.validate.splits import Clash, Compatibility, compatible
from pcircuits.validate.vtree import Vtree

__all__ = [
    "Clash",
    "Compatibility",
    "Determinism",
    "Overlap",
    "Properties",
    "Vtree",
    "compatible",
    "determinism",
    "validate",
]
