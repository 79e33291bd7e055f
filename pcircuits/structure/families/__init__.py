"""Ready-made structures, one file a family; each function returns a `Circuit`."""

from pcircuits.structure.families.binary_tree import binary_tree
from pcircuits.structure.families.factorized import factorized
from pcircuits.structure.families.hmm import gated_hmm, hmm
from pcircuits.structure.families.mixture import mixture

__all__ = ["binary_tree", "factorized", "gated_hmm", "hmm", "mixture"]
