"""Variables summed out of a circuit."""

from __future__ import annotations

from collections.abc import Iterable

from pcircuits.operators.assembly import Assembler
from pcircuits.operators.condition import (
    check_some_left,
    check_variable,
    gathered_root,
    kept_places,
)
from pcircuits.operators.rewriting import copied, rewritten
from pcircuits.operators.tables import dtype_of, table_of
from pcircuits.operators.units import Units, constants
from pcircuits.parameters import WeightedCircuit
from pcircuits.structure.nodes import Input


def marginalise(weighted: WeightedCircuit, variables: Iterable[int]) -> WeightedCircuit:
    """Sums variables out, exactly, since circuits are smooth and decomposable.

    Tied weights stay tied where the inputs that go away were normalised; otherwise what they sum
    to is moved into the weights above them.

    Args:
        weighted: The circuit, of L variables.
        variables: The variables to sum out.

    Returns:
        A circuit of the other variables, numbered 0, 1, ... in the same order.

    Raises:
        EvidenceError: If a variable does not exist, or none is left.

    Examples:
        >>> hmm = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> ends = pc.CircuitModel.of(pc.operators.marginalise(hmm.weighted(), [1, 2]))
        >>> row = torch.tensor([[0, 1, 1, 0]])
        >>> seen = torch.tensor([[True, False, False, True]])
        >>> torch.allclose(ends.log_likelihood(row[:, [0, 3]]), hmm.log_likelihood(row, seen))
        True
    """
    dropped = set(variables)
    for variable in dropped:
        check_variable(weighted.circuit, variable)
    check_some_left(weighted.circuit, dropped)
    places = kept_places(weighted.circuit, dropped)
    assembler = Assembler(dtype_of(weighted))

    def leaf(node: Input) -> Units:
        if node.variable in dropped:
            return constants(table_of(weighted, node).logsumexp(1))
        return copied(assembler, weighted, node, variable=places[node.variable])

    return assembler.build(gathered_root(assembler, rewritten(assembler, weighted, leaf)))
