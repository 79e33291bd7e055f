"""Which nodes become one layer, where it reads from, and where its weights are."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence

import numpy as np
import pytest

import pcircuits as pc
from pcircuits.compile import compiler, plan
from pcircuits.compile.folding import operand
from pcircuits.compile.plan import (
    InputLayer,
    MixingLayer,
    Operand,
    SegmentLayer,
    SegmentSumLayer,
    SumLayer,
    WeightReference,
    operations,
)
from pcircuits.errors import CompileError

AnyNode = pc.Input | pc.Product | pc.KroneckerProduct | pc.Sum


def leaf(units: int = 1, variable: int = 0, categories: int = 2, **settings: object) -> pc.Input:
    return pc.Input(variable, num_units=units, num_categories=categories, **settings)


def indicator(categories: int, *supports: int, variable: int = 0) -> pc.Input:
    own = tuple((category,) for category in supports)
    return leaf(len(supports), variable, categories, supports=own)


def compiled(*nodes: AnyNode) -> pc.Plan:
    """A plan with these nodes of equal scope one below the root, which is a sum of all."""
    return pc.compile_circuit(pc.Circuit(pc.Sum(*nodes, num_units=1)))


def kinds(*nodes: AnyNode) -> list[tuple[str, int]]:
    """Kinds and numbers of folds of all layers of such a plan but the root's."""
    made = compiled(*nodes)
    return [
        (type(layer).__name__.removesuffix("Layer"), folds)
        for layer, folds in zip(made.layers, made.num_folds, strict=True)
    ][:-1]


@pytest.mark.parametrize(
    ("inputs", "layers"),
    [
        ([leaf(), leaf()], [2]),
        ([leaf(2), leaf(2), leaf(3)], [2, 1]),
        ([leaf(), indicator(2, 0), leaf()], [2, 1]),
        ([leaf(parameter="x"), leaf(), leaf(parameter="x")], [2, 1]),
        ([leaf(parameter="x"), leaf(parameter="y")], [2]),
        ([leaf(parameter=pc.Part("x", 0)), leaf(parameter=pc.Part("x", 1))], [2]),
        ([leaf(parameter=pc.Part("x", 0)), leaf(parameter=pc.Part("y", 0))], [1, 1]),
        ([leaf(parameter=pc.Part("x", 0)), leaf(parameter="y")], [1, 1]),
        ([indicator(16, 0), indicator(16, 1), indicator(16, 0)], [3]),
        ([indicator(17, 0), indicator(17, 1), indicator(17, 0)], [2, 1]),
        ([indicator(16, 0, 1), indicator(16, 1, 0), indicator(16, 0, 1)], [2, 1]),
    ],
)
def test_inputs_of_one_size_fold(inputs: list[pc.Input], layers: list[int]) -> None:
    assert kinds(*inputs) == [("Input", folds) for folds in layers]


def test_inputs_of_unequal_categories_do_not_fold() -> None:
    product = pc.Product(leaf(categories=3), leaf(variable=1), leaf(variable=2))

    assert kinds(product) == [("Input", 1), ("Input", 2), ("Product", 1)]


