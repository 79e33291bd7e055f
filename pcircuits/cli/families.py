"""Families that `pcircuits fit` can build: a new one is one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pcircuits.errors import StructureError
from pcircuits.learning.chow_liu import chow_liu, chow_liu_tree
from pcircuits.learning.cutset import cutset_network
from pcircuits.learning.hidden_chow_liu import hclt_start
from pcircuits.learning.learn_spn import learn_spn
from pcircuits.module import CircuitModel
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure import families
from pcircuits.structure.circuit import Circuit

DEFAULTS = {"units": 16, "repetitions": 4, "depth": 2, "order": 2, "blocks": 4, "rank": 2}
"""Sizes that are taken where none is asked for."""


@dataclass(frozen=True, eq=False)
class Request:
    """What a model is built from.

    Attributes:
        values: (N, L) training values.
        observed: (N, L) bool, or None where all are.
        categories: Number of categories of every variable.
        sizes: Name of a size -> number; all that the family takes.
        shape: Height and width of images, or None.
        seed: Seed of random structures and parameters.
    """

    values: Tensor
    observed: Tensor | None
    categories: list[int]
    sizes: dict[str, int]
    shape: tuple[int, int] | None
    seed: int

    @property
    def length(self) -> int:
        """Number of variables L."""
        return len(self.categories)

    @property
    def largest(self) -> int:
        """Largest number of categories V."""
        return max(self.categories)

    @property
    def units(self) -> int:
        """Units of a node, states of an HMM, components of a mixture."""
        return self.sizes["units"]

    @property
    def image(self) -> tuple[int, int]:
        """Height and width of images.

        Raises:
            StructureError: If they are not given or do not fit.
        """
        if self.shape is None or self.shape[0] * self.shape[1] != self.length:
            raise StructureError(
                f"the family needs --shape HEIGHT WIDTH with {self.length} pixels in all; "
                f"found {self.shape}"
            )
        return self.shape


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        about: What it is, for the help text.
        sizes: Names of the sizes it takes.
        build: Makes the model; its parameters are where learning starts.
    """

    about: str
    sizes: tuple[str, ...]
    build: Callable[[Request], CircuitModel]


def build_model(
    family: str,
    values: Tensor,
    observed: Tensor | None,
    categories: list[int],
    *,
    sizes: dict[str, int],
    shape: tuple[int, int] | None,
    seed: int,
) -> CircuitModel:
    """Builds a model of a family for data.

    Args:
        family: Its name.
        values: (N, L) training values.
        observed: (N, L) bool, or None where all are.
        categories: Number of categories of every variable.
        sizes: Name of a size -> number, those that are asked for.
        shape: Height and width of images, or None.
        seed: Seed of random structures and parameters.

    Raises:
        StructureError: If there is no such family, it does not take one of the sizes, or a size
            is wrong.
    """
    if family not in FAMILIES:
        raise StructureError(f"expected a family among {', '.join(FAMILIES)}; found {family!r}")
    known = FAMILIES[family]
    given = [*sizes, *(["shape"] if shape is not None else [])]
    for name in given:
        if name not in known.sizes:
            takes = ", ".join(f"--{size}" for size in known.sizes) or "none"
            raise StructureError(f"family {family!r} has no --{name}; the sizes it takes: {takes}")
    filled = {name: DEFAULTS[name] for name in known.sizes if name in DEFAULTS} | sizes
    return known.build(Request(values, observed, categories, filled, shape, seed))


def _started(build: Callable[[Request], Circuit]) -> Callable[[Request], CircuitModel]:
    """A family whose parameters start at random."""
    return lambda request: CircuitModel(build(request), seed=request.seed)


def _hidden_chow_liu(request: Request) -> CircuitModel:
    tree = chow_liu_tree(
        request.values, observed=request.observed, num_categories=request.categories
    )
    circuit = families.hidden_chow_liu(tree.parents, request.units, tree.num_categories)
    model = CircuitModel(circuit, seed=request.seed)
    if request.observed is None:
        start = hclt_start(
            request.values,
            tree.parents,
            request.units,
            num_categories=request.categories,
            seed=request.seed,
        )
        model.set_probabilities(start)
    return model


