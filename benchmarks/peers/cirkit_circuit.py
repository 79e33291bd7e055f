"""cirkit: the same circuit layer by layer, folded and optimised, with log-sum-exp semantics."""

from __future__ import annotations

import torch
from cirkit.pipeline import PipelineContext
from cirkit.symbolic import layers as symbolic
from cirkit.symbolic.circuit import Circuit
from cirkit.symbolic.initializers import ConstantTensorInitializer
from cirkit.symbolic.parameters import Parameter, TensorParameter
from cirkit.utils.scope import Scope
from torch import Tensor

import pcircuits as pc
from benchmarks.peers import Contender, NotApplicableError
from benchmarks.plain import own_numbers
from benchmarks.suite import BACKWARD, FORWARD, Work

_MOST_NODES = 2000


def contender(work: Work, pass_: str) -> Contender:
    """Log-likelihoods and gradients; tied parameters become copies, which it folds faster."""
    if pass_ not in (FORWARD, BACKWARD) or work.evidence.values is None:
        raise NotApplicableError("values and gradients of fully observed rows only")
    if len(work.plan.circuit.nodes) > _MOST_NODES:
        raise NotApplicableError("its compilation takes minutes")
    leaves: dict[pc.Input | pc.Sum, TensorParameter] = {}
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    circuit = context.compile(_symbolic(work, leaves)).to(work.device)
    values = work.values
    note = "copies of tied parameters" if _is_tied(work) else ""
    if pass_ == FORWARD:
        forward = torch.no_grad()(lambda: circuit(values).flatten())
        return Contender(forward, forward, note)

    def call() -> None:
        circuit.zero_grad(set_to_none=True)
        circuit(values).sum().backward()

    def result() -> dict[str, Tensor]:
        call()
        state = context._compiler.state
        found = {name: torch.zeros_like(log) for name, log in work.log_parameters.items()}
        for node, leaf in leaves.items():
            tensor, fold = state.retrieve_compiled_parameter(leaf)
            gradient = tensor._ptensor.grad[fold]
            if isinstance(node, pc.Sum):
                gradient = gradient * tensor._ptensor.detach()[fold]
            own_numbers(work.plan.circuit, node, found).add_(gradient.reshape(node.parameter_shape))
        return found

    return Contender(call, result, note)


def _is_tied(work: Work) -> bool:
    return work.case.family == "HMM"


def _symbolic(work: Work, leaves: dict[pc.Input | pc.Sum, TensorParameter]) -> Circuit:
    """The circuit in its terms: linear weights, inputs by logits; `leaves` receives parameters."""
    made: dict[object, symbolic.Layer] = {}
    inputs: dict[symbolic.Layer, list[symbolic.Layer]] = {}
    for node in work.plan.circuit.nodes:
        below = [made[child] for child in node.children]
        match node:
            case pc.Input():
                layer = symbolic.CategoricalLayer(
                    Scope([node.variable]),
                    node.num_units,
                    num_categories=node.num_categories,
                    logits=_parameter(work, node, leaves),
                )
            case pc.Sum():
                layer = symbolic.SumLayer(
                    below[0].num_output_units,
                    node.num_units,
                    arity=len(below),
                    weight=_parameter(work, node, leaves),
                )
            case pc.KroneckerProduct():
                layer = symbolic.KroneckerLayer(below[0].num_output_units, arity=len(below))
            case _:
                layer = symbolic.HadamardLayer(node.num_units, arity=len(below))
        made[node] = layer
        if below:
            inputs[layer] = below
    return Circuit(list(made.values()), inputs, [made[work.plan.circuit.root]])


def _parameter(
    work: Work, node: pc.Input | pc.Sum, leaves: dict[pc.Input | pc.Sum, TensorParameter]
) -> Parameter:
    numbers = own_numbers(work.plan.circuit, node, work.log_parameters).cpu()
    if isinstance(node, pc.Sum):
        numbers = numbers.exp().reshape(node.num_units, -1)
    value = ConstantTensorInitializer(numbers.numpy())
    leaves[node] = TensorParameter(*numbers.shape, initializer=value)
    return Parameter.from_input(leaves[node])
