"""Answers by brute force: every world is visited and weighed in linear space with numpy.

Nothing here is shared with the executors: no log-space, no layers, no torch arithmetic, and the
potentials of a world are multiplied at its variables and not at the circuit's inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

import pcircuits as pc

Array = np.ndarray


@dataclass(frozen=True)
class Enumeration:
    """All W worlds of a circuit with their weights for B examples.

    Attributes:
        worlds: (W, L) integers.
        weights: (B, W) weight of a world under the circuit and the latent potentials.
        factors: (B, W, L) factor of each variable's own evidence.
        num_categories: Largest number of categories V.
    """

    worlds: Array
    weights: Array
    factors: Array
    num_categories: int

    def totals(self) -> Array:
        """(B,) sum over worlds of weight times evidence."""
        return self._posterior().sum(axis=1)

    def log_partition(self) -> Array:
        """(B,) log of `totals`, `-inf` for impossible evidence."""
        with np.errstate(divide="ignore"):
            return np.log(self.totals())

    def marginals(self) -> Array:
        """(B, L, V) normalised posterior of every variable; NaN rows for impossible evidence."""
        return _normalised(self._collect(self._posterior()))

    def leave_one_out(self) -> Array:
        """(B, L, V) normalised posterior of each variable given the others' evidence alone."""
        length = self.worlds.shape[1]
        rows = []
        for variable in range(length):
            others = np.delete(self.factors, variable, axis=2).prod(axis=2)
            rows.append(self._collect(self.weights * others)[:, variable])
        return _normalised(np.stack(rows, axis=1))

    def pairwise(self, first: int, second: int) -> Array:
        """(B, V, V) normalised joint posterior of two variables."""
        joint = np.zeros((len(self.weights), self.num_categories, self.num_categories))
        at = (slice(None), self.worlds[:, first], self.worlds[:, second])
        np.add.at(joint, at, self._posterior())
        with np.errstate(invalid="ignore"):
            return joint / joint.sum(axis=(1, 2), keepdims=True)

    def world_probabilities(self) -> Array:
        """(B, W) normalised posterior of every world."""
        return _normalised(self._posterior())

    def _posterior(self) -> Array:
        return self.weights * self.factors.prod(axis=2)

    def _collect(self, weights: Array) -> Array:
        """(B, L, V) sums of the worlds' weights by the value of each variable."""
        sums = np.zeros((len(weights), self.worlds.shape[1], self.num_categories))
        for variable, values in enumerate(self.worlds.T):
            np.add.at(sums, (slice(None), variable, values), weights)
        return sums


def enumerate_worlds(
    circuit: pc.Circuit, parameters: Mapping[str, Tensor], evidence: pc.Evidence
) -> Enumeration:
    """Visits every world of a small circuit for every example of the evidence or parameters.

    Args:
        circuit: The circuit; the product of its numbers of categories should stay below 5,000.
        parameters: Name -> log-weights, shared or with a batch dimension; complex ones give
            complex weights of worlds, of which derivatives can be read off.
        evidence: The evidence.
    """
    worlds = np.array(list(itertools.product(*map(range, circuit.categories))))
    weights, factors = [], []
    for example, own in enumerate(_linear_by_example(circuit, parameters, evidence)):
        latent = {
            name: np.exp(_row(tensor, example))
            for name, tensor in (evidence.latent_log_potentials or {}).items()
        }
        weights.append(_world_weights(circuit, own, latent, worlds))
        factors.append(_world_factors(circuit, evidence, example, worlds))
    return Enumeration(worlds, np.array(weights), np.array(factors), circuit.num_categories)


def input_values(
    circuit: pc.Circuit, parameters: Mapping[str, Tensor], evidence: pc.Evidence
) -> dict[str, Array]:
    """Name of each input -> (B, K) sums of its categories' weights times the evidence's factors."""
    examples = _linear_by_example(circuit, parameters, evidence)
    return {
        name: np.array(
            [
                _own_weight(circuit, own, node)
                @ _factor(evidence, example, node.variable, node.num_categories)
                for example, own in enumerate(examples)
            ]
        )
        for node, name in circuit.node_names.items()
        if isinstance(node, pc.Input)
    }


