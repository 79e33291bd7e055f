"""Finite automata and regular expressions as circuits: 1 on accepted sequences, else 0."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pcircuits.errors import StructureError
from pcircuits.structure.automata.machine import Automaton, Tokens
from pcircuits.structure.automata.tokens import pattern_automaton
from pcircuits.structure.circuit import Circuit
from pcircuits.structure.families.check import check_length
from pcircuits.structure.families.decision_diagram import decision_diagram


def automaton(
    transitions: Sequence[Mapping[Tokens, int]],
    accepting: Collection[int],
    length: int,
    num_categories: int,
    *,
    start: int = 0,
) -> Circuit:
    """Deterministic finite automaton over sequences of L tokens.

    The circuit has no parameters; its value is 1 on an accepted sequence and 0 on any other, so its
    log-evidence without evidence is the log of the number of accepted sequences. It is smooth,
    deterministic (one run a sequence) and right-linear with the variable tree of `hmm`, with which
    it can be multiplied. States from which the same rest is accepted are one node, and states out
    of reach have none. Cost: O(L M) operations a row for M pairs of a state and a next state.

    Tokens at least two of which are 7:

        automaton([{7: 1, None: 0}, {7: 2, None: 1}, {None: 2}], {2}, length=8, num_categories=100)

    Args:
        transitions: For every state 0 .. S-1 a mapping from tokens to the next state. A key is a
            token, a range, tuple or frozenset of tokens, or None for all that are not named.
            Without a move the sequence is rejected.
        accepting: The states in which a sequence may end.
        length: Number of tokens L.
        num_categories: Size of the vocabulary V.
        start: The state before the first token.

    Returns:
        The circuit.

    Raises:
        StructureError: If a state or token does not exist, a move is given twice, or no sequence of
            this length is accepted.

    Examples:
        Of three tokens out of {0, 1}, at least two are 1:

        >>> moves = [{1: 1, None: 0}, {1: 2, None: 1}, {None: 2}]
        >>> circuit = pc.families.automaton(moves, accepting={2}, length=3, num_categories=2)
        >>> model = pc.CircuitModel(circuit)
        >>> model.log_evidence(pc.Evidence()).exp().round()  # sequences that are accepted
        tensor([4.], dtype=torch.float64)
        >>> model.log_likelihood(torch.tensor([[1, 0, 1], [1, 0, 0]])).exp()
        tensor([1., 0.], dtype=torch.float64)
    """
    check_length(length)
    machine = Automaton.from_moves(
        transitions, accepting=accepting, start=start, num_tokens=num_categories
    )
    return _unrolled(machine, length, "the automaton accepts")


def regular_expression(
    pattern: str,
    length: int,
    vocabulary: Sequence[str | None],
    *,
    pad: int | None = None,
    max_states: int = 10_000,
) -> Circuit:
    r"""All sequences of L tokens whose joined text matches a regular expression.

    The circuit is that of `automaton`: 1 on a match, else 0, without parameters. The pattern is
    that of Python's `re.fullmatch`: characters, sets, escapes like `\d`, groups, `|`, and the
    repetitions `*`, `+`, `?`, `{m,n}`, greedy or lazy. The automaton is minimal.

        digits = [str(digit) for digit in range(10)]
        regular_expression(r"\d\d?:\d\d(am|pm)", 8, [*digits, ":", "am", "pm", "<end>"], pad=13)

    For patterns over token ids give every id (or class of ids) a letter as its text.

    Args:
        pattern: The pattern.
        length: Number of tokens L.
        vocabulary: The text of every token, of one or more characters; None for a token that must
            not occur, such as a mask or a part of a character.
        pad: A token that may follow the text up to the length, and stands for nothing else.
            Without it the text is exactly L tokens long.
        max_states: Most states over characters before minimisation: some patterns need
            exponentially many.

    Returns:
        The circuit, over V = len(vocabulary) categories.

    Raises:
        StructureError: If the pattern is not valid, not supported or too large, a token is the
            empty string, `pad` is no token, or no sequence of this length matches.

    Examples:
        A hidden Markov model that can only say what matches:

        >>> pattern = pc.families.regular_expression("a+b+", 4, ["a", "b"])
        >>> hmm = pc.CircuitModel(pc.families.hmm(4, num_states=3, num_categories=2))
        >>> both = pc.operators.multiply(hmm.weighted(), pc.WeightedCircuit(pattern, {}))
        >>> constrained, log_probability = pc.operators.normalise(both)
        >>> model = pc.CircuitModel.of(constrained)
        >>> sorted({"".join("ab"[t] for t in row) for row in model.sample(200).tolist()})
        ['aaab', 'aabb', 'abbb']
    """
    check_length(length)
    if pad is not None and pad not in range(len(vocabulary)):
        raise StructureError(f"pad must be a token 0 .. {len(vocabulary) - 1}; found {pad!r}")
    texts = [None if token == pad else text for token, text in enumerate(vocabulary)]
    machine = pattern_automaton(pattern, texts, max_states=max_states)
    if pad is not None:
        machine = machine.padded(pad)
    return _unrolled(machine, length, f"pattern {pattern!r} matches")


def _unrolled(machine: Automaton, length: int, what: str) -> Circuit:
    """The circuit of an automaton's runs of L tokens."""
    reached = [{machine.start}]
    for _ in range(length - 1):
        reached.append({target for state in reached[-1] for target in machine.moves[state]})
    root = decision_diagram(
        [{state: machine.moves[state] for state in sorted(states)} for states in reached],
        range(length),
        machine.num_tokens,
        start=machine.start,
        accepting=machine.accepting,
        support=machine.tokens_of,
    )
    if root is None:
        raise StructureError(f"{what} no sequence of {length} tokens; expected at least one")
    return Circuit(root)
