"""Region graphs as circuits: every region a vector of units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pcircuits.structure.nodes import AnyNode, Input, KroneckerProduct, Part, Product, Sum
from pcircuits.structure.partitions import Partition
from pcircuits.structure.scope import Scope


class RegionAssembly:
    """Turns the regions of a graph into nodes, depth first; see `RegionGraph.to_circuit`.

    Args:
        regions: All regions, each after its parts; the last one is the root.
        partitions: Region -> its partitions.
        num_units: Number of units K of partitioned regions.
        input_units: Number of units I of leaves.
        categories: (L,) number of categories of every variable.
        product: "elementwise" or "kronecker".
    """

    def __init__(
        self,
        regions: Sequence[Scope],
        partitions: Mapping[Scope, tuple[Partition, ...]],
        num_units: int,
        input_units: int,
        categories: tuple[int, ...],
        product: str,
    ) -> None:
        self._regions = regions
        self._partitions = partitions
        self._num_units = num_units
        self._input_units = input_units
        self._categories = categories
        self._product = product
        self._nodes: dict[Scope, AnyNode] = {}
        self._lifted: dict[Scope, AnyNode] = {}
        self._used: Counter[str] = Counter()

    def root(self) -> AnyNode:
        """The node of the whole."""
        for place, region in enumerate(self._regions[:-1]):
            if region in self._partitions:
                self._nodes[region] = self._sum(f"region_{place}", self._products(region))
            else:
                self._nodes[region] = self._leaf(place, region)
        whole = self._regions[-1]
        if whole in self._partitions:
            return Sum(*self._products(whole), num_units=1, name="root")
        return Sum(self._leaf(len(self._nodes), whole), num_units=1, name="root")

    def _products(self, region: Scope) -> list[AnyNode]:
        products: list[AnyNode] = []
        for partition in self._partitions[region]:
            parts = [self._nodes[part] for part in partition]
            if self._product == "kronecker":
                products.append(KroneckerProduct(*parts))
                continue
            if len({part.num_units for part in parts}) > 1:
                parts = [self._lift(part) for part in partition]
            products.append(Product(*parts))
        return products

    def _sum(self, name: str, children: Sequence[AnyNode], parameter: str | None = None) -> Sum:
        size = sum(child.num_units for child in children)
        part = self._part(parameter or f"sums_{size}", self._num_units * size)
        return Sum(*children, num_units=self._num_units, parameter=part, name=name)

    def _lift(self, region: Scope) -> AnyNode:
        """The node of a region with K units, also if it is a leaf of I units."""
        node = self._nodes[region]
        if node.num_units == self._num_units:
            return node
        if region not in self._lifted:
            name = f"lift_{len(self._lifted)}"
            self._lifted[region] = self._sum(name, [node], parameter="lifts")
        return self._lifted[region]

    def _leaf(self, place: int, region: Scope) -> AnyNode:
        alone = len(region) == 1
        inputs = [
            self._input(variable, f"input_{variable}" if alone else f"input_{place}_{variable}")
            for variable in region
        ]
        return inputs[0] if alone else Product(*inputs, name=f"region_{place}")

    def _input(self, variable: int, name: str) -> Input:
        size = self._categories[variable]
        return Input(
            variable,
            num_units=self._input_units,
            num_categories=size,
            parameter=self._part(f"inputs_{size}", self._input_units),
            name=name,
        )

    def _part(self, parameter: str, size: int) -> Part:
        """The next numbers of a parameter, in the order in which a circuit lists its nodes."""
        start = self._used[parameter]
        self._used[parameter] += size
        return Part(parameter, start)