def _learned(learn: Callable[[Request], WeightedCircuit]) -> Callable[[Request], CircuitModel]:
    """A family whose structure and first parameters come from complete data."""

    def build(request: Request) -> CircuitModel:
        if request.observed is not None:
            raise StructureError("the family needs data without missing values")
        return CircuitModel.of(learn(request)).float()

    return build


FAMILIES: dict[str, Family] = {
    "factorized": Family(
        "independent variables",
        (),
        _started(lambda r: families.factorized(r.length, r.categories)),
    ),
    "mixture": Family(
        "mixture of factorised distributions",
        ("units",),
        _started(lambda r: families.mixture(r.length, r.units, r.categories)),
    ),
    "chow-liu": Family(
        "tree of largest likelihood, in closed form",
        (),
        _learned(lambda r: chow_liu(r.values, num_categories=r.categories)),
    ),
    "hclt": Family("hidden Chow-Liu tree over that tree", ("units",), _hidden_chow_liu),
    "hmm": Family(
        "homogeneous hidden Markov model",
        ("units",),
        _started(lambda r: families.hmm(r.length, r.units, r.largest)),
    ),
    "position-hmm": Family(
        "hidden Markov model with parameters for every position",
        ("units",),
        _started(lambda r: families.hmm(r.length, r.units, r.largest, homogeneous=False)),
    ),
    "higher-order-hmm": Family(
        "hidden Markov model that remembers several states",
        ("units", "order"),
        _started(
            lambda r: families.higher_order_hmm(r.length, r.sizes["order"], r.units, r.largest)
        ),
    ),
    "block-hmm": Family(
        "hidden Markov model with states in blocks and few routes between",
        ("units", "blocks", "rank"),
        _started(
            lambda r: families.block_hmm(
                r.length,
                r.units,
                r.largest,
                num_blocks=r.sizes["blocks"],
                rank=r.sizes["rank"],
            )
        ),
    ),
    "monarch-hmm": Family(
        "hidden Markov model for very many states: a product of sparse stages",
        ("units",),
        _started(lambda r: families.monarch_hmm(r.length, r.units, r.largest)),
    ),
    "binary-tree": Family(
        "balanced tree over neighbouring variables",
        ("units",),
        _started(lambda r: families.binary_tree(r.length, r.units, r.categories)),
    ),
    "linear-tree": Family(
        "tree that splits off one variable after the other",
        ("units",),
        _started(lambda r: families.linear_tree(r.length, r.units, r.categories)),
    ),
    "random-tree": Family(
        "mixture of random binary trees",
        ("units", "repetitions"),
        _started(
            lambda r: families.random_binary_tree(
                r.length,
                r.units,
                r.categories,
                seed=r.seed,
                repetitions=r.sizes["repetitions"],
            )
        ),
    ),
    "rat": Family(
        "RAT-SPN: shallow random trees side by side",
        ("units", "repetitions", "depth"),
        _started(
            lambda r: families.rat(
                r.length,
                r.categories,
                depth=r.sizes["depth"],
                repetitions=r.sizes["repetitions"],
                num_sums=r.units,
                num_input_units=r.units,
                seed=r.seed,
            )
        ),
    ),
    "learn-spn": Family(
        "LearnSPN: clusters of rows and independent groups of variables, from the data",
        (),
        _learned(lambda r: learn_spn(r.values, num_categories=r.categories, seed=r.seed)),
    ),
    "cutset-network": Family(
        "deterministic: decisions over Chow-Liu trees, from the data",
        (),
        _learned(lambda r: cutset_network(r.values, num_categories=r.categories)),
    ),
    "quad-tree": Family(
        "images cut into quarters",
        ("units", "shape"),
        _started(lambda r: families.quad_tree(*r.image, r.units, r.categories)),
    ),
    "poon-domingos": Family(
        "images cut at every place a quarter of the longer side apart",
        ("units", "shape"),
        _started(
            lambda r: families.poon_domingos(
                *r.image, r.units, r.categories, step=max(1, max(r.image) // 4)
            )
        ),
    ),
}
"""Name on the command line -> family."""
