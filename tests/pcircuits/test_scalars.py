"""Single nodes become one circuit with a handful of tensors."""

from __future__ import annotations

import math
import time

import pytest
import torch

import pcircuits as pc
from pcircuits.errors import StructureError
from pcircuits.execute.reference import log_value
from pcircuits.scalars import ScalarBuilder


def _mixture() -> tuple[ScalarBuilder, int]:
    builder = ScalarBuilder()
    unused = builder.add_input(0, [math.log(0.5)] * 2)
    left = builder.add_input(0, [math.log(0.25), math.log(0.75)], name="left")
    right = builder.add_indicator(0, (1,), 2)
    other = builder.add_input(1, [math.log(0.5), math.log(0.3), math.log(0.2)])
    builder.add_sum([unused, left], [0.0, 0.0])
    products = [builder.add_product([node, other]) for node in (left, right)]
    return builder, builder.add_sum(products, [math.log(0.9), math.log(0.1)], name="root")


def test_the_circuit_is_what_was_added() -> None:
    builder, root = _mixture()

    weighted = builder.build(root)

    worlds = torch.tensor([[a, b] for a in (0, 1) for b in (0, 1, 2)])
    evidence = pc.Evidence(values=worlds)
    found = log_value(weighted.circuit, weighted.log_weights, evidence).exp()
    first = (0.9 * 0.25, 0.9 * 0.75 + 0.1)
    expected = [p * q for p in first for q in (0.5, 0.3, 0.2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert builder.scope(root) == 0b11
    assert weighted.circuit.node_names[weighted.circuit.root] == "root"


def test_parameters_are_packed_without_what_is_not_reached() -> None:
    builder, root = _mixture()

    weighted = builder.build(root)

    shapes = {name: tuple(tensor.shape) for name, tensor in weighted.log_weights.items()}
    assert shapes == {"inputs_2": (1, 2), "inputs_3": (1, 3), "sums": (2,)}
    assert weighted.circuit.parameter_rows == {"inputs_2": None, "inputs_3": None, "sums": (2,)}


def test_a_sum_without_weights_counts() -> None:
    builder = ScalarBuilder()
    both = [builder.add_indicator(0, (value,), 2) for value in (0, 1)]

    weighted = builder.build(builder.add_sum([*both, both[0]]))

    assert not weighted.log_weights
    values = pc.Evidence(values=torch.tensor([[0], [1]]))
    assert log_value(weighted.circuit, {}, values).exp().tolist() == [2.0, 1.0]


def test_builders_build_again() -> None:
    builder, root = _mixture()

    first = builder.build(root)
    second = builder.build(root - 1)

    assert len(first.circuit.nodes) == 6
    assert isinstance(second.circuit.root, pc.Product)


def test_mistakes_are_named() -> None:
    builder = ScalarBuilder()
    node = builder.add_input(0, [0.0, 0.0])
    with pytest.raises(StructureError, match="node 1 has child 1"):
        builder.add_product([1])
    with pytest.raises(StructureError, match="1 children and 2 weights"):
        builder.add_sum([node], [0.0, 0.0])
    with pytest.raises(StructureError, match="decomposable"):
        builder.build(builder.add_product([node, node]))


def test_a_hundred_thousand_nodes() -> None:
    """A chain of mixtures: 100,000 nodes in a few seconds."""
    builder = ScalarBuilder()
    below: list[int] = []
    for variable in range(1000):
        inputs = [builder.add_input(variable, [-0.5, -1.0]) for _ in range(30)]
        products = [builder.add_product([i, *below[p : p + 1]]) for p, i in enumerate(inputs)]
        below = [
            builder.add_sum([products[s], products[s - 1], products[s - 2]], [-1.0, -1.0, -1.0])
            for s in range(30)
        ]
    start = time.perf_counter()
    weighted = builder.build(builder.add_sum(below, [-3.4] * 30))

    assert len(weighted.circuit.nodes) > 85_000
    assert time.perf_counter() - start < 20  # 2 s on an idle core
