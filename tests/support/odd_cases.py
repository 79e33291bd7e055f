"""Cases that fast paths tend to get wrong: sizes beside powers of two, evidence at its extremes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

import pcircuits as pc
from tests.support.circuits import SEEDS, Draw, circuits, random_log_weights
from tests.support.evidence import Case, random_values
from tests.support.scalars import scalar_circuits

# Below, at and above the sizes that vectors and tiles have.
UNITS = (1, 2, 3, 5, 16, 17, 33)
FEW_UNITS = (1, 2, 3, 5)
CATEGORIES = (2, 3, 5, 17, 33, 65)
BATCHES = (1, 2, 3, 5, 17, 33)
SPREADS = (1.0, 1.0, 50.0, 200.0)
EVIDENCE = ("nothing", "hard", "partial", "soft", "listed", "mixed", "mixed listed")


@dataclass(frozen=True)
class Sizes:
    """What sizes are chosen from."""

    units: tuple[int, ...] = UNITS
    few_units: tuple[int, ...] = FEW_UNITS
    categories: tuple[int, ...] = CATEGORIES
    batches: tuple[int, ...] = BATCHES
    length: int = 6


ORDINARY = Sizes()
# For kernels that are interpreted, one number after the other.
TINY = Sizes((1, 3, 17), (1, 2, 3), (2, 3, 17), (1, 3), 3)
Family = Callable[[random.Random, Sizes], pc.Circuit]


def _chain(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    length, homogeneous = chance.randint(1, sizes.length), chance.random() < 0.7
    units, categories = chance.choice(sizes.units), chance.choice(sizes.categories)
    return pc.families.hmm(length, units, categories, homogeneous=homogeneous)


def _gated_chain(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    units, categories = chance.choice(sizes.units), chance.choice(sizes.categories)
    return pc.families.gated_hmm(chance.randint(1, sizes.length), units, categories)


def _monarch_chain(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    units = chance.choice([6, 9, 15])
    return pc.families.monarch_hmm(chance.randint(1, 3), units, chance.choice(sizes.categories))


def _tree(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    units, categories = chance.choice(sizes.units), chance.choice(sizes.categories)
    return pc.families.binary_tree(chance.randint(2, sizes.length + 1), units, categories)


def _tree_of_all_pairs(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    units, categories = chance.choice(sizes.few_units), chance.choice(sizes.categories)
    length = chance.randint(2, sizes.length + 1)
    return pc.families.binary_tree(length, units, categories, product="kronecker")


def _hidden_tree(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    length = chance.randint(2, sizes.length)
    parents = [-1] + [chance.randrange(i) for i in range(1, length)]
    categories = [chance.choice(sizes.categories) for _ in range(length)]
    return pc.families.hidden_chow_liu(parents, chance.choice(sizes.units), categories)


def _random_tree(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    return pc.families.rat(
        chance.randint(4, max(4, sizes.length)),
        chance.choice(sizes.categories),
        depth=2,
        repetitions=chance.choice([1, 2, 3]),
        num_sums=chance.choice(sizes.few_units),
        num_input_units=chance.choice(sizes.few_units),
        seed=chance.randrange(100),
    )


def _grid(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    product = chance.choice(["elementwise", "kronecker"])
    units, categories = chance.choice(sizes.few_units), chance.choice(sizes.categories)
    return pc.families.poon_domingos(2, 2, units, categories, step=1, product=product)


def _mixture(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    units, categories = chance.choice(sizes.units), chance.choice(sizes.categories)
    return pc.families.mixture(chance.randint(1, sizes.length), units, categories)


def _uneven_tree(chance: random.Random, sizes: Sizes) -> pc.Circuit:
    """Sums of one layer that read products of one, two, three and four nodes."""
    units, length = chance.choice(sizes.units), chance.randint(2, sizes.length + 4)
    most = chance.randint(2, 4)
    nodes: list[pc.Node] = [
        pc.Input(i, num_units=units, num_categories=chance.choice(sizes.categories))
        for i in chance.sample(range(length), length)
    ]
    for _ in range(2):
        groups = []
        while nodes:
            number = chance.randint(1, most)
            groups.append(nodes[:number])
            nodes = nodes[number:]
        # A sum alone in the place of a product, so that all are of one depth.
        nodes = [
            pc.Sum(
                pc.Product(*own) if len(own) > 1 else pc.Sum(*own, num_units=units),
                num_units=units,
            )
            for own in groups
        ]
    return pc.Circuit(pc.Sum(pc.Product(*nodes) if len(nodes) > 1 else nodes[0], num_units=1))


FAMILIES: Mapping[str, Family] = {
    "chain": _chain,
    "gated chain": _gated_chain,
    "monarch chain": _monarch_chain,
    "tree": _tree,
    "tree of all pairs": _tree_of_all_pairs,
    "hidden tree": _hidden_tree,
    "uneven tree": _uneven_tree,
    "random tree": _random_tree,
    "grid": _grid,
    "mixture": _mixture,
}
RANDOM, SINGLE_NODES = "random", "single nodes"
ALL_FAMILIES = (*FAMILIES, RANDOM, SINGLE_NODES)


@st.composite
def odd_circuits(draw: Draw, family: str, sizes: Sizes = ORDINARY) -> pc.Circuit:
    """Circuits of a family in `ALL_FAMILIES`."""
    if family == RANDOM:
        return draw(circuits())
    if family == SINGLE_NODES:
        return draw(scalar_circuits())
    return FAMILIES[family](random.Random(draw(SEEDS)), sizes)


@st.composite
def odd_cases(draw: Draw, family: str, sizes: Sizes = ORDINARY, *, simple: bool = False) -> Case:
    """Float64 cases of a family.

    Args:
        draw: Given by hypothesis.
        family: A name in `ALL_FAMILIES`.
        sizes: What sizes are chosen from.
        simple: Whether to leave out parameters per example and potentials of latent units.
    """
    circuit = draw(odd_circuits(family, sizes))
    batch, kind = draw(st.sampled_from(sizes.batches)), draw(st.sampled_from(EVIDENCE))
    chance = random.Random(draw(SEEDS))
    return random_case(circuit, batch, kind, chance, simple=simple)


def random_case(
    circuit: pc.Circuit, batch: int, kind: str, chance: random.Random, *, simple: bool
) -> Case:
    """A case with weights and evidence whose extremes are drawn."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    # Log-weights and log-potentials some nats apart, or so many that most terms underflow; each
    # also alone, since what is fast with tame weights has to bear wild evidence.
    wild, spread = chance.random() < 0.4, chance.choice(SPREADS)
    zeros, normalized = wild and chance.random() < 0.7, chance.random() < 0.5
    factor = chance.choice(SPREADS) if wild and not normalized else 1.0
    offset = chance.choice([0.0, -95.0, 40.0]) if wild else 0.0
    # Some parameters per example, or all of them.
    share = 0.0 if simple else chance.choice([0.0, 0.0, 0.3, 1.0])
    parameters = {}
    for name, shape in circuit.parameter_shapes.items():
        full = (batch, *shape) if chance.random() < share else shape
        log = random_log_weights(full, generator, zeros=zeros, normalized=normalized)
        parameters[name] = factor * log + offset
    zeros = chance.random() < 0.5
    evidence = random_evidence(circuit, batch, kind, chance, spread=spread, zeros=zeros)
    if not simple and chance.random() < 0.3:
        latent = _latent(circuit, batch, chance, spread=spread, zeros=zeros)
        evidence = _with_latent(evidence, latent)
    return Case(circuit, parameters, evidence)


