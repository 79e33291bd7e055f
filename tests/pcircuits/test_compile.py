"""Plans: every node has its place, every operand reads the right one, costs are counted."""

from __future__ import annotations

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given

import pcircuits as pc
from pcircuits.compile.plan import InputLayer, Operand, SegmentLayer, SumLayer
from pcircuits.errors import CompileError
from tests.support.circuits import circuits


@given(circuits())
def test_every_node_has_one_place_and_the_root_the_last(circuit: pc.Circuit) -> None:
    plan = pc.compile_circuit(circuit)
    expected = {(i, f) for i, folds in enumerate(plan.num_folds) for f in range(folds)}

    assert set(plan.places) == set(circuit.node_names.values())
    assert set(plan.places.values()) == expected
    assert len(expected) == len(circuit.nodes)
    assert plan.places[circuit.node_names[circuit.root]] == (len(plan.layers) - 1, 0)
    assert plan.num_folds[-1] == 1


@given(circuits())
def test_operands_read_the_children_of_each_node_in_order(circuit: pc.Circuit) -> None:
    plan = pc.compile_circuit(circuit)
    place = {node: plan.places[name] for node, name in circuit.node_names.items()}
    for node, (i, fold) in place.items():
        layer = plan.layers[i]
        assert layer.num_units == node.num_units
        if isinstance(layer, InputLayer):
            assert layer.variables[fold] == node.variable
            continue
        if isinstance(layer, SegmentLayer):
            edges = np.flatnonzero(layer.nodes == fold)
            reads = [_places(layer.operands[0])[e] for e in edges]
            assert layer.ranks[edges].tolist() == list(range(len(edges)))
        else:
            reads = [_places(operand)[fold] for operand in layer.operands]
        assert reads == [place[child] for child in node.children]
        assert all(below < i for below, _ in reads)


@given(circuits())
def test_layers_name_the_parameters_of_their_nodes(circuit: pc.Circuit) -> None:
    plan = pc.compile_circuit(circuit)
    for node, parameter in circuit.parameter_names.items():
        i, fold = plan.places[circuit.node_names[node]]
        names = plan.layers[i].weights.names
        assert names[0 if len(names) == 1 else fold] == parameter
        assert plan.parameter_shapes[parameter] == node.parameter_shape
    assert set(plan.parameter_shapes) == set(circuit.parameter_names.values())


def test_nodes_of_one_shape_are_folded() -> None:
    plan = pc.compile_circuit(pc.families.binary_tree(8, num_units=3, num_categories=5))

    # Inputs, then a product and a sum for each of three levels.
    assert plan.num_folds == (8, 4, 4, 2, 2, 1, 1)


def test_positions_of_a_homogeneous_chain_share_one_input_layer() -> None:
    plan = pc.compile_circuit(pc.families.hmm(6, num_states=3, num_categories=5))

    inputs = [layer for layer in plan.layers if isinstance(layer, InputLayer)]
    assert [sorted(layer.variables.tolist()) for layer in inputs] == [[0, 1, 2, 3, 4, 5]]
    sums = [layer for layer in plan.layers if isinstance(layer, SumLayer)]
    assert [layer.weights.names for layer in sums] == [("transition",)] * 5 + [("initial",)]


def test_costs_of_a_chain_are_counted() -> None:
    length, states, categories = 4, 3, 5
    cost = pc.compile_circuit(pc.families.hmm(length, states, categories)).cost()

    steps = length - 1
    sums = steps * states**2 + states
    products = steps * states * 2
    assert cost.num_parameters == states + states**2 + states * categories
    assert cost.num_units == length * states + steps * states * 2 + 1
    assert cost.operations == sums + products + length * states
    assert cost.soft_operations == sums + products + length * states * categories
    assert (cost.parameter_bytes, cost.value_bytes) == (
        4 * cost.num_parameters,
        4 * cost.num_units,
    )


