"""Random binary trees of regions, and random tensorised circuits (RAT-SPN) made from them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_at_least, check_length
from pcircuits.structure.partitions import Partition
from pcircuits.structure.region_graph import RegionGraph
from pcircuits.structure.scope import Scope


def random_binary_tree(
    length: int,
    num_units: int,
    num_categories: int | Sequence[int],
    *,
    seed: int,
    repetitions: int = 1,
    product: str = "elementwise",
    num_input_units: int | None = None,
) -> Circuit:
    """Random balanced binary trees down to single variables, mixed at the root.

    Parameters and sizes: see `RegionGraph.to_circuit`. Trees share the inputs, and further regions
    with equal variables. Cost: O(R L K^2) operations a row for R trees with elementwise products,
    O(R L K^3) for all pairs; R (L - 1) products.

    Args:
        length: Number of variables L.
        num_units: Number of units K of every region.
        num_categories: Number of categories of all variables, or of each.
        seed: Decides the trees; the same in every version of Python.
        repetitions: Number of trees R.
        product: "elementwise", or "kronecker" for all pairs.
        num_input_units: Number of units of the inputs. Default: K.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range or `product` is neither.

    Examples:
        >>> circuit = pc.families.random_binary_tree(
        ...     8, num_units=2, num_categories=2, seed=0, repetitions=2
        ... )
        >>> pc.validate(circuit).structured_decomposable  # two trees, which no third one refines
        False
    """
    graph = random_binary_tree_regions(length, seed=seed, repetitions=repetitions)
    return graph.to_circuit(
        num_units, num_categories, product=product, num_input_units=num_input_units
    )


def rat(
    length: int,
    num_categories: int | Sequence[int],
    *,
    depth: int,
    repetitions: int,
    num_sums: int,
    num_input_units: int,
    seed: int,
) -> Circuit:
    """Random tensorised sum-product network (RAT-SPN).

    Each of R repetitions halves the variables at random, `depth` times; a leaf is I factorised
    distributions over its variables, a partition the product of all pairs of its parts' units, a
    region S sums over them, and the root one sum over the pairs of all repetitions.

    Parameters and node names: see `RegionGraph.to_circuit`; rows of I^2 weights above leaves, of
    S^2 above regions. Cost: O(R (L I + 2^D S^3)) operations a row for I = S.

    Reference: Peharz et al., "Random sum-product networks: a simple and effective approach to
    probabilistic deep learning", UAI 2019, section 3.

    Args:
        length: Number of variables L.
        num_categories: Number of categories of all variables, or of each.
        depth: How often variables are halved, D; regions of one variable are leaves earlier.
        repetitions: Number of random trees R.
        num_sums: Number of sums S of a region.
        num_input_units: Number of distributions I of a leaf.
        seed: Decides the trees; the same in every version of Python.

    Returns:
        The circuit.

    Raises:
        StructureError: If a size is out of range.

    Examples:
        >>> circuit = pc.families.rat(
        ...     16, num_categories=2, depth=2, repetitions=3, num_sums=4, num_input_units=4, seed=0
        ... )
        >>> model = pc.CircuitModel(circuit)
        >>> tuple(model.sample(5).shape)
        (5, 16)
    """
    check_at_least("depth", depth, 0)
    graph = random_binary_tree_regions(length, seed=seed, repetitions=repetitions, depth=depth)
    return graph.to_circuit(
        num_sums, num_categories, product="kronecker", num_input_units=num_input_units
    )


def random_binary_tree_regions(
    length: int, *, seed: int, repetitions: int = 1, depth: int | None = None
) -> RegionGraph:
    """The region graph of `random_binary_tree` and `rat`.

    Args:
        length: Number of variables L.
        seed: Decides the trees; the same in every version of Python.
        repetitions: Number of trees R. A partition that two trees share is there once.
        depth: How often variables are halved. Default: down to single variables.

    Returns:
        The region graph, whose leaves are single variables unless `depth` is given.

    Raises:
        StructureError: If a size is out of range.

    Examples:
        >>> graph = pc.families.random_binary_tree_regions(8, seed=0, depth=1)
        >>> [len(leaf) for leaf in graph.leaves]
        [4, 4]
    """
    check_length(length)
    check_at_least("repetitions", repetitions, 1)
    levels = length if depth is None else depth
    check_at_least("depth", levels, 0)
    generator = random.Random(seed)
    # Dictionaries keep the order and drop a partition that comes again.
    found: dict[Scope, dict[frozenset[Scope], Partition]] = {}
    for _ in range(repetitions):
        regions = [list(range(length))]
        for _ in range(levels):
            regions = _halve_all(regions, generator, found)
    partitions = {region: tuple(splits.values()) for region, splits in found.items()}
    return RegionGraph(Scope.of(range(length)), partitions)


def _halve_all(
    regions: list[list[int]],
    generator: random.Random,
    found: dict[Scope, dict[frozenset[Scope], Partition]],
) -> list[list[int]]:
    """Halves every region of several variables, records the partitions and returns the halves."""
    halves: list[list[int]] = []
    for region in regions:
        if len(region) == 1:
            continue
        # Of the generator's methods only `random` is the same in every version of Python.
        shuffled = sorted(region, key=lambda _: generator.random())
        first, second = shuffled[: len(region) // 2], shuffled[len(region) // 2 :]
        split = (Scope.of(first), Scope.of(second))
        found.setdefault(Scope.of(region), {})[frozenset(split)] = split
        halves += [first, second]
    return halves
