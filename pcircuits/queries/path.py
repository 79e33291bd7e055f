"""Messages along a chain, from both of its ends up to where they are asked for.

The same as `lazy` for circuits in which every product adds one variable to the sum below it: hidden
Markov models. Two numbers then say what is out of date, and beside the products with the tables
there is next to nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcircuits.compile.plan import InputLayer, Operand, Plan, ProductLayer, SumLayer
from pcircuits.execute.evidence import Evidence
from pcircuits.execute.inputs import latent_potentials, leaf_values
from pcircuits.execute.prepare import PreparedParameters
from pcircuits.execute.weights import Weights, log_matmul, log_matmul_transposed
from pcircuits.queries.lazy import even


@dataclass(frozen=True, eq=False)
class Path:
    """A plan read as a chain of L places.

    Sum j reads product j, which reads an input and sum j + 1; the last sum reads its input itself.
    All inputs are in layer 0.

    Attributes:
        sums: (L,) layer of each sum; the first is the root.
        products: (L - 1,) layer of each product.
        folds: (L,) fold of the input of each place.
        place_of_fold: (L,) place of each input.
        place_of: (L,) place of each variable.
    """

    sums: tuple[int, ...]
    products: tuple[int, ...]
    folds: tuple[int, ...]
    place_of_fold: np.ndarray
    place_of: np.ndarray


_PATHS: WeakKeyDictionary[Plan, Path | None] = WeakKeyDictionary()


def path_of(plan: Plan) -> Path | None:
    """The plan as a chain; None if it is none."""
    if plan not in _PATHS:
        _PATHS[plan] = _path(plan)
    return _PATHS[plan]


@dataclass(frozen=True, eq=False)
class _Arrays:
    """The messages of a chain in memory that compiled code reads and writes.

    Attributes:
        leaves: (L, B, K) values of the inputs, by their fold as all that follows.
        up: (L, B, K) messages from below.
        down: (L, B, K) messages from the root.
        joined: (L, B, K) both.
        folds: (L,) fold of the input of each place.
        tables: (L,) addresses of the tables of all sums.
        floor: See `log_steps`.
    """

    leaves: np.ndarray
    up: np.ndarray
    down: np.ndarray
    joined: np.ndarray
    folds: np.ndarray
    tables: np.ndarray
    floor: float

    def run(self, sums: range, *, down: bool) -> int:
        """Steps through the tables of sums, in their order, downwards or upwards; how many."""
        # Imported where it is used: numba takes a second to import.
        from pcircuits.execute.fused.steps import log_steps

        through, messages = np.array(sums), self.down if down else self.up
        read, write = (through - 1, through) if down else (through, through - 1)
        places = self.folds[read], self.folds[write]
        own = self.tables[through], self.floor
        return log_steps(self.leaves, messages, places, *own, transposed=down)

    def join(self, folds: np.ndarray) -> None:
        """Brings both messages to inputs up to date."""
        for fold in folds.tolist():
            np.add(self.down[fold], self.up[fold], out=self.joined[fold])


class PathValues:
    """Upward and downward log-messages of a chain.

    Args:
        plan: The compiled circuit.
        path: The same as a chain.
        prepared: Its parameters, without a graph.
        evidence: Checked evidence.

    Attributes:
        messages: Layer 0 -> (L, B, K) log-messages to the inputs, right where required last.
    """

    def __init__(
        self, plan: Plan, path: Path, prepared: PreparedParameters, evidence: Evidence
    ) -> None:
        self._path = path
        self._offsets = latent_potentials(plan, prepared, evidence)
        leaves = leaf_values(plan, prepared, evidence, self._offsets)[0]
        # They are changed in place: they must be no view of the parameters.
        self._leaves = leaves.clone(memory_format=torch.contiguous_format)
        self.messages = {0: torch.zeros_like(self._leaves)}
        self._weights = [_dense(prepared, layer) for layer in path.sums]
        self._root: Tensor | None = None
        # What comes to the product above each input from the root, and from the sum below it.
        self._down, self._up = torch.zeros_like(self._leaves), torch.zeros_like(self._leaves)
        self._compiled = self._arrays() if self._leaves.device.type == "cpu" else None
        # Places from which on, and up to which, they are right.
        self._first_up, self._last_down = len(path.products), -1

    @property
    def device(self) -> torch.device:
        """Device of all values."""
        return self._leaves.device

    def change_leaves(
        self, layer: int, folds: np.ndarray, examples: np.ndarray, leaves: Tensor
    ) -> None:
        """See `LazyValues`."""
        if layer in self._offsets:
            leaves = leaves + self._offsets[layer][folds, examples]
        self._leaves[folds, examples] = leaves

    def spoil(self, variables: Iterable[int]) -> None:
        """See `LazyValues`."""
        places = [int(self._path.place_of[variable]) for variable in variables]
        if places:
            self._last_down = min(self._last_down, *places)
            self._first_up = max(self._first_up, *places)
            self._root = None

    def root(self) -> Tensor:
        """See `LazyValues`."""
        if self._root is None:
            self._climb(0)
            self._root = self._sum_value(0)
        return self._root

    def require_messages(self, nodes: np.ndarray) -> None:
        """See `LazyValues`."""
        if len(nodes) > 1:
            nodes = np.unique(nodes)  # several examples may ask for one variable
        places = self._path.place_of_fold[nodes]
        self._descend(int(places.max()))
        self._climb(int(places.min()))
        if self._compiled is not None:
            self._compiled.join(nodes)
            return
        at = even(nodes)
        message = self._down[at] + self._up[at]
        self.messages[0][at] = message + self._offsets[0][at] if 0 in self._offsets else message

    def _climb(self, place: int) -> None:
        """Values of the sums below a place and those after it."""
        j = self._first_up - 1
        while j >= place:
            j -= self._run(range(j + 1, place, -1), down=False)
            if j >= place:
                self._up[self._path.folds[j]] = self._sum_value(j + 1)[0]
                j -= 1
        self._first_up = min(self._first_up, place)

    def _descend(self, place: int) -> None:
        """Messages from the root to a place and those before it."""
        j = self._last_down + 1
        while j <= place:
            j += self._run(range(j, place + 1), down=True) if j > 0 else 0
            if j <= place:
                self._down[self._path.folds[j]] = self._message(j)[0]
                j += 1
        self._last_down = max(self._last_down, place)

    def _run(self, sums: range, *, down: bool) -> int:
        """Makes steps through the tables of sums in one call; how many: it may have to stop."""
        return 0 if self._compiled is None else self._compiled.run(sums, down=down)

    def _arrays(self) -> _Arrays | None:
        """The messages as compiled code takes them; None if steps may not be made by it."""
        if self._offsets:
            return None
        if any(own.log.shape[:2] != (1, 1) or own.shift is not None for own in self._weights):
            return None
        factors = [own.factor for own in self._weights]
        if not all(factor.is_contiguous() for factor in factors):
            return None
        return _Arrays(
            leaves=self._leaves.numpy(),
            up=self._up.numpy(),
            down=self._down.numpy(),
            joined=self.messages[0].numpy(),
            folds=np.array(self._path.folds),
            tables=np.array([factor.data_ptr() for factor in factors]),
            floor=self._weights[0].floor,
        )

    def _message(self, j: int) -> Tensor:
        """(1, B, K) message to place j from the root."""
        path = self._path
        if j == 0:
            x = self._down.new_zeros(1, self._down.shape[1], 1)
        else:
            above = path.folds[j - 1]
            x = (self._down[above] + self._leaves[above])[None]
        x = log_matmul_transposed(self._shifted(x, path.sums[j]), self._weights[j])
        return self._shifted(x, path.products[j] if j < len(path.products) else None)

    def _sum_value(self, j: int) -> Tensor:
        """(1, B, K) value of sum j."""
        path, x = self._path, self._leaves[self._path.folds[j]][None]
        if j < len(path.products):
            x = self._shifted(x + self._up[path.folds[j]], path.products[j])
        return self._shifted(log_matmul(x, self._weights[j]), path.sums[j])

    def _shifted(self, x: Tensor, layer: int | None) -> Tensor:
        """With the latent potentials of a layer."""
        return x + self._offsets[layer] if layer in self._offsets else x


def _dense(prepared: PreparedParameters, layer: int) -> Weights:
    weights = prepared.weights[layer]
    assert isinstance(weights, Weights)
    return weights


def _path(plan: Plan) -> Path | None:
    inputs = plan.layers[0]
    assert isinstance(inputs, InputLayer), "it reads nothing"
    sums: list[int] = []
    products: list[int] = []
    folds: list[int] = []
    layer = len(plan.layers) - 1
    while layer > 0:  # what a sum or a product reads lies below it
        sums.append(layer)
        below = _sum_child(plan, layer)
        if below is None:
            return None
        layer, fold = below
        if layer > 0:
            step = _product_children(plan, layer)
            if step is None:
                return None
            products.append(layer)
            fold, layer = step
        folds.append(fold)
    sizes = {plan.layers[i].num_units for i in (0, *sums[1:], *products)}
    if not sums or len(sizes) > 1:
        return None
    place_of_fold = np.array(folds).argsort()
    place_of = place_of_fold[inputs.variables.argsort()]
    return Path(tuple(sums), tuple(products), tuple(folds), place_of_fold, place_of)


def _sum_child(plan: Plan, i: int) -> tuple[int, int] | None:
    """(layer, fold) that a dense sum of one operand reads."""
    layer = plan.layers[i]
    if not isinstance(layer, SumLayer) or len(layer.operands) != 1:
        return None
    return _node(layer.operands[0])


def _product_children(plan: Plan, i: int) -> tuple[int, int] | None:
    """Fold of the input and layer of the sum that a product of these two reads."""
    layer = plan.layers[i]
    if not isinstance(layer, ProductLayer) or len(layer.operands) != 2:
        return None
    first, second = sorted(_node(operand) for operand in layer.operands)
    if first[0] != 0 or second[0] == 0:
        return None
    return first[1], second[0]


def _node(operand: Operand) -> tuple[int, int]:
    """(layer, fold) of an operand of one fold."""
    source = operand.sources[0]
    return source.layer, int(source.folds()[0])
