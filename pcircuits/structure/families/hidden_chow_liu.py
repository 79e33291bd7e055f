"""Trees over variables as circuits: Chow-Liu trees, and trees of hidden variables above them."""

from __future__ import annotations

from collections.abc import Sequence

from pcircuits.errors import StructureError
from pcircuits.structure.categories import categories_of
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.nodes import AnyNode, Input, Part, Product, Sum


def hidden_chow_liu(
    parents: Sequence[int], num_units: int, num_categories: int | Sequence[int]
) -> Circuit:
    """Hidden Chow-Liu tree: a hidden variable of K units above every variable, joined by a tree.

    The hidden variables form the tree that `parents` describes, and variable i depends on hidden
    variable i alone (Liu and Van den Broeck, "Tractable regularization of probabilistic circuits",
    NeurIPS 2021, section 4). A path gives an inhomogeneous HMM.

    Parameters: `initial` (K,) of the root; `transition` ((L - 1) K K,), one (K, K) table after the
    other for all variables but the root, with row a = p(hidden i = . | its parent is a); for each
    number of categories V a table `emission_V`, of K rows for each variable with that many. All in
    ascending order of the variables. One tensor each, since learning pays for every tensor.
    The input of variable i is named `state_i`, so latent potentials by that name weight the units
    of hidden variable i.
    Cost: O(L K^2) operations a row, in as many steps as the tree is high: root it at its centre.

    Args:
        parents: (L,) parent of every variable; -1 at the one root.
        num_units: Number of units K of every hidden variable.
        num_categories: Number of categories V, of all variables or of each.

    Returns:
        The circuit.

    Raises:
        StructureError: If `parents` is not a tree or the numbers of categories do not fit.

    Examples:
        >>> circuit = pc.families.hidden_chow_liu([-1, 0, 0], num_units=4, num_categories=2)
        >>> model = pc.CircuitModel(circuit)
        >>> {name: tuple(table.shape) for name, table in model.probabilities().items()}
        {'emission_2': (12, 2), 'transition': (32,), 'initial': (4,)}
    """
    order = _parents_last(parents)
    categories = categories_of(num_categories, len(order))
    places = _places(categories)
    below: list[list[AnyNode]] = [[] for _ in order]
    for i in order:
        state = Input(
            i,
            num_units=num_units,
            num_categories=categories[i],
            parameter=Part(f"emission_{categories[i]}", places[i] * num_units),
            name=f"state_{i}",
        )
        place = i - (order[-1] < i)  # among the variables that have a parent
        transition = Part("transition", place * num_units**2)
        message = _message(i, state, below[i], num_units, transition, parents[i] < 0)
        if parents[i] >= 0:
            below[parents[i]].append(message)
    return Circuit(message)


def chow_liu(parents: Sequence[int], num_categories: int | Sequence[int]) -> Circuit:
    """Chow-Liu tree: every variable depends on its parent alone (Chow and Liu, 1968).

    It is deterministic: unit v of a variable's part is one on category v only. Parameters:
    `initial` (V,) of the root, and `transition_i` (V of the parent, V) of every other variable
    with row a = p(variable i = . | its parent is a).
    Cost: O(L V^2) operations a row.

    Args:
        parents: (L,) parent of every variable; -1 at the one root.
        num_categories: Number of categories V, of all variables or of each.

    Returns:
        The circuit.

    Raises:
        StructureError: If `parents` is not a tree or the numbers of categories do not fit.

    Examples:
        Variable 1 repeats what variable 0 is:

        >>> model = pc.CircuitModel(pc.families.chow_liu([-1, 0], num_categories=2))
        >>> tables = {"initial": torch.tensor([0.3, 0.7]), "transition_1": torch.eye(2)}
        >>> model.set_probabilities(tables)
        >>> model.log_likelihood(torch.tensor([[1, 1], [1, 0]])).exp().detach()
        tensor([0.7000, 0.0000])
    """
    order = _parents_last(parents)
    categories = categories_of(num_categories, len(order))
    below: list[list[AnyNode]] = [[] for _ in order]
    for i in order:
        state = Input(
            i,
            num_units=categories[i],
            num_categories=categories[i],
            supports=tuple((category,) for category in range(categories[i])),
            name=f"state_{i}",
        )
        units = 1 if parents[i] < 0 else categories[parents[i]]
        message = _message(i, state, below[i], units, f"transition_{i}", parents[i] < 0)
        if parents[i] >= 0:
            below[parents[i]].append(message)
    return Circuit(message)


def _message(
    variable: int,
    state: AnyNode,
    below: Sequence[AnyNode],
    units: int,
    transition: str | Part,
    is_root: bool,
) -> Sum:
    """What a variable and all below it say about its parent's units; the root has one unit."""
    subtree = Product(state, *below, name=f"subtree_{variable}") if below else state
    if is_root:
        return Sum(subtree, num_units=1, parameter="initial", name="root")
    return Sum(subtree, num_units=units, parameter=transition, name=f"message_{variable}")


def _parents_last(parents: Sequence[int]) -> list[int]:
    """All variables, each after those below it."""
    length = len(parents)
    roots = [i for i, parent in enumerate(parents) if parent == -1]
    wrong = [i for i, parent in enumerate(parents) if not -1 <= parent < length]
    if wrong or len(roots) != 1:
        found = f"parent {parents[wrong[0]]} of {wrong[0]}" if wrong else f"{len(roots)} roots"
        raise StructureError(
            f"parents must name a variable 0 .. {length - 1}, or -1 for exactly one root; "
            f"found {found}"
        )
    children: list[list[int]] = [[] for _ in parents]
    for i, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(i)
    order = roots
    for i in order:
        order.extend(children[i])
    if len(order) < length:
        cycle = sorted(set(range(length)) - set(order))
        raise StructureError(f"parents must form one tree; found a cycle among variables {cycle}")
    return order[::-1]


def _places(categories: Sequence[int]) -> list[int]:
    """Place of every variable among those with as many categories."""
    seen: dict[int, int] = {}
    places = []
    for size in categories:
        places.append(seen.get(size, 0))
        seen[size] = places[-1] + 1
    return places