def test_sums_fold_where_their_units_are_mixed_alike() -> None:
    x, y, z = leaf(), leaf(), leaf()
    a, b, c = leaf(2), leaf(2), leaf(2)

    def mixed(*children: AnyNode, units: int = 2, **settings: object) -> pc.Sum:
        return pc.Sum(*children, num_units=units, mixing=True, **settings)

    def dense(*children: AnyNode, units: int = 1, **settings: object) -> pc.Sum:
        return pc.Sum(*children, num_units=units, **settings)

    # Of single units over single ones all are the same kind, with any number of children.
    assert kinds(mixed(x, y, units=1), dense(z, x))[1:] == [("Sum", 2)]
    assert kinds(mixed(x, y, units=1), dense(x, y, z))[1:] == [("SegmentSum", 2)]
    assert kinds(mixed(a, b), mixed(a, b, c))[1:] == [("SegmentSum", 2)]
    assert kinds(mixed(a, b), mixed(b, c))[1:] == [("Mixing", 2)]
    assert kinds(mixed(x, a), mixed(x, b))[2:] == [("Mixing", 2)]
    assert kinds(mixed(x, a), mixed(a, x))[2:] == [("Mixing", 1), ("Mixing", 1)]
    assert kinds(mixed(x, a), mixed(a, b))[2:] == [("Mixing", 1), ("Mixing", 1)]
    assert kinds(dense(a), dense(a, b))[1:] == [("Sum", 1), ("Sum", 1)]
    assert kinds(dense(a, units=2), mixed(b))[1:] == [("Sum", 1), ("Mixing", 1)]
    assert kinds(dense(a, units=2), dense(b, units=2), dense(b, units=3))[1:] == [
        ("Sum", 2),
        ("Sum", 1),
    ]
    assert kinds(dense(x, weighted=False), dense(x))[1:] == [("Sum", 1), ("Sum", 1)]
    assert kinds(mixed(a, weighted=False), mixed(a))[1:] == [("Mixing", 1), ("Mixing", 1)]
    tied = [dense(x, y, parameter="w"), dense(y, x, parameter="w")]
    assert kinds(*tied, dense(x, y))[1:] == [("Sum", 2), ("Sum", 1)]
    parts = [dense(*own, parameter=pc.Part("w", at)) for own, at in (((x, y), 0), ((z, x, y), 2))]
    assert kinds(*parts)[1:] == [("SegmentSum", 2)]


def test_products_fold_by_their_units() -> None:
    def pair(first: int, second: int, kind: type = pc.KroneckerProduct) -> AnyNode:
        return kind(leaf(first), leaf(second, variable=1))

    more = pc.Product(leaf(), leaf(variable=1), leaf(variable=2))
    two = pc.Product(pair(1, 1, pc.Product), leaf(variable=2))
    assert kinds(more)[1:] == [("Product", 1)]
    assert kinds(two, pc.Product(leaf(variable=0), leaf(variable=1), two.children[1]))[1:] == [
        ("SegmentProduct", 2),
        ("Product", 1),
    ]
    assert kinds(pair(2, 2, pc.Product), pair(3, 3, pc.Product))[2:] == [("Product", 1)] * 2
    assert kinds(pair(2, 1), pair(2, 1))[2:] == [("Kronecker", 2)]
    assert kinds(pair(2, 1), pair(1, 2))[2:] == [("Kronecker", 1), ("Kronecker", 1)]
    assert kinds(pair(2, 2), pair(2, 2, pc.Product))[1:] == [("Kronecker", 1), ("Product", 1)]


def read(found: Operand) -> list[tuple[int, object, int]]:
    return [
        (
            source.layer,
            getattr(source.index, "tolist", lambda own=source.index: own)(),
            source.num_folds,
        )
        for source in found.sources
    ]


@pytest.mark.parametrize(
    ("folds", "index"),
    [
        ([4], slice(4, 5, 1)),
        ([0, 1, 2], slice(0, 3, 1)),
        ([1, 3, 5], slice(1, 6, 2)),
        ([3, 4], slice(3, 5, 1)),
        ([0, 1, 3], [0, 1, 3]),
        ([0, 2, 3], [0, 2, 3]),
        ([2, 1, 0], [2, 1, 0]),
        ([1, 1], [1, 1]),
        ([1, 1, 2], [1, 1, 2]),
    ],
)
def test_evenly_spaced_folds_are_a_slice(folds: list[int], index: object) -> None:
    found = operand([(5, fold) for fold in folds])

    assert read(found) == [(5, index, len(folds))]
    assert found.order is None
    assert found.sources[0].folds().tolist() == folds


@pytest.mark.parametrize(
    ("places", "sources", "order"),
    [
        ([(0, 2), (3, 1)], [(0, slice(2, 3, 1), 1), (3, slice(1, 2, 1), 1)], None),
        ([(3, 1), (0, 2)], [(0, slice(2, 3, 1), 1), (3, slice(1, 2, 1), 1)], [1, 0]),
        (
            [(1, 5), (2, 7), (0, 6), (1, 3)],
            [(0, slice(6, 7, 1), 1), (1, [5, 3], 2), (2, slice(7, 8, 1), 1)],
            [1, 3, 0, 2],
        ),
    ],
)
def test_an_operand_reads_each_layer_once(
    places: list[tuple[int, int]], sources: list[object], order: list[int] | None
) -> None:
    found = operand(places)

    assert read(found) == sources
    assert (None if found.order is None else found.order.tolist()) == order


