"""Circuits as graphs of single nodes: values survive, and what is wrong is named."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from benchmarks.scalar_graph import GraphSizes, random_graph, run_scalar_graph
from pcircuits.errors import FormatError, StructureError
from tests.support.circuits import SEEDS, circuits, parameters_of
from tests.support.scalars import scalar_circuits, scalar_parameters


def values_of(weighted: pc.WeightedCircuit) -> torch.Tensor:
    circuit = weighted.circuit
    worlds = torch.tensor(list(itertools.product(*map(range, circuit.categories))))
    plan = pc.compile_circuit(circuit)
    return pc.forward(plan, weighted.log_weights, pc.Evidence(worlds), impl="reference").exp()


def same_values(before: pc.WeightedCircuit) -> None:
    try:
        graph = pc.to_networkx(before)
    except FormatError as error:
        # Random circuits may multiply a weight in twice, or have a unit whose weights are all zero.
        assert "twice" in str(error) or "are zero" in str(error)
        return
    after = pc.weighted_from_networkx(graph)
    np.testing.assert_allclose(values_of(after), values_of(before), rtol=1e-12, atol=1e-300)
    again = pc.to_networkx(after)
    assert nx.utils.graphs_equal(again, graph) or _rounded(again) == _rounded(graph)


def _rounded(graph: nx.DiGraph) -> dict[object, object]:
    return {(a, b): round(float(w or 0), 9) for a, b, w in graph.edges.data("weight")}


@given(st.data())
@settings(max_examples=60)
def test_units_of_a_circuit_survive(data: st.DataObject) -> None:
    circuit = data.draw(circuits())
    parameters = data.draw(parameters_of(circuit, per_example=False))
    same_values(pc.WeightedCircuit(circuit, parameters))


@given(scalar_circuits(), SEEDS, st.booleans())
@settings(max_examples=60)
def test_single_nodes_survive(circuit: pc.Circuit, seed: int, zeros: bool) -> None:
    same_values(pc.WeightedCircuit(circuit, scalar_parameters(circuit, seed, zeros=zeros)))


def sprinkler() -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_node("rain", kind="sum")
    for value, probability in ((0, 0.8), (1, 0.2)):
        graph.add_node(f"is {value}", kind="input", variable=0, support=[value], num_categories=2)
        wet = [0.6, 0.4] if value == 0 else [0.1, 0.9]
        graph.add_node(f"wet if {value}", kind="input", variable=1, probabilities=wet)
        graph.add_node(f"case {value}", kind="product")
        graph.add_edge(f"case {value}", f"is {value}")
        graph.add_edge(f"case {value}", f"wet if {value}")
        graph.add_edge("rain", f"case {value}", weight=probability)
    return graph


def test_a_graph_written_by_hand_is_the_distribution_it_says() -> None:
    model = pc.CircuitModel.of(pc.weighted_from_networkx(sprinkler()))
    values = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = model.log_likelihood(values).detach().exp()
    np.testing.assert_allclose(found, [0.48, 0.32, 0.02, 0.18])
    assert pc.structure_to_json(pc.from_networkx(sprinkler())) == pc.structure_to_json(
        model.circuit
    )


def test_edges_without_weights_make_a_plain_sum() -> None:
    graph = sprinkler()
    for _, _, attributes in graph.out_edges("rain", data=True):
        del attributes["weight"]
    weighted = pc.weighted_from_networkx(graph)
    assert not weighted.circuit.root.weighted
    np.testing.assert_allclose(values_of(weighted), [0.6, 0.4, 0.1, 0.9])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.add_edge("is 0", "rain"), "a circuit has no cycle"),
        (lambda g: g.add_node("other", kind="product"), "one node that no edge leads to"),
        (lambda g: g.nodes["rain"].pop("kind"), "kind must be 'sum', 'product' or 'input'"),
        (lambda g: g.nodes["is 0"].update(variable=-1), "variable must be an integer from 0"),
        (lambda g: g.nodes["is 0"].pop("num_categories"), "expected num_categories"),
        (lambda g: g.nodes["wet if 1"].pop("probabilities"), "neither `probabilities` nor"),
        (lambda g: g["rain"]["case 0"].pop("weight"), "some of its edges have a weight"),
        (lambda g: g["rain"]["case 0"].update(weight=-0.5), "expected weights >= 0; found -0.5"),
        (lambda g: g.remove_node("is 0"), "is not smooth"),
        (lambda g: g.nodes["wet if 0"].update(variable=0), "is not decomposable"),
    ],
)
def test_what_is_wrong_is_named(change: object, message: str) -> None:
    graph = sprinkler()
    change(graph)
    with pytest.raises((FormatError, StructureError), match=message):
        pc.from_networkx(graph)


def test_a_product_of_a_node_with_itself_is_named() -> None:
    x = pc.Input(0, num_units=1, num_categories=2)
    twice = pc.Circuit(pc.Sum(x, x, num_units=1))
    with pytest.raises(FormatError, match="has the child 'input_0' twice"):
        pc.to_networkx(twice)


def test_large_irregular_graphs_are_read_folded_and_evaluated() -> None:
    sizes = GraphSizes(num_nodes=6_000, num_edges=18_000, num_variables=16, batch_size=20)
    graph = random_graph(sizes, seed=1)
    assert abs(graph.number_of_nodes() / sizes.num_nodes - 1) < 0.1
    assert abs(graph.number_of_edges() / sizes.num_edges - 1) < 0.1
    assert len({degree for _, degree in graph.out_degree()}) > 10
    report = run_scalar_graph(sizes, rounds=1)
    assert report["error"] < 1e-5 and report["layers"] < 60
