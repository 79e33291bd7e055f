"""Probabilistic circuits over categorical variables: structure, plan, parameters, queries."""

from pcircuits import errors, queries
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Cost, Plan
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters, prepare
from pcircuits.io.networkx import from_networkx, to_networkx, weighted_from_networkx
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.learning.contexts import context_hmm
from pcircuits.learning.em import EMSettings, EMState, em_step, fit_em
from pcircuits.learning.flows import flows
from pcircuits.learning.gradient import fit_gradient
from pcircuits.learning.history import History, Record
from pcircuits.module import CircuitModel, load
from pcircuits.parameters import WeightedCircuit, normalise_parameter, random_parameters
from pcircuits.structure import families
from pcircuits.structure.nodes import Circuit, Input, KroneckerProduct, Part, Product, Sum
from pcircuits.structure.region_graph import RegionGraph, RegionGraphBuilder
from pcircuits.structure.scope import Scope
from pcircuits.validate import Properties, validate

__all__ = [
    "Circuit",
    "CircuitModel",
    "Cost",
    "EMSettings",
    "EMState",
    "Evidence",
    "History",
    "Input",
    "KroneckerProduct",
    "Part",
    "Plan",
    "PreparedParameters",
    "Product",
    "Properties",
    "Record",
    "RegionGraph",
    "RegionGraphBuilder",
    "Scope",
    "Sum",
    "WeightedCircuit",
    "compile_circuit",
    "context_hmm",
    "em_step",
    "errors",
    "families",
    "fit_em",
    "fit_gradient",
    "flows",
    "forward",
    "from_networkx",
    "load",
    "normalise_parameter",
    "prepare",
    "queries",
    "random_parameters",
    "structure_from_json",
    "structure_to_json",
    "to_networkx",
    "validate",
    "weighted_from_networkx",
]
