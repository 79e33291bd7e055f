"""Region graphs, and the families made of them: random trees, RAT, Poon-Domingos, quad trees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import StructureError
from pcircuits.structure.region_graph import RegionGraph, RegionGraphBuilder
from tests.support.families import assert_exact_family, random_weights, world_probabilities

families = pc.families
Scope = pc.Scope


def _whole(*variables: int) -> Scope:
    return Scope.of(variables)


def _sprinkled() -> RegionGraph:
    """Two ways to split the root, a shared part, and a leaf of two variables."""
    return (
        RegionGraph.builder()
        .partition([0, 1, 2, 3], [0, 1], [2, 3])
        .partition([0, 1, 2, 3], 0, [1, 2, 3])
        .partition([1, 2, 3], 1, [2, 3])
        .partition([0, 1], 0, 1)
        .leaf([2, 3])
        .build()
    )


# Region graphs.


def test_a_built_graph_holds_what_was_said() -> None:
    graph = _sprinkled()

    assert graph.num_variables == 4
    assert graph.num_partitions == 4
    assert set(graph.leaves) == {_whole(0), _whole(1), _whole(2, 3)}
    assert graph.partitions[graph.root] == (
        (_whole(0, 1), _whole(2, 3)),
        (_whole(0), _whole(1, 2, 3)),
    )
    assert repr(graph) == "RegionGraph(4 variables, 6 regions, 4 partitions)"


def test_regions_come_after_their_parts() -> None:
    graph = families.poon_domingos_regions(4, 5, step=1)
    place = {region: i for i, region in enumerate(graph.regions)}

    assert len(place) == len(graph.regions)
    assert graph.regions[-1] == graph.root
    for region, partitions in graph.partitions.items():
        assert all(place[part] < place[region] for split in partitions for part in split)


def test_a_graph_and_its_partitions_cannot_be_changed() -> None:
    graph = _sprinkled()

    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.root = Scope()  # type: ignore[misc]
    with pytest.raises(TypeError):
        graph.partitions[graph.root] = ()  # type: ignore[index]


def test_a_chain_of_regions_may_be_deeper_than_pythons_stack() -> None:
    length = 3000
    partitions = {
        Scope.of(range(i, length)): ((_whole(i), Scope.of(range(i + 1, length))),)
        for i in range(length - 1)
    }
    graph = RegionGraph(Scope.of(range(length)), partitions)

    assert len(graph.to_circuit(1, 2).nodes) == length + 2 * (length - 1)


def _builder() -> RegionGraphBuilder:
    return RegionGraph.builder()


BAD_GRAPHS: dict[str, tuple[Callable[[], object], str]] = {
    "overlap": (
        lambda: _builder().partition([0, 1, 2], [0, 1], [1, 2]),
        r"region \{0-2\} into \{0-1\} \| \{1-2\}: the parts overlap in \{1\}",
    ),
    "not all": (
        lambda: _builder().partition([0, 1, 2], 0, 1),
        r"into \{0\} \| \{1\}: the parts differ from the region in \{2\}",
    ),
    "too much": (
        lambda: _builder().partition([0, 1], 0, [1, 2]),
        r"differ from the region in \{2\}",
    ),
    "cycle": (
        lambda: _builder().partition([0, 1], [0, 1], 2),
        r"region \{0-1\} into .*: a cycle, the region would be a part of itself",
    ),
    "one part": (lambda: _builder().partition([0, 1], 0), "at least two parts"),
    "no part": (lambda: _builder().partition([0, 1]), "into nothing: expected at least two parts"),
    "empty part": (lambda: _builder().partition([0, 1], [0, 1, 2], []), "none of them empty"),
    "twice": (
        lambda: _builder().partition([0, 1], 0, 1).partition([0, 1], 1, 0),
        r"region \{0-1\} is given the same partition twice",
    ),
    "variable twice": (
        lambda: _builder().leaf([0, 0]),
        r"names each variable once; found \[0, 0\]",
    ),
    "leaf that is partitioned": (
        lambda: _builder().partition([0, 1], 0, 1).leaf([0, 1]),
        r"\{0-1\} has been partitioned",
    ),
    "partition of a leaf": (
        lambda: _builder().leaf([0, 1]).partition([0, 1], 0, 1),
        r"\{0-1\} was declared a leaf",
    ),
    "empty leaf": (lambda: _builder().leaf([]), "at least one variable"),
    "missing leaf": (
        lambda: _builder().partition([0, 1, 2], 0, [1, 2]).build(),
        r"region \{1-2\} is used but neither partitioned nor declared a leaf",
    ),
    "nothing": (lambda: _builder().build(), r"the region \{\} of all variables must be"),
    "no root": (
        lambda: _builder().partition([0, 1], 0, 1).partition([2, 3], 2, 3).build(),
        r"the region \{0-3\} of all variables must be partitioned",
    ),
    "gap": (lambda: _builder().partition([0, 2], 0, 2).build(), r"\{0, 2\} lacks \{1\}"),
    "region never used": (
        lambda: (
            _builder().partition([0, 1, 2], 0, [1, 2]).leaf([1, 2]).partition([0, 1], 0, 1).build()
        ),
        r"region \{0-1\} is partitioned but never used",
    ),
    "leaf never used": (
        lambda: _builder().partition([0, 1, 2], 0, 1, 2).leaf([1, 2]).build(),
        r"leaf \{1-2\} is never used",
    ),
    "no partition in a mapping": (
        lambda: RegionGraph(_whole(0, 1), {_whole(0, 1): ()}),
        r"region \{0-1\} has an empty list of partitions",
    ),
    "empty root": (lambda: RegionGraph(Scope(), {}), "must be all variables"),
    "unknown product": (
        lambda: _sprinkled().to_circuit(2, 2, product="sideways"),
        "found 'sideways'",
    ),
    "categories that do not fit": (
        lambda: _sprinkled().to_circuit(2, [2, 2, 2]),
        "one for each of the 4 variables; found 3",
    ),
    "no units": (lambda: _sprinkled().to_circuit(0, 2), "num_units must be .* found 0"),
}


@pytest.mark.parametrize("kind", BAD_GRAPHS)
def test_bad_region_graphs_are_named(kind: str) -> None:
    make, message = BAD_GRAPHS[kind]

    with pytest.raises(StructureError, match=message):
        make()


@pytest.mark.parametrize("product", ["elementwise", "kronecker"])
@pytest.mark.parametrize("input_units", [None, 1, 2, 3])
def test_circuits_of_region_graphs_are_exact(product: str, input_units: int | None) -> None:
    circuit = _sprinkled().to_circuit(3, [2, 3, 2, 4], product=product, num_input_units=input_units)

    assert circuit.categories == (2, 3, 2, 4)
    assert not assert_exact_family(circuit).structured_decomposable


def test_parameters_are_as_documented() -> None:
    graph = _sprinkled()

    assert graph.to_circuit(3, [2, 3, 2, 2]).parameter_shapes == {
        "inputs_2": (9, 2),
        "inputs_3": (3, 3),
        "sums_3": (3 * 3 + 3 * 3,),
        "root": (6,),
    }
    assert graph.to_circuit(3, 2, num_input_units=2).parameter_shapes == {
        "inputs_2": (8, 2),
        "sums_2": (3 * 2 + 3 * 2,),
        "lifts": (3 * 2 * 2,),
        "root": (6,),
    }
    assert graph.to_circuit(3, 2, product="kronecker", num_input_units=2).parameter_shapes == {
        "inputs_2": (8, 2),
        "sums_4": (3 * 4 + 3 * 4,),
        "root": (3 * 2 + 2 * 3,),
    }


def test_nodes_are_named_by_their_region() -> None:
    graph = _sprinkled()
    nodes = {name: node for node, name in graph.to_circuit(3, 2).node_names.items()}

    for place, region in enumerate(graph.regions[:-1]):
        name = f"region_{place}" if len(region) > 1 else f"input_{next(iter(region))}"
        assert nodes[name].scope == region
        assert nodes[name].num_units == 3
    assert nodes["root"].scope == graph.root


def test_a_sum_over_all_products_holds_a_mixture_of_sums() -> None:
    """The documented claim: weights of one dense sum can equal a sum a product and a mixture."""
    graph = RegionGraph.builder().partition([0, 1, 2], 0, [1, 2]).partition([1, 2], 1, 2)
    graph = graph.partition([0, 1, 2], [0, 1], 2).partition([0, 1], 0, 1).build()
    circuit = graph.to_circuit(2, 2)
    parameters = random_weights(circuit)
    names = {name: node for node, name in circuit.node_names.items()}
    own = [
        pc.Sum(product, num_units=1, name=f"own_{i}")
        for i, product in enumerate(names["root"].children)
    ]
    mixed = pc.Circuit(pc.Sum(*own, num_units=1, mixing=True, name="mixed"))
    separate = random_weights(mixed, seed=1)
    shared = {name: parameters[name] for name in parameters if name != "root"}
    weights = np.concatenate(
        [separate[f"own_{i}"].exp().numpy() * separate["mixed"].exp().numpy()[i] for i in (0, 1)]
    )
    dense = {**shared, "root": parameters["root"].new_tensor(np.log(weights))}

    np.testing.assert_allclose(
        world_probabilities(circuit, dense),
        world_probabilities(mixed, {**separate, **shared}),
        rtol=1e-12,
    )


# Random trees and RAT.


@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["elementwise", "kronecker"]),
    st.integers(0, 99),
)
def test_random_trees_are_exact(
    length: int, repetitions: int, units: int, product: str, seed: int
) -> None:
    circuit = families.random_binary_tree(
        length, units, 2, seed=seed, repetitions=repetitions, product=product
    )

    properties = assert_exact_family(circuit, seed=seed)

    assert properties.structured_decomposable or repetitions > 1


def test_random_trees_are_balanced_and_end_in_single_variables() -> None:
    graph = families.random_binary_tree_regions(13, seed=3, repetitions=4)

    assert sorted(graph.leaves, key=lambda leaf: leaf.bits) == [_whole(i) for i in range(13)]
    assert len(graph.partitions[graph.root]) == 4
    for region, partitions in graph.partitions.items():
        for first, second in partitions:
            assert (len(first), len(second)) == (len(region) // 2, -(-len(region) // 2))


def test_a_seed_decides_the_trees() -> None:
    first, again, other = (
        families.random_binary_tree_regions(20, seed=seed, repetitions=2) for seed in (1, 1, 2)
    )

    assert first.partitions == again.partitions
    assert first.partitions != other.partitions
    # Kept for ever: a published model may be its seed and its weights.
    half = first.partitions[first.root][0][0]
    assert list(half) == [0, 3, 5, 8, 9, 11, 13, 14, 16, 19]


def test_a_partition_that_comes_again_is_there_once() -> None:
    graph = families.random_binary_tree_regions(3, seed=0, repetitions=50)

    # Three ways to take one variable of three, and one for each pair.
    assert graph.num_partitions == 3 + 3


@given(st.integers(1, 8), st.integers(0, 3), st.integers(1, 3), st.integers(0, 99))
def test_rat_is_exact(length: int, depth: int, repetitions: int, seed: int) -> None:
    circuit = families.rat(
        length,
        2,
        depth=depth,
        repetitions=repetitions,
        num_sums=2,
        num_input_units=3,
        seed=seed,
    )

    assert_exact_family(circuit, seed=seed)


def test_rat_has_the_sizes_of_the_paper() -> None:
    depth, repetitions, sums, inputs = 2, 3, 4, 5
    circuit = families.rat(
        64,
        2,
        depth=depth,
        repetitions=repetitions,
        num_sums=sums,
        num_input_units=inputs,
        seed=0,
    )
    kinds = [type(node) for node in circuit.nodes]

    assert kinds.count(pc.KroneckerProduct) == repetitions * (2**depth - 1)
    assert kinds.count(pc.Input) == repetitions * 64
    assert circuit.parameter_shapes == {
        "inputs_2": (repetitions * 64 * inputs, 2),
        "sums_25": (repetitions * 2 * sums * inputs**2,),
        "root": (repetitions * sums**2,),
    }


# Linear trees.


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("product", ["elementwise", "kronecker"])
def test_linear_trees_are_exact(length: int, product: str) -> None:
    order = [(5 * i + 1) % length for i in range(length)]
    circuit = families.linear_tree(length, 2, 2, order=order, product=product, num_input_units=3)

    assert assert_exact_family(circuit).structured_decomposable


def test_a_linear_tree_of_all_pairs_is_a_tensor_train() -> None:
    """The product of one matrix a variable, computed apart from the circuit."""
    circuit = families.linear_tree(4, 3, 2, product="kronecker")
    parameters = random_weights(circuit)
    linear = {name: weights.exp().numpy() for name, weights in parameters.items()}
    # Inputs come depth first, hence in order; cores from the innermost region outwards.
    inputs = linear["inputs_2"].reshape(4, 3, 2)
    cores = linear["sums_9"].reshape(2, 3, 3, 3)
    value = np.einsum("kij,ix,jy->kxy", cores[0], inputs[2], inputs[3])
    value = np.einsum("kij,iw,jxy->kwxy", cores[1], inputs[1], value)
    value = np.einsum("ij,iv,jwxy->vwxy", linear["root"].reshape(3, 3), inputs[0], value)

    np.testing.assert_allclose(
        world_probabilities(circuit, parameters), value.flatten(), rtol=1e-12
    )


# Grids.


@pytest.mark.parametrize(
    "height, width, step", [(1, 1, 1), (1, 7, 1), (3, 3, 1), (2, 4, 2), (3, 4, 2), (3, 4, (2, 1))]
)
@pytest.mark.parametrize("product", ["elementwise", "kronecker"])
def test_poon_domingos_is_exact(
    height: int, width: int, step: int | tuple[int, ...], product: str
) -> None:
    circuit = families.poon_domingos(
        height, width, 2, 2, step=step, product=product, num_input_units=3
    )

    assert circuit.num_variables == height * width
    assert_exact_family(circuit)


@pytest.mark.parametrize("m, n, step", [(1, 1, 3), (2, 2, 1), (4, 6, 1), (7, 7, 4), (1, 9, 2)])
def test_poon_domingos_has_the_documented_numbers(m: int, n: int, step: int) -> None:
    graph = families.poon_domingos_regions(m * step, n * step, step=step)

    assert len(graph.regions) == m * n * (m + 1) * (n + 1) // 4
    assert graph.num_partitions == m * n * (m + 1) * (n + 1) * (m + n - 2) // 12


def test_steps_go_from_coarse_to_fine() -> None:
    graph = families.poon_domingos_regions(4, 4, step=(2, 1))
    square = Scope.of([0, 1, 4, 5])

    assert square in graph.partitions
    assert len(graph.partitions[square]) == 2
    # Nothing but squares of two is cut between multiples of two.
    assert not any(list(region) == [0, 1, 2] for region in graph.regions)
    assert len(graph.leaves) == 16


def test_cells_are_numbered_row_by_row() -> None:
    graph = families.poon_domingos_regions(2, 3, step=1)

    assert (Scope.of([0, 1, 2]), Scope.of([3, 4, 5])) in graph.partitions[graph.root]
    assert (Scope.of([0, 3]), Scope.of([1, 2, 4, 5])) in graph.partitions[graph.root]


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5), (2, 2), (3, 3), (4, 3), (2, 5)])
@pytest.mark.parametrize("splits", [2, 4])
@pytest.mark.parametrize("product", ["elementwise", "kronecker"])
def test_quad_trees_are_exact(height: int, width: int, splits: int, product: str) -> None:
    circuit = families.quad_tree(height, width, 2, 2, splits=splits, product=product)

    assert assert_exact_family(circuit).structured_decomposable


@pytest.mark.parametrize("height, width", [(1, 1), (1, 5), (2, 2), (3, 3), (4, 3)])
def test_quad_graphs_are_exact(height: int, width: int) -> None:
    structured = assert_exact_family(families.quad_graph(height, width, 2, 2))

    assert structured.structured_decomposable == (min(height, width) == 1)


def test_a_quad_tree_cuts_quadrants() -> None:
    graph = families.quad_tree_regions(4, 4)
    quadrants = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]

    assert [[list(part) for part in split] for split in graph.partitions[graph.root]] == [quadrants]
    assert len(graph.regions) == 16 + 4 + 1


@pytest.mark.parametrize("height, width", [(8, 8), (7, 5), (28, 28), (3, 16)])
def test_quad_numbers_are_as_documented(height: int, width: int) -> None:
    cells = height * width

    assert families.quad_tree_regions(height, width).num_partitions < cells
    assert families.quad_tree_regions(height, width, splits=2).num_partitions == cells - 1
    assert families.quad_graph_regions(height, width).num_partitions <= 2 * cells


def test_tiles_of_equal_size_are_one_layer() -> None:
    plan = pc.compile_circuit(families.quad_tree(16, 16, 3, 2))

    assert plan.num_folds == (256, 64, 64, 16, 16, 4, 4, 1, 1)


@pytest.mark.parametrize("family", ["poon_domingos", "quad_tree", "quad_graph"])
def test_variables_of_a_grid_may_differ_in_their_categories(family: str) -> None:
    options = {"step": 1} if family == "poon_domingos" else {}
    circuit = getattr(families, family)(2, 2, 2, [2, 3, 2, 5], **options)

    assert circuit.categories == (2, 3, 2, 5)
    assert_exact_family(circuit)


BAD_FAMILIES: dict[str, tuple[Callable[[], object], str]] = {
    "tree of none": (
        lambda: families.random_binary_tree(0, 2, 2, seed=0),
        "length must be .* found 0",
    ),
    "no repetition": (
        lambda: families.random_binary_tree(3, 2, 2, seed=0, repetitions=0),
        "repetitions must be .* found 0",
    ),
    "negative depth": (
        lambda: families.rat(3, 2, depth=-1, repetitions=1, num_sums=2, num_input_units=2, seed=0),
        "depth must be an integer >= 0; found -1",
    ),
    "variable left out": (
        lambda: families.linear_tree(3, 2, 2, order=[0, 1]),
        r"each of the variables 0 \.\. 2 once; found \[0, 1\]",
    ),
    "no height": (lambda: families.poon_domingos(0, 3, 2, 2, step=1), "height must be .* found 0"),
    "no width": (lambda: families.quad_tree(3, 0, 2, 2), "width must be .* found 0"),
    "no step": (lambda: families.poon_domingos(3, 3, 2, 2, step=0), "step must be .* found 0"),
    "empty steps": (
        lambda: families.poon_domingos(3, 3, 2, 2, step=()),
        "number of steps must be .* found 0",
    ),
    "three splits": (
        lambda: families.quad_tree(3, 3, 2, 2, splits=3),
        "splits must be 2 or 4; found 3",
    ),
    "unknown product": (
        lambda: families.quad_graph(3, 3, 2, 2, product="sideways"),
        "product must be .* found 'sideways'",
    ),
}


@pytest.mark.parametrize("kind", BAD_FAMILIES)
def test_bad_families_are_named(kind: str) -> None:
    make, message = BAD_FAMILIES[kind]

    with pytest.raises(StructureError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda sizes: pc.families.factorized(3, sizes),
        lambda sizes: pc.families.mixture(3, 2, sizes),
        lambda sizes: pc.families.binary_tree(3, 2, sizes),
        lambda sizes: pc.families.hidden_chow_liu([-1, 0, 1], 2, sizes),
    ],
)
def test_each_variable_may_have_its_own_number_of_categories(
    make: Callable[[Sequence[int]], pc.Circuit],
) -> None:
    sizes = (2, 4, 3)
    model = pc.CircuitModel(make(sizes), seed=0)
    assert model.circuit.categories == sizes
    worlds = torch.cartesian_prod(*map(torch.arange, sizes))
    total = model.log_likelihood(worlds).exp().sum()
    torch.testing.assert_close(total, torch.ones_like(total))
    with pytest.raises(pc.errors.StructureError, match="one for each of the 3 variables; found 2"):
        make(sizes[:2])
