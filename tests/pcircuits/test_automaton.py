"""Automata and regular expressions as circuits, against `re.fullmatch` on every sequence."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import StructureError
from pcircuits.execute.reference import log_value
from pcircuits.operators.multiply import multiply
from pcircuits.structure.automata.derivatives import character_automaton
from pcircuits.structure.automata.syntax import parse

VOCABULARY = ("a", "b", "ab", "c", " ", "1", "\n", "é_")
LENGTH = 4

Accepts = Callable[[tuple[int, ...]], bool]


def values_of(circuit: pc.Circuit) -> dict[tuple[int, ...], float]:
    """The circuit's value on every sequence."""
    worlds = list(itertools.product(*map(range, circuit.categories)))
    evidence = pc.Evidence(torch.tensor(worlds))
    values = pc.forward(pc.compile_circuit(circuit), {}, evidence).exp()
    return dict(zip(worlds, values.tolist(), strict=True))


def count(circuit: pc.Circuit) -> float:
    """The sum of the circuit's values, in one pass without evidence."""
    nothing = torch.zeros(1, circuit.num_variables, dtype=torch.bool)
    return float(log_value(circuit, {}, pc.Evidence(nothing.long(), nothing))[0].exp())


def check(make: Callable[[], pc.Circuit], accepts: Accepts, length: int, size: int) -> None:
    """A circuit is 1 on exactly the accepted sequences; where there are none it cannot be made."""
    accepted = {w for w in itertools.product(range(size), repeat=length) if accepts(w)}
    if not accepted:
        with pytest.raises(StructureError, match="expected at least one"):
            make()
        return
    circuit = make()
    assert pc.validate(circuit).deterministic
    assert circuit.categories == (size,) * length
    assert circuit.parameter_shapes == {}
    assert values_of(circuit) == {w: float(w in accepted) for w in values_of(circuit)}
    assert count(circuit) == pytest.approx(len(accepted), rel=1e-12)


def text_of(sequence: Iterable[int], vocabulary: tuple[str, ...] = VOCABULARY) -> str:
    return "".join(vocabulary[token] for token in sequence)


ATOMS = st.sampled_from(
    ["a", "b", "c", "1", ".", "[ab]", "[^a]", r"\d", r"\w", r"\s", r"\S", r"\n", "[]a-c]", r"\x61"]
)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    grouped = inner.map("({})".format) | inner.map("(?:{})".format)
    suffix = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}", "*?", "+?", "??"])
    return (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | st.tuples(grouped, suffix).map("".join)
    )


PATTERNS = st.recursive(ATOMS, _larger, max_leaves=8)


@settings(max_examples=60, deadline=None)
@given(pattern=PATTERNS, length=st.integers(1, 3))
def test_random_patterns_match_what_re_matches(pattern: str, length: int) -> None:
    check(
        lambda: pc.families.regular_expression(pattern, length, VOCABULARY),
        lambda sequence: re.fullmatch(pattern, text_of(sequence)) is not None,
        length,
        len(VOCABULARY),
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^a+$|^b",
        r"\Aab\Z",
        "{a{|b{}",
        "(?P<word>a|ab)(c|bc*)*",
        "((a{1,2}){2}|b{,})c",
        "(a*)*b",
        "(|a)(b|)",
        r"[\]\-a]\.?|.*1.*",
    ],
)
def test_syntax(pattern: str) -> None:
    vocabulary = ("a", "b", "ab", "c", "{", "}", "1", "]")
    check(
        lambda: pc.families.regular_expression(pattern, 3, vocabulary),
        lambda sequence: re.fullmatch(pattern, text_of(sequence, vocabulary)) is not None,
        3,
        len(vocabulary),
    )