def test_parts_are_a_slice_where_they_lie_one_after_the_other() -> None:
    def weights(*starts: int, layer: int = 1) -> WeightReference:
        x, y = leaf(2, parameter="x"), leaf(2, parameter="x")
        sums = [pc.Sum(x, y, num_units=2, parameter=pc.Part("w", start)) for start in starts]
        return compiled(*sums).layers[layer].weights

    assert weights(0, 8).names == ("w",)
    assert weights(0, 8).positions == slice(0, 16)
    assert weights(0, 8).shape == (2, 2, 4)
    # Nodes of a layer are sorted by what they read, and stay in order where that is the same.
    assert weights(8, 0).positions.tolist() == [*range(8, 16), *range(8)]
    assert weights(0, 0).positions.tolist() == [*range(8), *range(8)]
    with_rows = compiled(*[leaf(2, parameter=pc.Part("x", start)) for start in (2, 0, 4)])
    assert with_rows.layers[0].weights.positions.tolist() == [2, 3, 0, 1, 4, 5]
    assert with_rows.layers[0].weights.shape == (3, 2)
    sizes = {0: 2, 2: 3, 5: 2}
    gap = compiled(*[leaf(size, parameter=pc.Part("x", start)) for start, size in sizes.items()])
    assert gap.layers[0].weights.positions.tolist() == [0, 1, 5, 6]


def test_weights_of_edges_are_taken_column_by_column() -> None:
    a, b, c = (leaf(2, name=name) for name in "abc")

    def edges(*settings: dict[str, object]) -> WeightReference:
        first, second = settings
        layer = compiled(
            pc.Sum(a, b, num_units=2, mixing=True, name="two", **first),
            pc.Sum(a, b, c, num_units=2, mixing=True, name="three", **second),
        ).layers[1]
        assert isinstance(layer, SegmentSumLayer)
        assert layer.nodes.tolist() == [0, 0, 1, 1, 1]
        assert layer.ranks.tolist() == [0, 1, 0, 1, 2]
        return layer.weights

    own = edges({}, {})
    rows = [[0, 2], [1, 3], [4, 7], [5, 8], [6, 9]]
    assert own.names == ("two", "three")
    assert np.reshape(own.positions, own.shape).tolist() == rows
    parts = edges({"parameter": pc.Part("w", 6)}, {"parameter": pc.Part("w", 0)})
    assert parts.names == ("w",)
    assert np.reshape(parts.positions, parts.shape).tolist() == [
        [6, 8],
        [7, 9],
        [0, 3],
        [1, 4],
        [2, 5],
    ]
    plain = edges({"weighted": False}, {"weighted": False})
    assert plain.names == ()
    assert plain.constant.tolist() == [[0.0, 0.0]] * 5


def test_equal_weights_are_one_reference() -> None:
    def chain(**settings: object) -> list[WeightReference]:
        node: AnyNode = leaf(2)
        for _ in range(3):
            node = pc.Sum(node, num_units=2, **settings)
        return [layer.weights for layer in compiled(node).layers if isinstance(layer, SumLayer)]

    tied, parts, plain = (
        chain(**own)
        for own in ({"parameter": "w"}, {"parameter": pc.Part("w", 0)}, {"weighted": False})
    )
    for own in (tied, parts, plain):
        assert len(set(own[:3])) == 1
        assert own[3] is not own[0]
    assert len(set(chain())) == 4
    assert plain[0].constant.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


def test_tables_of_indicators_are_shared_where_they_are_equal() -> None:
    def table(*inputs: pc.Input) -> list[object]:
        return compiled(*inputs).layers[0].weights.constant.tolist()

    off = -np.inf
    assert table(indicator(3, 2, 0), indicator(3, 2, 0)) == [[[off, off, 0.0], [0.0, off, off]]]
    assert table(indicator(2, 0), indicator(2, 1)) == [[[0.0, off]], [[off, 0.0]]]
    both = leaf(categories=3, supports=((0, 2),))
    assert table(both, indicator(3, 1), both) == [[[0.0, off, 0.0]], [[off, 0.0, off]]]
    chain = compiled(
        pc.Product(indicator(20, 3), indicator(20, 3, variable=1), indicator(20, 4, variable=2))
    )
    shapes = [
        layer.weights.constant.shape for layer in chain.layers if isinstance(layer, InputLayer)
    ]
    assert shapes == [(1, 1, 20), (1, 1, 20)]


