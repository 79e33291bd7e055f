"""Probabilistic circuits over categorical variables: structure, plan, parameters, queries."""

from pcircuits import errors, queries
from pcircuits.compile.compiler import compile_circuit
from pcircuits.compile.plan import Cost, Plan
from pcircuits.execute.api import forward
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.prepare import PreparedParameters, prepare
from pcircuits.io.jpc import read_jpc, write_jpc
from pcircuits.io.juice import read_clt, read_juice_jpc, read_spn
from pcircuits.io.logic_files import read_nnf, read_sdd
from pcircuits.io.networkx import from_networkx, to_networkx, weighted_from_networkx
from pcircuits.io.psdd import read_psdd
from pcircuits.io.scalars import ScalarBuilder
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from pcircuits.io.text import from_text, to_text, weighted_from_text
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
    "ScalarBuilder",
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
    "from_text",
    "load",
    "normalise_parameter",
    "prepare",
    "queries",
    "random_parameters",
    "read_clt",
    "read_jpc",
    "read_juice_jpc",
    "read_nnf",
    "read_psdd",
    "read_sdd",
    "read_spn",
    "structure_from_json",
    "structure_to_json",
    "to_networkx",
    "to_text",
    "validate",
    "weighted_from_networkx",
    "weighted_from_text",
    "write_jpc",
]
