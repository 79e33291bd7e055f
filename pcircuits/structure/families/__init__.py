"""Ready-made structures, one file a family; each function returns a `Circuit`.

Examples:
    >>> hmm = pc.families.hmm(length=16, num_states=32, num_categories=20)
    >>> image = pc.families.quad_tree(8, 8, num_units=4, num_categories=2)
    >>> pattern = pc.families.regular_expression("a+b+", 4, ["a", "b"])
    >>> [circuit.num_variables for circuit in (hmm, image, pattern)]
    [16, 64, 4]
"""

from pcircuits.structure.families.automaton import automaton, regular_expression
from pcircuits.structure.families.binary_tree import binary_tree
from pcircuits.structure.families.block_hmm import block_hmm
from pcircuits.structure.families.cnf import logic_from_cnf
from pcircuits.structure.families.factorized import factorized
from pcircuits.structure.families.hidden_chow_liu import chow_liu, hidden_chow_liu
from pcircuits.structure.families.higher_order_hmm import higher_order_hmm
from pcircuits.structure.families.hmm import gated_hmm, hmm
from pcircuits.structure.families.linear_tree import linear_tree, linear_tree_regions
from pcircuits.structure.families.logic import And, Literal, Or, logic
from pcircuits.structure.families.mixture import mixture
from pcircuits.structure.families.monarch_hmm import monarch_hmm
from pcircuits.structure.families.poon_domingos import poon_domingos, poon_domingos_regions
from pcircuits.structure.families.quad_tree import (
    quad_graph,
    quad_graph_regions,
    quad_tree,
    quad_tree_regions,
)
from pcircuits.structure.families.random_binary_tree import (
    random_binary_tree,
    random_binary_tree_regions,
    rat,
)

__all__ = [
    "And",
    "Literal",
    "Or",
    "automaton",
    "binary_tree",
    "block_hmm",
    "chow_liu",
    "factorized",
    "gated_hmm",
    "hidden_chow_liu",
    "higher_order_hmm",
    "hmm",
    "linear_tree",
    "linear_tree_regions",
    "logic",
    "logic_from_cnf",
    "mixture",
    "monarch_hmm",
    "poon_domingos",
    "poon_domingos_regions",
    "quad_graph",
    "quad_graph_regions",
    "quad_tree",
    "quad_tree_regions",
    "random_binary_tree",
    "random_binary_tree_regions",
    "rat",
    "regular_expression",
]