def test_constant_tables_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = [indicator(20, 3), indicator(20, 4), indicator(20, 3)]  # two tables
    sums = [pc.Sum(*inputs[:n], num_units=1, weighted=False) for n in (1, 2)]  # three edges
    for most, enough in ((43, True), (42, False)):
        monkeypatch.setattr(compiler, "_MOST_CONSTANTS", most)
        if enough:
            compiled(*inputs, *sums)
        else:
            expected = "need tables of 43 numbers; expected at most 42"
            with pytest.raises(CompileError, match=expected):
                compiled(*inputs, *sums)


def test_rows_of_parameters_are_told_by_length_or_one_by_one() -> None:
    x = leaf()

    def rows(*lengths: int) -> int | np.ndarray:
        starts = np.cumsum((0, *lengths)).tolist()
        sums = [
            pc.Sum(*[x] * length, num_units=1, parameter=pc.Part("w", start))
            for length, start in zip(lengths, starts, strict=False)
        ]
        return compiled(*sums).parameter_rows["w"]

    assert rows(3, 3) == 3
    assert rows(2, 1, 3).tolist() == [0, 0, 1, 2, 2, 2]
    whole = compiled(pc.Sum(leaf(2), leaf(2), num_units=3, name="w")).parameter_rows
    assert whole["w"] == 4


@pytest.mark.parametrize(
    ("runs", "size"), [((4,), 4), ((2, 2), 2), ((1, 3), 1), ((3, 3), 3), ((4, 2), 2)]
)
def test_mixtures_are_grouped_by_equal_children(runs: Sequence[int], size: int) -> None:
    sums = []
    for run in runs:
        pair = leaf(2), leaf(2)
        sums += [pc.Sum(*pair, num_units=2, mixing=True) for _ in range(run)]
    (layer,) = [own for own in compiled(*sums).layers if isinstance(own, MixingLayer)]

    assert layer.group_size == size
    for whole, grouped in zip(layer.operands, layer.group_operands, strict=True):
        folds = whole.sources[0].folds()
        assert grouped.sources[0].folds().tolist() == folds[::size].tolist()


def test_nodes_are_ordered_by_what_they_read() -> None:
    x, y, z = leaf(name="x"), leaf(name="y"), leaf(name="z")
    made = compiled(*[pc.Sum(own, num_units=1, name=f"of_{own.name}") for own in (z, x, y)])

    folds = [made.places[f"of_{name}"][1] for name in "xyz"]
    assert folds == [made.places[name][1] for name in "xyz"]
    assert read(made.layers[1].operands[0]) == [(0, slice(0, 3, 1), 3)]


def test_operations_are_counted_by_kind_of_layer() -> None:
    a, b, c = leaf(2, categories=3), leaf(2, categories=3), leaf(2, categories=3)
    mixed = pc.Sum(a, b, num_units=2, mixing=True)
    more = pc.Sum(a, b, c, num_units=2, mixing=True)
    other = leaf(3, variable=1, categories=5)
    left = pc.KroneckerProduct(pc.Sum(a, b, num_units=4), other)
    right = pc.KroneckerProduct(pc.Sum(mixed, more, num_units=4), other)
    made = compiled(left, right)

    found = [
        (type(layer).__name__, *(operations(layer, soft=soft) for soft in (False, True)))
        for layer in made.layers
    ]

    assert sorted(found) == [
        ("InputLayer", 3, 15),  # 3 units, of 5 categories each
        ("InputLayer", 6, 18),  # 3 nodes of 2 units, of 3 categories each
        ("KroneckerLayer", 24, 24),  # 4 x 3 units, two factors
        ("KroneckerLayer", 24, 24),
        ("SegmentSumLayer", 10, 10),  # 5 edges of 2 units
        ("SumLayer", 16, 16),  # 4 units over 2 + 2
        ("SumLayer", 16, 16),
        ("SumLayer", 24, 24),  # the root over two pairs of 12 units
    ]
    cost = made.cost()
    assert cost.operations == 123 and cost.soft_operations == 147
    assert cost.num_units == 6 + 3 + 4 + 2 * 2 + 4 + 2 * 12 + 1
    assert cost.value_bytes == 4 * cost.num_units
    assert cost.num_layers == 8
    assert made.num_edges == 2 + 5 + 2 + 2 + 2 + 2


