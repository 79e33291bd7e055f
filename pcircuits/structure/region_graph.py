"""Region graphs: which sets of variables are split, and into what, before any size is chosen.

A region is a set of variables, a partition splits a region into disjoint smaller ones (Peharz et
al., "Random sum-product networks", UAI 2019, section 3). `RegionGraph.to_circuit` fills one with
vectors of units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from pcircuits.errors import StructureError
from pcircuits.structure.categories import categories_of
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.partitions import (
    Partition,
    RegionLike,
    as_region,
    check_partitions,
    first_region,
)
from pcircuits.structure.region_assembly import RegionAssembly
from pcircuits.structure.scope import Scope


@dataclass(frozen=True, eq=False, repr=False)
class RegionGraph:
    """An immutable region graph.

    Regions with the same variables are one region. A region without partitions is a leaf; in a
    circuit the variables of a leaf are independent given its unit.

    Args:
        root: The region of all variables 0 .. L-1.
        partitions: Region -> its partitions, each of at least two parts.

    Raises:
        StructureError: If a partition's parts are empty, overlap, or are not all of its region, if
            a region is a part of itself, if a partition is given twice, if variables are missing,
            or if a region is never used.

    Examples:
        >>> graph = pc.RegionGraph.builder().partition([0, 1, 2], [0, 1], 2).leaf([0, 1]).build()
        >>> graph.num_variables, graph.num_partitions
        (3, 1)
        >>> [sorted(leaf) for leaf in graph.leaves]
        [[0, 1], [2]]
    """

    root: Scope
    partitions: Mapping[Scope, tuple[Partition, ...]]

    def __post_init__(self) -> None:
        given = {
            region: tuple(map(tuple, partitions))
            for region, partitions in dict(self.partitions).items()
        }
        object.__setattr__(self, "partitions", MappingProxyType(given))
        missing = Scope((1 << self.num_variables) - 1) ^ self.root
        if missing or not self.root:
            raise StructureError(
                f"the root region must be all variables 0, 1, 2, ... without a gap; {self.root} "
                f"lacks {missing or 'all of them'}"
            )
        for region, partitions in given.items():
            check_partitions(region, partitions)
        unused = given.keys() - set(self.regions)
        if unused:
            raise StructureError(
                f"region {first_region(unused)} is partitioned but never used: it is not the root "
                f"{self.root} and no partition below the root has it as a part"
            )

    @staticmethod
    def builder() -> RegionGraphBuilder:
        """Starts an empty region graph, to be filled partition by partition."""
        return RegionGraphBuilder()

    @property
    def num_variables(self) -> int:
        """Number of variables L."""
        return self.root.bits.bit_length()

    @cached_property
    def regions(self) -> tuple[Scope, ...]:
        """All regions depth first, each after its parts; the last one is the root."""
        # A dictionary as an ordered set; without recursion, as chains of regions may be long.
        done: dict[Scope, None] = {}
        stack = [(self.root, False)]
        while stack:
            region, expanded = stack.pop()
            if region in done:
                continue
            if expanded or region not in self.partitions:
                done[region] = None
                continue
            stack.append((region, True))
            parts = [part for partition in self.partitions[region] for part in partition]
            stack.extend((part, False) for part in reversed(parts))
        return tuple(done)

    @property
    def leaves(self) -> tuple[Scope, ...]:
        """The regions that no partition splits, in the order of `regions`."""
        return tuple(region for region in self.regions if region not in self.partitions)

    @property
    def num_partitions(self) -> int:
        """Number of partitions of all regions."""
        return sum(map(len, self.partitions.values()))

    def to_circuit(
        self,
        num_units: int,
        num_categories: int | Sequence[int],
        *,
        product: str = "elementwise",
        num_input_units: int | None = None,
    ) -> Circuit:
        """Fills the region graph with vectors of units.

        A leaf becomes an input of I units, or the elementwise product of one input for each of its
        variables. A partition becomes a product of its parts: unit by unit, or of all combinations
        of units. A partitioned region becomes one dense sum over all units of all its P products;
        this holds the same functions as a sum for each product and a mixing sum above them, with
        no more weights and a layer less. Where a leaf meets a partitioned region in one elementwise
        product, a further sum brings its I units to K.

        Parameters are few however many regions there are, and nodes hold parts of them: `inputs_V`
        (R, V) with all distributions over V categories, `sums_C` (R C,) with all distributions over
        C units, where C is P K for elementwise products and the sum of K^n over the partitions into
        n parts for all combinations, `lifts` (R I,) of the further sums, and `root` with one row.
        Nodes are named `input_V` (leaf of one variable V), `input_R_V` (of variable V in leaf R),
        `region_R` and `root`, where region R is `regions[R]`.

        Cost: O(K^2) operations a partition for elementwise products, O(K^(n+1)) for all
        combinations, O(I) a variable of a leaf.

        Args:
            num_units: Number of units K of partitioned regions; the root has one.
            num_categories: Number of categories of all variables, or of each.
            product: "elementwise", or "kronecker" for all combinations.
            num_input_units: Number of units I of leaves. Default: K.

        Returns:
            The circuit.

        Raises:
            StructureError: If `product` is neither, or sizes are not positive or not one for each
                variable.

        Examples:
            >>> builder = pc.RegionGraph.builder().partition([0, 1, 2], [0, 1], 2)
            >>> graph = builder.partition([0, 1], 0, 1).build()
            >>> elementwise = graph.to_circuit(num_units=4, num_categories=2)
            >>> pairs = graph.to_circuit(num_units=4, num_categories=2, product="kronecker")
            >>> [pc.compile_circuit(c).cost().num_parameters for c in (elementwise, pairs)]
            [44, 104]
        """
        if product not in ("elementwise", "kronecker"):
            raise StructureError(f"product must be 'elementwise' or 'kronecker', found {product!r}")
        input_units = num_units if num_input_units is None else num_input_units
        categories = categories_of(num_categories, self.num_variables)
        assembly = RegionAssembly(
            self.regions, self.partitions, num_units, input_units, categories, product
        )
        return Circuit(assembly.root())

    def __repr__(self) -> str:
        return (
            f"RegionGraph({self.num_variables} variables, {len(self.regions)} regions, "
            f"{self.num_partitions} partitions)"
        )


class RegionGraphBuilder:
    """Collects the partitions of a region graph; every call is checked and returns the builder.

    A region is given as its variables, as one variable, or as a `Scope`:

        graph = (
            RegionGraph.builder()
            .partition([0, 1, 2, 3], [0, 1], [2, 3])
            .partition([0, 1], 0, 1)
            .leaf([2, 3])
            .build()
        )
        circuit = graph.to_circuit(num_units=8, num_categories=2)

    Examples:
        >>> builder = pc.RegionGraph.builder()
        >>> builder = builder.partition([0, 1, 2, 3], [0, 1], [2, 3])
        >>> builder = builder.partition([0, 1, 2, 3], [0, 2], [1, 3])  # in a second way
        >>> graph = builder.leaf([0, 1]).leaf([2, 3]).leaf([0, 2]).leaf([1, 3]).build()
        >>> circuit = graph.to_circuit(num_units=8, num_categories=2)
        >>> pc.validate(circuit).structured_decomposable
        False
    """

    def __init__(self) -> None:
        self._partitions: dict[Scope, tuple[Partition, ...]] = {}
        self._leaves: set[Scope] = set()

    def partition(self, region: RegionLike, *parts: RegionLike) -> RegionGraphBuilder:
        """Splits a region; a region may be split in several ways, which are then mixed.

        Args:
            region: The region.
            *parts: At least two disjoint regions that together are the region.

        Returns:
            This builder.

        Raises:
            StructureError: If the parts do not split the region, it was declared a leaf, or the
                same partition was given before.
        """
        whole, split = as_region(region), tuple(as_region(part) for part in parts)
        if whole in self._leaves:
            raise StructureError(f"region {whole} was declared a leaf and cannot be partitioned")
        partitions = (*self._partitions.get(whole, ()), split)
        check_partitions(whole, partitions)
        self._partitions[whole] = partitions
        return self

    def leaf(self, region: RegionLike) -> RegionGraphBuilder:
        """Declares a region of several variables a leaf: given its unit they are independent.

        Args:
            region: The region. One of a single variable is a leaf without being declared.

        Returns:
            This builder.

        Raises:
            StructureError: If the region is empty or has been partitioned.
        """
        leaf = as_region(region)
        if not leaf:
            raise StructureError("a leaf needs at least one variable; found an empty region")
        if leaf in self._partitions:
            raise StructureError(f"region {leaf} has been partitioned and cannot be a leaf")
        self._leaves.add(leaf)
        return self

    def build(self) -> RegionGraph:
        """Finishes the region graph; its root is the region of all variables that were named.

        Returns:
            The region graph.

        Raises:
            StructureError: If no region holds all variables, variables are missing, a region of
                several variables is neither partitioned nor a leaf, or a region is never used.
        """
        root = Scope()
        for region in (*self._partitions, *self._leaves):
            root = root | region
        if root not in self._partitions and root not in self._leaves:
            raise StructureError(
                f"the region {root} of all variables must be partitioned or declared a leaf, and "
                f"is not"
            )
        graph = RegionGraph(root, self._partitions)
        for region in graph.leaves:
            if len(region) > 1 and region not in self._leaves:
                raise StructureError(
                    f"region {region} is used but neither partitioned nor declared a leaf"
                )
        unused = self._leaves - set(graph.leaves)
        if unused:
            raise StructureError(f"leaf {first_region(unused)} is never used: no partition has it")
        return graph