def random_evidence(
    circuit: pc.Circuit,
    batch: int,
    kind: str,
    chance: random.Random,
    *,
    spread: float,
    zeros: bool,
) -> pc.Evidence:
    """Evidence of a kind in `EVIDENCE` about the variables."""
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    shape, size = (batch, circuit.num_variables), circuit.num_categories
    if kind == "nothing":
        return pc.Evidence()
    values = random_values(circuit, batch, generator)
    observed = torch.rand(shape, generator=generator) < chance.choice([0.2, 0.5, 0.9])
    values = torch.where(observed | (kind == "hard"), values, chance.choice([0, -1, 10**6]))
    if kind == "hard":
        return pc.Evidence(values)
    if kind == "partial":
        return pc.Evidence(values, observed)
    given = (values, observed) if kind.startswith("mixed") else (None, None)
    if kind.endswith("listed"):
        listed = chance.choice([k for k in (1, 3, 17) if k <= size])
        categories = torch.rand((*shape, size), generator=generator).argsort(-1)[..., :listed]
        if chance.random() < 0.3:  # the same one twice
            categories = torch.randint(size, categories.shape, generator=generator)
        potentials = random_potentials((*shape, listed), generator, spread=spread, zeros=zeros)
        return pc.Evidence(*given, potentials, None, categories)
    potentials = random_potentials((*shape, size), generator, spread=spread, zeros=zeros)
    return pc.Evidence(*given, potentials)