def test_a_plan_prints_its_layers_and_cost() -> None:
    plan = pc.compile_circuit(pc.families.mixture(3, num_components=4, num_categories=5))

    text = str(plan)

    assert [line.split()[1] for line in text.splitlines()[1:-1]] == [
        "InputLayer",
        "ProductLayer",
        "SumLayer",
    ]
    assert "64 parameters (256 bytes)" in text.splitlines()[-1]


def test_a_mixture_of_single_units_is_a_product_with_a_vector() -> None:
    def layers(units: int) -> list[str]:
        parts = [pc.Input(0, num_units=units, num_categories=2) for _ in range(3)]
        middle = pc.Sum(*parts, num_units=units, mixing=True)
        plan = pc.compile_circuit(pc.Circuit(pc.Sum(middle, num_units=1)))
        return [type(layer).__name__ for layer in plan.layers]

    assert layers(1) == ["InputLayer", "SumLayer", "SumLayer"]
    assert layers(2) == ["InputLayer", "MixingLayer", "SumLayer"]


def test_a_table_of_indicators_has_its_place_and_a_limit() -> None:
    def indicator(categories: int) -> pc.Circuit:
        supports = ((categories - 1,),)
        return pc.Circuit(pc.Input(0, num_units=1, num_categories=categories, supports=supports))

    plan = pc.compile_circuit(indicator(1000))
    found = pc.forward(plan, {}, pc.Evidence(torch.tensor([[999], [0]])))
    assert found.tolist() == [0.0, -torch.inf]
    with pytest.raises(CompileError, match="of 300000000 numbers; expected at most 268435456"):
        pc.compile_circuit(indicator(300_000_000))


def test_a_long_plan_is_printed_in_part() -> None:
    plan = pc.compile_circuit(pc.families.hmm(500, num_states=2, num_categories=2))

    lines = str(plan).splitlines()
    (gap,) = [line for line in lines if "more layers" in line]
    shown = [line for line in lines if " units " in line and line is not lines[-1]]
    assert len(lines) < 40
    assert int(gap.split()[1]) + len(shown) == len(plan.layers)
    assert lines.index(gap) - lines.index(shown[0]) == lines.index(shown[-1]) - lines.index(gap)


def test_the_operations_of_the_layers_are_those_of_the_plan() -> None:
    plan = pc.compile_circuit(pc.families.hmm(6, num_states=3, num_categories=5))
    found = re.findall(r"([\d,]+) operations", "\n".join(str(plan).splitlines()[1:-1]))

    assert sum(int(number.replace(",", "")) for number in found) == plan.cost().operations


def test_a_plan_cannot_be_changed() -> None:
    plan = pc.compile_circuit(pc.families.hmm(3, num_states=2, num_categories=2))

    with pytest.raises(TypeError):
        plan.parameter_shapes["initial"] = (3,)


def test_copies_of_what_cannot_change_are_the_thing_itself() -> None:
    """A chain of thousands of nodes is deeper than a copy by recursion could go."""
    plan = pc.compile_circuit(pc.families.hmm(3000, num_states=2, num_categories=2))

    assert copy.deepcopy(plan) is plan
    assert copy.deepcopy(plan.circuit) is plan.circuit


def test_only_circuits_are_compiled() -> None:
    with pytest.raises(CompileError, match="expected a Circuit, found Input"):
        pc.compile_circuit(pc.Input(0, num_units=1, num_categories=2))


def _places(operand: Operand) -> list[tuple[int, int]]:
    """(layer, fold) that each fold of an operand is gathered from."""
    read = [
        (source.layer, int(fold))
        for source in operand.sources
        for fold in np.arange(10_000)[source.index][: source.num_folds]
    ]
    return read if operand.order is None else [read[place] for place in operand.order]


def test_plans_and_their_parts_do_not_change() -> None:
    """What is remembered of a plan, such as its program, holds for as long as it lives."""
    plan = pc.compile_circuit(pc.families.binary_tree(4, 2, 3))
    parts = [plan, *plan.layers, *plan.layers[1].operands, *plan.layers[1].operands[0].sources]
    for part in parts:
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, None)
    with pytest.raises(TypeError, match="does not support item assignment"):
        plan.places["root"] = (0, 0)  # type: ignore[index]