def test_a_plan_is_printed_as_a_table() -> None:
    made = pc.compile_circuit(pc.families.hmm(3, num_states=20, num_categories=70))

    assert str(made).splitlines() == [
        "Plan of Circuit(3 variables, 70 categories, 8 nodes, 3 parameters)",
        "    0  InputLayer               3 folds x     20 units              60 operations",
        "    1  SumLayer                 1 folds x     20 units             400 operations",
        "    2  ProductLayer             1 folds x     20 units              40 operations",
        "    3  SumLayer                 1 folds x     20 units             400 operations",
        "    4  ProductLayer             1 folds x     20 units              40 operations",
        "    5  SumLayer                 1 folds x      1 units              20 operations",
        "total: 6 layers, 141 units, 1,820 parameters (7,280 bytes), 960 operations a row "
        "(5,100 with soft evidence), 564 bytes of values a row",
    ]


@pytest.mark.parametrize("sums", [21, 22, 23, 40])
def test_the_middle_of_more_than_24_layers_is_left_out(sums: int) -> None:
    node: AnyNode = leaf()
    for _ in range(sums):
        node = pc.Sum(node, num_units=1)
    made = compiled(node)
    rows = str(made).splitlines()[1:-1]
    numbers = [int(row.split()[0]) for row in rows if "folds" in row]

    layers = sums + 2
    assert len(made.layers) == layers
    if layers <= 24:
        assert numbers == list(range(layers)) and len(rows) == layers
    else:
        assert numbers == [*range(12), *range(layers - 12, layers)]
        assert rows[12] == f"  ...  {layers - 24} more layers"


def test_plans_go_to_other_processes_as_their_circuits() -> None:
    made = compiled(pc.Sum(leaf(2), leaf(2), num_units=3))
    again = pickle.loads(pickle.dumps(made))

    assert str(again) == str(made)
    assert dict(again.places) == dict(made.places)


def test_layers_and_references_compare_by_identity() -> None:
    """They hold arrays, and are keys of what is made of them once."""

    def parts() -> list[object]:
        x, y = leaf(2), leaf(2, variable=1)
        sums = [pc.Sum(*[x] * n, num_units=2, mixing=True) for n in (1, 2)]
        products = [pc.Product(sums[0], y), pc.Product(sums[1], leaf(2, 1), leaf(2, 2))]
        made = compiled(pc.Product(products[0], leaf(2, 2)), products[1])
        segments = [layer for layer in made.layers if isinstance(layer, SegmentLayer)]
        assert len(segments) == 2
        return [made, *segments, segments[0].weights]

    for one, other in zip(parts(), parts(), strict=True):
        assert one == one and one != other
        assert len({one, other}) == 2


def test_all_that_a_plan_is_made_of_is_frozen() -> None:
    """What is remembered of a plan holds for as long as it lives."""
    made = [own for own in vars(plan).values() if getattr(own, "__module__", "") == plan.__name__]
    found = [own for own in made if dataclasses.is_dataclass(own)]

    assert len(found) == 12
    whole = compiled(leaf(), leaf())
    assert {type(part) for part in (whole, whole.cost(), *whole.layers)} <= set(found)
    for own in found:
        blank = object.__new__(own)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(blank, dataclasses.fields(own)[0].name, None)


def test_a_layer_of_inputs_tells_whether_it_holds_all_variables_in_order() -> None:
    def ordered(*variables: int) -> bool:
        inputs = [leaf(variable=variable) for variable in variables]
        layer = pc.compile_circuit(pc.Circuit(pc.Product(*inputs))).layers[0]
        assert isinstance(layer, InputLayer)
        return layer.in_order

    assert ordered(0, 1, 2)
    assert not ordered(0, 2, 1)
