"""Probabilistic circuits over categorical variables: structure, plan, parameters, queries.

A `Circuit` is made of nodes by hand, by one of `families`, from a graph (`from_networkx`) or from
data (`hclt`, `learn_spn`, `cutset_network`); a `CircuitModel` gives it parameters, `fit_em` or
`fit_gradient` learn them, and its methods answer questions, exactly. `operators` make new circuits
of circuits with weights, `viz` draws them.

Examples:
    A fair coin or a biased one, thrown twice:

    >>> import torch
    >>> import pcircuits as pc
    >>> coin = pc.Input(0, num_units=2, num_categories=2, parameter="coins")
    >>> again = pc.Input(1, num_units=2, num_categories=2, parameter="coins")
    >>> either = pc.Sum(pc.Product(coin, again), num_units=1, parameter="choice")
    >>> model = pc.CircuitModel(pc.Circuit(either))
    >>> model.set_probabilities({
    ...     "coins": torch.tensor([[0.5, 0.5], [0.1, 0.9]]),
    ...     "choice": torch.tensor([0.5, 0.5]),
    ... })
    >>> first_is_1 = pc.Evidence(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    >>> round(model.marginals(first_is_1)[0, 1, 1].item(), 4)  # P(second = 1 | first = 1)
    0.7571
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pcircuits import errors, files, operators, queries
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Cost, Plan
from pcircuits.execute.api import choose_implementation, forward
from pcircuits.execute.choice import Choice
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters, prepare
from pcircuits.io.jpc import read_jpc, write_jpc
from pcircuits.io.juice import read_clt, read_juice_jpc, read_spn
from pcircuits.io.logic_files import read_nnf, read_sdd
from pcircuits.io.networkx import from_networkx, to_networkx, weighted_from_networkx
from pcircuits.io.psdd import read_psdd
from pcircuits.scalars import ScalarBuilder
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.io.text import from_text, to_text, weighted_from_text
from pcircuits.learning.mutual_information import pairwise_mutual_information
from pcircuits.learning.chow_liu import ChowLiuTree, chow_liu, chow_liu_tree, spanning_tree
from pcircuits.learning.hidden_chow_liu import hclt, hclt_start
from pcircuits.learning.contexts import context_hmm
from pcircuits.learning.cutset import cutset_network
from pcircuits.learning.distillation import distil_latents, initialise_kmeans, latent_nodes
from pcircuits.learning.em import EMSettings, EMState, em_step, em_update
from pcircuits.learning.em_fit import fit_em
from pcircuits.learning.flows import flows
from pcircuits.learning.gradient import fit_gradient
from pcircuits.learning.history import History, Record
from pcircuits.learning.initialise import initialise_random, kmeans
from pcircuits.learning.interrupt import stop_on_interrupt
from pcircuits.learning.learn_spn import learn_spn
from pcircuits.learning.objective import mean_log_likelihood
from pcircuits.learning.processes import Processes
from pcircuits.learning.prune_grow import Pruned, prune_units, prune_weights
from pcircuits.module import CircuitModel, load
from pcircuits.parameters import WeightedCircuit, normalise_parameter, random_parameters
from pcircuits.structure import families
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import Input, KroneckerProduct, Part, Product, Sum
from pcircuits.structure.region_graph import RegionGraph, RegionGraphBuilder
from pcircuits.structure.scope import Scope
from pcircuits.validate import (
    Clash,
    Compatibility,
    Determinism,
    Overlap,
    Properties,
    Vtree,
    compatible,
    determinism,
    validate,
)

if TYPE_CHECKING:
    from pcircuits import viz

__all__ = [
    "ChowLiuTree",
    "Circuit",
    "CircuitModel",
    "Clash",
    "Compatibility",
    "Cost",
    "Determinism",
    "EMSettings",
    "EMState",
    "Evidence",
    "History",
    "Input",
    "KroneckerProduct",
    "Overlap",
    "Part",
    "Plan",
    "PreparedParameters",
    "Processes",
    "Product",
    "Properties",
    "Pruned",
    "Record",
    "RegionGraph",
    "RegionGraphBuilder",
    "ScalarBuilder",
    "Scope",
    "Sum",
    "Vtree",
    "WeightedCircuit",
    "chow_liu",
    "chow_liu_tree",
    "compatible",
    "compile_circuit",
    "context_hmm",
    "cutset_network",
    "determinism",
    "distil_latents",
    "em_step",
    "em_update",
    "errors",
    "families",
    "files",
    "fit_em",
    "fit_gradient",
    "flows",
    "forward",
    "choose_implementation",
    "Choice",
    "from_networkx",
    "from_text",
    "hclt",
    "hclt_start",
    "initialise_kmeans",
    "initialise_random",
    "kmeans",
    "latent_nodes",
    "learn_spn",
    "load",
    "mean_log_likelihood",
    "normalise_parameter",
    "operators",
    "pairwise_mutual_information",
    "prepare",
    "prune_units",
    "prune_weights",
    "queries",
    "random_parameters",
    "read_clt",
    "read_jpc",
    "read_juice_jpc",
    "read_nnf",
    "read_psdd",
    "read_sdd",
    "read_spn",
    "spanning_tree",
    "stop_on_interrupt",
    "structure_from_json",
    "structure_to_json",
    "to_networkx",
    "to_text",
    "validate",
    "viz",
    "weighted_from_networkx",
    "weighted_from_text",
    "write_jpc",
]


def __getattr__(name: str) -> Any:
    # Pictures come when they are asked for: matplotlib takes half a second to import.
    if name == "viz":
        return importlib.import_module("pcircuits.viz")
    raise AttributeError(f"module 'pcircuits' has no attribute {name!r}")


def _html_by(function: str) -> Callable[[object], str]:
    def html(shown: object) -> str:
        found: str = getattr(__getattr__("viz"), function)(shown)
        return found

    return html


# What notebooks show is a picture, and pictures rank above what they are of.
for _shown, _function in (
    (Circuit, "circuit_html"),
    (CircuitModel, "model_html"),
    (History, "history_html"),
    (Plan, "plan_html"),
):
    setattr(_shown, "_repr_html_", _html_by(_function))  # noqa: B010