def random_potentials(
    shape: tuple[int, ...], generator: torch.Generator, *, spread: float, zeros: bool
) -> Tensor:
    """Log-potentials; with `zeros` some are -inf: single ones, stretches of 16, and whole rows."""
    potentials = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    if not zeros:
        return potentials

    def some(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator) < 0.15

    tiles = some(*shape[:-1], -(-shape[-1] // 16)).repeat_interleave(16, -1)[..., : shape[-1]]
    empty = some(*shape) | tiles
    # Few examples are impossible altogether, so that most of them still say something.
    rows = some(shape[0], *[1] * (len(shape) - 1)) & some(*shape[:-1], 1)
    full = empty.all(-1, keepdim=True) & ~rows
    return potentials.masked_fill((empty & ~full) | rows, -math.inf)


def _latent(
    circuit: pc.Circuit, batch: int, chance: random.Random, *, spread: float, zeros: bool
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    return {
        name: random_potentials((batch, node.num_units), generator, spread=spread, zeros=zeros)
        for node, name in circuit.node_names.items()
        if chance.random() < 0.3
    }


def _with_latent(evidence: pc.Evidence, latent: dict[str, Tensor]) -> pc.Evidence:
    given = (evidence.values, evidence.observed, evidence.log_potentials)
    return pc.Evidence(*given, latent or None, evidence.categories)


def many_edges(seed: int, *, variables: int = 12, width: int = 48) -> pc.Circuit:
    """Single nodes, each with up to `width` children and as many readers: mostly edges.

    All weights of sums are parts of one parameter; some inputs are indicators, some sums plain.
    """
    chance, weights = random.Random(seed), 0
    pools = [[_single_input(v, chance) for _ in range(width)] for v in range(variables)]
    while len(pools) > 1:
        first, second = (pools.pop(chance.randrange(len(pools))) for _ in range(2))
        chance.shuffle(second)
        # Every node has a reader: what nothing reads is no part of the circuit.
        products = [pc.Product(one, two) for one, two in zip(first, second, strict=True)]
        pool: list[pc.Input | pc.Sum] = []
        for own in products if pools else products[:1]:
            count = chance.choice([1, 2, 17, width, width]) if pools else width
            others = chance.sample([p for p in products if p is not own], count - 1)
            plain = chance.random() < 0.1
            part = None if plain else pc.Part("weights", weights)
            weights += 0 if plain else count
            pool.append(pc.Sum(own, *others, num_units=1, weighted=not plain, parameter=part))
        pools.append(pool)
    return pc.Circuit(pools[0][0])


def _single_input(variable: int, chance: random.Random) -> pc.Input:
    if chance.random() < 0.2:
        support = tuple(sorted(chance.sample(range(5), 3)))
        return pc.Input(variable, num_units=1, num_categories=5, supports=(support,))
    return pc.Input(variable, num_units=1, num_categories=5)