@settings(max_examples=20, deadline=None)
@given(pattern=PATTERNS)
def test_padding_follows_the_text(pattern: str) -> None:
    pad = 3  # its text, "c", must count for nothing

    def accepts(sequence: tuple[int, ...]) -> bool:
        end = sequence.index(pad) if pad in sequence else len(sequence)
        padded = all(token == pad for token in sequence[end:])
        return padded and re.fullmatch(pattern, text_of(sequence[:end])) is not None

    check(
        lambda: pc.families.regular_expression(pattern, 3, VOCABULARY, pad=pad),
        accepts,
        3,
        len(VOCABULARY),
    )


def test_a_token_without_text_does_not_occur() -> None:
    circuit = pc.families.regular_expression(".*", 2, ["a", None, "b"])
    assert {w for w, value in values_of(circuit).items() if value} == set(
        itertools.product((0, 2), repeat=2)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_automata_accept_what_they_accept(data: st.DataObject) -> None:
    states, size = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    target = st.integers(0, states - 1)
    tokens = st.sets(st.integers(0, size - 1))
    transitions = []
    for _ in range(states):
        first = data.draw(tokens)
        rest = data.draw(tokens) - first
        keys = [frozenset(first), tuple(rest), *data.draw(st.sampled_from([[], [None]]))]
        transitions.append({key: data.draw(target) for key in keys})
    accepting = data.draw(st.sets(target, min_size=1))
    start = data.draw(target)

    def accepts(sequence: tuple[int, ...]) -> bool:
        state: int | None = start
        for token in sequence:
            named = [q for key, q in transitions[state].items() if key and token in key]
            state = named[0] if named else transitions[state].get(None)
            if state is None:
                return False
        return state in accepting

    check(
        lambda: pc.families.automaton(transitions, accepting, LENGTH, size, start=start),
        accepts,
        LENGTH,
        size,
    )


def test_counting() -> None:
    """At least two tokens are 7: the example of the documentation."""
    circuit = pc.families.automaton([{7: 1, None: 0}, {7: 2, None: 1}, {None: 2}], {2}, 8, 100)
    expected = 100**8 - 99**8 - 8 * 99**7
    assert count(circuit) == pytest.approx(expected, rel=1e-12)


def test_posterior_under_soft_evidence_is_that_of_the_accepted_sequences() -> None:
    pattern, potentials = "(ab|c)+.*1", torch.randn(1, 3, 8, dtype=torch.float64)
    circuit = pc.families.regular_expression(pattern, 3, VOCABULARY)
    marginals = pc.CircuitModel(circuit).marginals(pc.Evidence(log_potentials=potentials))[0]
    expected = torch.zeros(3, 8, dtype=torch.float64)
    for world in itertools.product(range(8), repeat=3):
        if re.fullmatch(pattern, text_of(world)):
            weight = math.exp(sum(potentials[0, i, v].item() for i, v in enumerate(world)))
            for i, v in enumerate(world):
                expected[i, v] += weight
    assert torch.allclose(marginals.double(), expected / expected.sum(-1, keepdim=True), atol=1e-9)


def test_the_circuit_is_smallest() -> None:
    """One node for all states with the same rest: here every position has but one."""
    circuit = pc.families.regular_expression("(aa|ba|bb|ab){2}", 4, ["a", "b"])
    sums = [node for node in circuit.nodes if isinstance(node, pc.Sum)]
    assert not sums
    assert len(circuit.nodes) == 2 * 4 - 1  # an input a position, products of all but the last


def test_the_automaton_is_minimal() -> None:
    alphabet = "ab"
    machine = character_automaton(parse("(a|b)*a(a|b){3}"), alphabet, max_states=100)
    assert len(machine.rows) == 2**4
    assert len(character_automaton(parse("(a*)*|a*a|(aa)*"), alphabet, max_states=100).rows) == 1


def test_hmm_with_a_regular_expression() -> None:
    """The example of the documentation: a model's sequences that match, and their probability."""
    length, pattern = 4, r"(ab|c)+.*1"
    model = pc.CircuitModel(pc.families.hmm(length, 3, len(VOCABULARY)), seed=1).double()
    constraint = pc.families.regular_expression(pattern, length, VOCABULARY)
    product = multiply(model.weighted(), pc.WeightedCircuit(constraint, {}))
    worlds = torch.tensor(list(itertools.product(range(len(VOCABULARY)), repeat=length)))
    matches = [re.fullmatch(pattern, text_of(w)) is not None for w in worlds.tolist()]
    expected = torch.where(torch.tensor(matches), model.log_likelihood(worlds), -math.inf)
    found = log_value(product.circuit, product.log_weights, pc.Evidence(worlds))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    nothing = pc.Evidence(worlds[:1], torch.zeros(1, length, dtype=torch.bool))
    total = log_value(product.circuit, product.log_weights, nothing)[0]
    torch.testing.assert_close(total, expected.logsumexp(0), rtol=0, atol=1e-9)


def test_vtree_is_that_of_the_hmm() -> None:
    circuit = pc.families.regular_expression(".*a.*", 5, ["a", "b"])
    splits = {
        frozenset(child.scope.bits for child in node.children)
        for node in [*circuit.nodes, *pc.families.hmm(5, 2, 2).nodes]
        if isinstance(node, pc.Product)
    }
    assert len(splits) == 4
    assert pc.validate(circuit).structured_decomposable


def test_a_large_vocabulary_is_cheap() -> None:
    """The number of nodes depends on the pattern, not on the vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(w) for n in (1, 2, 3) for w in itertools.product(letters, repeat=n)]
    circuit = pc.families.regular_expression("(cat|dog)+", 6, vocabulary)
    used = [text for text in vocabulary if re.search(text, "catcatdogdogcat")]
    small = pc.families.regular_expression("(cat|dog)+", 6, used)
    assert len(used) < 25
    assert len(circuit.nodes) == len(small.nodes)
    assert count(circuit) == count(small)
    lengths = pc.families.regular_expression("[a-z]{6}", 4, vocabulary)
    ways = sum(
        math.prod(26**n for n in sizes)
        for sizes in itertools.product((1, 2, 3), repeat=4)
        if sum(sizes) == 6
    )
    assert count(lengths) == pytest.approx(ways, rel=1e-12)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?=a)b", r"look-around.* at position 0"),
        (r"(a)\1", r"reference.* at position 3"),
        (r"a\b", "word boundary"),
        ("a++", "possessive repetition at position 2"),
        ("(?i)a", "flag"),
        ("a^b", "anchor inside the pattern at position 1"),
        ("(a$)b", "anchor inside"),
        ("a$b", "anchor inside"),
        ("[", "is not valid: unterminated character set"),
        ("d", "matches no sequence of 2 tokens"),
        ("(a|b)*a(a|b){9}", "more than max_states=100 states"),
    ],
)
def test_patterns_that_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(StructureError, match=message):
        pc.families.regular_expression(pattern, 2, VOCABULARY, max_states=100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pc.families.regular_expression("a", 0, VOCABULARY), "length must be"),
        (lambda: pc.families.regular_expression("a", 2, ["a", ""]), "token 1 is ''"),
        (lambda: pc.families.regular_expression("a", 2, ["a"], pad=1), "pad must be a token"),
        (lambda: pc.families.regular_expression(7, 2, ["a"]), "must be a string; found int"),
        (lambda: pc.families.automaton([{0: 1}], {0}, 2, 2), "state 0 moves to 1"),
        (lambda: pc.families.automaton([{0: 0}], {1}, 2, 2), "accepting state 1 does not exist"),
        (lambda: pc.families.automaton([{0: 0}], {0}, 2, 2, start=4), "start state 4"),
        (lambda: pc.families.automaton([{2: 0}], {0}, 2, 2), "move by token 2"),
        (
            lambda: pc.families.automaton([{0: 0, (0, 1): 1}, {}], {0}, 2, 2),
            "to 0 and to 1 by token 0",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], pc.Circuit], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        call()