def _linear_by_example(
    circuit: pc.Circuit, parameters: Mapping[str, Tensor], evidence: pc.Evidence
) -> list[dict[str, Array]]:
    """Name -> weights as numbers, for each example of the evidence or the parameters."""
    shapes = circuit.parameter_shapes
    linear = {name: np.exp(_numbers(tensor)) for name, tensor in parameters.items()}
    batched = {name: array.ndim > len(shapes[name]) for name, array in linear.items()}
    batch = max(
        [evidence.batch_size, *(len(array) for name, array in linear.items() if batched[name])]
    )
    return [
        {name: array[example] if batched[name] else array for name, array in linear.items()}
        for example in range(batch)
    ]


def _numbers(tensor: Tensor) -> Array:
    """In double precision, real or complex."""
    found = tensor.detach()
    return (found if found.is_complex() else found.double()).numpy()


def _world_weights(
    circuit: pc.Circuit, linear: Mapping[str, Array], latent: Mapping[str, Array], worlds: Array
) -> Array:
    """(W,) weights of the worlds: the definition of a circuit's polynomial, by recursion."""
    known: dict[object, Array] = {}

    def value(node: object) -> Array:  # (W, K)
        if node not in known:
            known[node] = own_value(node) * latent.get(circuit.node_names[node], 1.0)
        return known[node]

    def own_value(node: object) -> Array:
        if isinstance(node, pc.Input):
            return _own_weight(circuit, linear, node)[:, worlds[:, node.variable]].T
        children = [value(child) for child in node.children]
        if isinstance(node, pc.Product):
            return np.prod(children, axis=0)
        if isinstance(node, pc.KroneckerProduct):
            units = itertools.product(*(child.T for child in children))
            return np.stack([np.prod(combination, axis=0) for combination in units], axis=1)
        weight = _own_weight(circuit, linear, node)
        if not node.mixing:
            return np.concatenate(children, axis=1) @ weight.T
        return sum(child * weight[:, i] for i, child in enumerate(children))

    return value(circuit.root)[:, 0]


def _own_weight(circuit: pc.Circuit, linear: Mapping[str, Array], node: pc.Input | pc.Sum) -> Array:
    """(K, C) weights of one node, wherever they are."""
    if isinstance(node, pc.Input) and node.supports is not None:
        categories = range(node.num_categories)
        return np.array([[float(c in support) for c in categories] for support in node.supports])
    if isinstance(node, pc.Sum) and not node.weighted:
        return np.ones((node.num_units, node.num_inputs))
    weight = linear[circuit.parameter_names[node]]
    if not isinstance(node.parameter, pc.Part):
        return weight.reshape(node.num_units, -1)
    width = node.num_categories if isinstance(node, pc.Input) else node.num_inputs
    start = node.parameter.start * (width if isinstance(node, pc.Input) else 1)
    return weight.reshape(-1)[start : start + node.num_units * width].reshape(-1, width)


def _world_factors(
    circuit: pc.Circuit, evidence: pc.Evidence, example: int, worlds: Array
) -> Array:
    """(W, L) factors of one example's evidence on the variables."""
    factors = np.ones(worlds.shape)
    for variable, size in enumerate(circuit.categories):
        factor = _factor(evidence, example, variable, size)
        factors[:, variable] = factor[worlds[:, variable]]
    return factors


def _factor(evidence: pc.Evidence, example: int, variable: int, size: int) -> Array:
    """(V of this variable,) factor of each category."""
    observed = evidence.mask()
    if observed is not None and bool(_row(observed, example)[variable]):
        return np.eye(size)[int(_row(evidence.values, example)[variable])]
    if evidence.log_potentials is None:
        return np.ones(size)
    potentials = np.exp(_row(evidence.log_potentials, example)[variable])
    if evidence.categories is None:
        return potentials[:size]
    factor = np.zeros(size)
    for category, potential in zip(
        _row(evidence.categories, example)[variable], potentials, strict=True
    ):
        if category < size:
            factor[category] += potential
    return factor


def _row(tensor: Tensor, example: int) -> Array:
    """One example of a batch; a batch of one serves every example."""
    array = (tensor.double() if tensor.is_floating_point() else tensor).detach().numpy()
    return array[example if len(array) > 1 else 0]


def _normalised(array: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return array / array.sum(axis=-1, keepdims=True)
