"""Other programs' text files: what they mean, by enumeration; mistakes named with their line."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits.errors import FormatError
from pcircuits.execute.reference import log_value
from pcircuits.io.jpc import read_jpc
from pcircuits.io.juice import read_clt, read_spn
from pcircuits.io.logic_files import read_nnf, read_sdd
from pcircuits.io.psdd import read_psdd
from pcircuits.io.vtree import read_vtree
from pcircuits.parameters import WeightedCircuit

World = tuple[int, ...]
Clauses = tuple[tuple[int, ...], ...]


def _values(circuit: pc.Circuit | WeightedCircuit) -> dict[World, float]:
    """World -> value of all worlds."""
    weighted = circuit if isinstance(circuit, WeightedCircuit) else WeightedCircuit(circuit, {})
    worlds = list(itertools.product(*(range(size) for size in weighted.circuit.categories)))
    evidence = pc.Evidence(values=torch.tensor(worlds))
    found = log_value(weighted.circuit, weighted.log_weights, evidence).exp()
    return dict(zip(worlds, found.tolist(), strict=True))


def _close(found: dict[World, float], expected: dict[World, float]) -> bool:
    return found.keys() == expected.keys() and all(
        math.isclose(found[world], expected[world], rel_tol=1e-12, abs_tol=1e-15) for world in found
    )


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


VTREE = """\
c a tree of two variables and a third
vtree 5
L 0 2
L 1 1
I 2 0 1
L 3 3
I 4 2 3
"""

# p(x2, x1, x3): x2 and x1 are never both true; x3 is x2 if x1 is false, else free.
PSDD = f"""\
c ids of psdd nodes start at 0
psdd 9
L 0 0 2
L 1 0 -2
L 2 1 -1
T 3 1 1 {math.log(0.25)}
D 4 2 1 0 2 0.0
D 5 2 1 1 3 0.0
L 6 3 3
T 7 3 3 {math.log(0.6)} {math.log(0.4)}
D 8 4 2 4 6 {math.log(0.3)} 5 7 {math.log(0.7)}
"""


def test_psdd(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.psdd", PSDD)
    vtree = _file(tmp_path, "x.vtree", VTREE)

    weighted = read_psdd(path, vtree)

    expected = dict.fromkeys(itertools.product((0, 1), repeat=3), 0.0)
    expected[0, 1, 1] = 0.3
    for x1, x3 in itertools.product((0, 1), repeat=2):
        expected[x1, 0, x3] = 0.7 * (0.75, 0.25)[x1] * (0.6, 0.4)[x3]
    assert _close(_values(weighted), expected)
    assert _close(_values(read_psdd(path)), expected)
    assert pc.validate(weighted.circuit).structured_decomposable


def test_a_certain_psdd_leaf(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.psdd", "psdd 1\nT 0 0 1 0.0\n")

    assert _values(read_psdd(path)) == {(0,): 0.0, (1,): 1.0}


def test_vtree(tmp_path: Path) -> None:
    vtree = read_vtree(_file(tmp_path, "x.vtree", VTREE))

    assert vtree.root == 4
    assert vtree.num_variables == 3
    assert vtree.scopes == {0: 0b010, 1: 0b001, 2: 0b011, 3: 0b100, 4: 0b111}


def test_spn(tmp_path: Path) -> None:
    text = f"""\
        (2 3)
        v 0 0
        v 0 1
        v 1 0
        v 1 2
        + 2 {math.log(0.5)} 3 {math.log(0.5)}
        * 0 4
        * 1 3
        + 5 {math.log(0.8)} 6 {math.log(0.2)}
        EOF
        this is not read
        """
    weighted = read_spn(_file(tmp_path, "x.spn", text))

    expected = dict.fromkeys(itertools.product((0, 1), (0, 1, 2)), 0.0)
    expected |= {(0, 0): 0.4, (0, 2): 0.4, (1, 2): 0.2}
    assert _close(_values(weighted), expected)


def test_juices_own_format(tmp_path: Path) -> None:
    text = f"""\
        c ids of jpc nodes start at 0
        jpc 7
        L 0 0 1
        L 1 0 -1
        C 2 1 2 {math.log(0.5)} {math.log(0.25)} {math.log(0.25)}
        I 3 1 2 3
        P 4 2 2 0 2
        P 5 2 2 1 3
        S 6 2 2 4 {math.log(0.9)} 5 {math.log(0.1)}
        """
    weighted = read_jpc(_file(tmp_path, "x.jpc", text))

    expected = dict.fromkeys(itertools.product((0, 1), (0, 1, 2, 3)), 0.0)
    expected |= {(1, 0): 0.45, (1, 1): 0.225, (1, 2): 0.225, (0, 3): 0.1}
    assert _close(_values(weighted), expected)


def test_chow_liu_tree(tmp_path: Path) -> None:
    """Two trees: 2 above 1 and 4, 3 alone; the first line after the roots is a leaf."""
    text = "4\n2\n2 0.75\n3 0.5\n4 1 0.125 0.25\n1 2 1.0 0.375\n"

    weighted = read_clt(_file(tmp_path, "x.clt", text))

    def bernoulli(one: float, value: int) -> float:
        return one if value else 1 - one

    expected = {
        (x1, x2, x3, x4): bernoulli(0.75, x2)
        * bernoulli(1.0 if x2 else 0.375, x1)
        * bernoulli(0.5, x3)
        * bernoulli(0.125 if x1 else 0.25, x4)
        for x1, x2, x3, x4 in itertools.product((0, 1), repeat=4)
    }
    assert _close(_values(weighted), expected)
    assert set(weighted.log_weights) == {"prior_1", "prior_2", "conditional_0", "conditional_3"}
    model = pc.CircuitModel.of(weighted)
    torch.testing.assert_close(
        model.log_likelihood(torch.tensor([[1, 1, 0, 1]])).exp(),
        torch.tensor([expected[1, 1, 0, 1]], dtype=model.log_weights[0].dtype),
    )


def _satisfied(clauses: Clauses, world: World) -> bool:
    return all(any(world[abs(lit) - 1] == (lit > 0) for lit in clause) for clause in clauses)


def _truth(clauses: Clauses, num_variables: int) -> dict[World, float]:
    worlds = itertools.product((0, 1), repeat=num_variables)
    return {world: float(_satisfied(clauses, world)) for world in worlds}


def _compiled(clauses: Clauses, num_variables: int) -> list[tuple[str, tuple[int, ...]]]:
    """Deterministic NNF nodes by deciding variables in order, as c2d would write them."""
    nodes: list[tuple[str, tuple[int, ...]]] = []

    def add(kind: str, *numbers: int) -> int:
        if (kind, numbers) not in nodes:
            nodes.append((kind, numbers))
        return nodes.index((kind, numbers))

    def below(clauses: Clauses, variable: int) -> int:
        if () in clauses:
            return add("O")
        if not clauses:
            return add("A")
        branches = []
        for literal in (variable, -variable):
            left = tuple(
                tuple(lit for lit in clause if lit != -literal)
                for clause in clauses
                if literal not in clause
            )
            branches.append(add("A", add("L", literal), below(left, variable + 1)))
        nodes.append(("O", tuple(branches)))
        return len(nodes) - 1

    root = below(clauses, 1)
    assert root == len(nodes) - 1
    return nodes


def _random_clauses(seed: int, num_variables: int) -> Clauses:
    chance = random.Random(seed)
    return tuple(
        tuple(
            variable if chance.random() < 0.5 else -variable
            for variable in sorted(chance.sample(range(1, num_variables + 1), 2))
        )
        for _ in range(chance.randint(1, 4))
    )


def _c2d(nodes: list[tuple[str, tuple[int, ...]]], num_variables: int) -> str:
    def line(kind: str, numbers: tuple[int, ...]) -> str:
        counts = {"L": [], "A": [len(numbers)], "O": [0, len(numbers)]}[kind]
        return " ".join(map(str, (kind, *counts, *numbers)))

    edges = sum(len(numbers) for kind, numbers in nodes if kind != "L")
    head = f"nnf {len(nodes)} {edges} {num_variables}"
    return "\n".join([head, *(line(*node) for node in nodes)])


def _d4(nodes: list[tuple[str, tuple[int, ...]]]) -> str:
    """The same nodes in d4's format, literals on the edges; node 1 is the root: it counts down."""
    name = {place: len(nodes) - place for place in range(len(nodes))}
    lines = []
    for place, (kind, numbers) in enumerate(nodes):
        if kind == "L":
            continue
        constant = {"A": "t", "O": "f"}[kind]
        lines.append(f"{kind.lower() if numbers else constant} {name[place]} 0")
        literals = [n for n in numbers if nodes[n][0] == "L"]
        others = [n for n in numbers if nodes[n][0] != "L"]
        text = "".join(f" {nodes[n][1][0]}" for n in literals)
        lines += [f"{name[place]} {name[other]}{text} 0" for other in others]
    return "\n".join(reversed(lines))


@pytest.mark.parametrize("seed", range(20))
def test_nnf_files_are_their_formulas(seed: int, tmp_path: Path) -> None:
    clauses = _random_clauses(seed, num_variables=4)
    nodes = _compiled(clauses, 4)
    expected = _truth(clauses, 4)
    assert any(expected.values()), "clauses of two literals; choose another seed"

    c2d = read_nnf(_file(tmp_path, "c2d.nnf", _c2d(nodes, 4)))
    d4 = read_nnf(_file(tmp_path, "d4.nnf", _d4(nodes)), num_variables=4)

    assert _close(_values(c2d), expected)
    assert _close(_values(d4), expected)


def test_d4s_own_example(tmp_path: Path) -> None:
    text = "o 1 0\no 2 0\no 3 0\nt 4 0\n3 4 -2 3 0\n3 4 2 0\n2 3 -1 0\n2 4 1 0\n1 2 0\n"

    circuit = read_nnf(_file(tmp_path, "x.nnf", text))

    assert _close(_values(circuit), _truth(((1, 2, 3),), 3))


def test_variables_that_no_node_has_are_free(tmp_path: Path) -> None:
    circuit = read_nnf(_file(tmp_path, "x.nnf", "nnf 1 0 3\nL -2\n"))

    assert _close(_values(circuit), _truth(((-2,),), 3))


def test_a_formula_that_is_always_true(tmp_path: Path) -> None:
    assert set(_values(read_nnf(_file(tmp_path, "x.nnf", "nnf 1 0 2\nA 0\n"))).values()) == {1.0}


def test_sdd(tmp_path: Path) -> None:
    """(x2 and x1) or (not x2 and x3), the constants among the subs."""
    text = """\
        sdd 9
        L 0 0 2
        L 1 0 -2
        L 2 1 1
        F 3
        D 4 2 2 0 2 1 3
        T 5
        D 6 2 2 1 5 0 3
        L 7 3 3
        D 8 4 2 4 5 6 7
        """
    path = _file(tmp_path, "x.sdd", text)

    expected = {
        (x1, x2, x3): float((x2 and x1) or (not x2 and x3))
        for x1, x2, x3 in itertools.product((0, 1), repeat=3)
    }
    assert _close(_values(read_sdd(path)), expected)
    assert _close(_values(read_sdd(path, _file(tmp_path, "x.vtree", VTREE))), expected)


def test_a_vtree_says_which_variables_there_are(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.sdd", "sdd 1\nL 0 0 2\n")

    assert read_sdd(path).num_variables == 2
    assert read_sdd(path, _file(tmp_path, "x.vtree", VTREE)).num_variables == 3


def test_deep_files(tmp_path: Path) -> None:
    """A chain of 20,000 nodes, deeper than Python's stack."""
    size = 20_000
    nodes = ["nnf 1 1 2", "L 1"] + [f"A 1 {place}" for place in range(size)]
    chain = "\n".join(["o 1 0", "t 2 0"] + [f"o {i} 0" for i in range(3, size)])
    edges = "\n".join(["1 3 0"] + [f"{i} {i + 1} 0" for i in range(3, size - 1)])

    c2d = read_nnf(_file(tmp_path, "deep.nnf", "\n".join(nodes)))
    d4 = read_nnf(_file(tmp_path, "deep4.nnf", f"{chain}\n{edges}\n{size - 1} 2 1 0"))

    assert _close(_values(c2d), _truth(((1,),), 2))
    assert _close(_values(d4), _truth(((1,),), 1))


Reader = Callable[[Path], object]
DAMAGE: dict[str, tuple[Reader, str, str]] = {
    "vtree: nothing": (read_vtree, "c no nodes\n", "damaged has no nodes"),
    "vtree: unknown line": (read_vtree, "vtree 1\nX 0 1\n", "damaged:2: expected 'vtree'"),
    "vtree: no variable": (read_vtree, "L 0 0\n", "damaged:1: expected a variable"),
    "vtree: too many words": (read_vtree, "L 0 1 2\n", "damaged:1: expected 'L id variable'"),
    "vtree: a variable twice": (read_vtree, "L 0 1\nL 1 1\nI 2 0 1\n", "damaged:3: .*share"),
    "vtree: a node twice": (read_vtree, "L 0 1\nL 0 2\n", "damaged:2: node 0 is there"),
    "vtree: a child missing": (read_vtree, "L 0 1\nI 2 0 1\n", "damaged:2: node 1 is not"),
    "psdd: nothing": (read_psdd, "psdd 0\n", "damaged has no nodes"),
    "psdd: unknown line": (read_psdd, "psdd 1\nS 0 0 1\n", "damaged:2: expected 'psdd'"),
    "psdd: a literal of zero": (read_psdd, "L 0 0 0\n", "damaged:1: expected a literal"),
    "psdd: a literal too large": (read_psdd, "L 0 0 99999999\n", "damaged:1: .*too large"),
    "psdd: no literal": (read_psdd, "L 0 0\n", "damaged:1: expected"),
    "psdd: NaN": (read_psdd, "T 0 0 1 nan\n", "damaged:1: expected a log-probability"),
    "psdd: no probability": (read_psdd, "T 0 0 1 0.5\n", "damaged:1: 0.5 is not the logarithm"),
    "psdd: an element cut off": (
        read_psdd,
        "L 0 0 1\nL 1 1 2\nD 2 2 2 0 1 -0.1\n",
        "damaged:3: expected 'D id vtree 2",
    ),
    "psdd: a child missing": (read_psdd, "L 0 0 1\nD 1 2 1 0 7 0\n", "damaged:2: node 7"),
    "psdd: not decomposable": (read_psdd, "L 0 0 1\nD 1 2 1 0 0 0\n", "damaged:2: .*decomposable"),
    "psdd: not smooth": (
        read_psdd,
        "L 0 0 1\nL 1 1 2\nL 2 1 3\nD 3 2 2 0 1 -1 0 2 -1\n",
        "damaged:4: .*not smooth",
    ),
    "psdd: a variable left out": (read_psdd, "c\nL 0 0 2\n", "damaged: .*without a gap"),
    "spn: no domains": (read_spn, "v 0 0\n", r"damaged:1: .*\(2 2"),
    "spn: domains of texts": (read_spn, "(2 x)\n", "damaged:1: expected a number of categories"),
    "spn: empty domains": (read_spn, "()\n", "damaged:1: expected a number of categories"),
    "spn: another category": (read_spn, "(2)\nv 0 2\n", "damaged:2: .*no category 2 of 0"),
    "spn: another variable": (read_spn, "(2)\nv 1 0\n", "damaged:2: .*no category 0 of 1"),
    "spn: unknown line": (read_spn, "(2)\nmax 0 0\n", "damaged:2: expected 'v'"),
    "spn: a weight missing": (read_spn, "(2)\nv 0 0\n+ 0\n", "damaged:3: expected a log-weight"),
    "spn: no children": (read_spn, "(2)\n+\n", "damaged:2: a sum needs children"),
    "spn: no factors": (read_spn, "(2)\n*\n", "damaged:2: a product needs children"),
    "spn: a child later": (read_spn, "(2)\n* 1\n", "damaged:2: node 1 is not defined"),
    "spn: no nodes": (read_spn, "(2)\nEOF\n", "damaged has no nodes"),
    "jpc: unknown line": (read_jpc, "jpc 1\nX 0 0 1\n", "damaged:2: expected 'jpc'"),
    "jpc: no weights": (read_jpc, "C 0 0 1\n", "damaged:1: expected 'C id"),
    "jpc: a node twice": (read_jpc, "L 0 0 1\nL 0 0 1\n", "damaged:2: node 0 is there"),
    "jpc: children missing": (read_jpc, "L 0 0 1\nP 1 0 2 0\n", "damaged:2: expected 'P id"),
    "jpc: not text": (read_jpc, "", "damaged has no nodes"),
    "clt: too short": (read_clt, "2\n1\n", "damaged must have at least three lines"),
    "clt: lines missing": (read_clt, "2\n1\n1 0.5\n", "1 lines of 2 variables"),
    "clt: no probability": (read_clt, "1\n1\n1 1.5\n", "damaged:3: 1.5 is not a probability"),
    "clt: a variable too large": (read_clt, "1\n1\n2 0.5\n", "damaged:3: variable 2 is more"),
    "clt: a variable twice": (
        read_clt,
        "2\n1\n1 0.5\n1 1 0.5 0.5\n",
        "damaged:4: variable 1 is there",
    ),
    "clt: a circle": (
        read_clt,
        "3\n1\n1 0.5\n2 3 0.5 0.5\n3 2 0.5 0.5\n",
        "damaged: the edges make a circle",
    ),
    "nnf: nothing": (read_nnf, "", "damaged has no nodes"),
    "nnf: only a header": (read_nnf, "nnf 0 0 1\n", "damaged has no nodes"),
    "nnf: a short header": (read_nnf, "nnf 1 0\nL 1\n", "damaged:1: expected 'nnf nodes"),
    "nnf: unknown line": (read_nnf, "nnf 1 0 1\nX 1\n", "damaged:2: expected 'L', 'A' or 'O'"),
    "nnf: a child later": (read_nnf, "nnf 1 1 1\nA 1 0\n", "damaged:2: node 0 is not defined"),
    "nnf: children missing": (read_nnf, "nnf 2 1 1\nL 1\nO 0 2 0\n", "damaged:3: expected 'O"),
    "nnf: always false": (read_nnf, "nnf 1 0 1\nO 0 0\n", "damaged: .*always false"),
    "nnf: a variable too many": (read_nnf, "nnf 1 0 1\nL 2\n", "damaged: .*variables 0 .. 0"),
    "nnf: shared variables": (
        read_nnf,
        "nnf 3 2 2\nL 1\nL -1\nA 2 0 1\n",
        "damaged: .*not decomposable",
    ),
    "d4: no end": (read_nnf, "o 1 0\no 2\n", "damaged:2: expected a line that ends in 0"),
    "d4: no root": (read_nnf, "t 2 0\n", "damaged has no node 1"),
    "d4: a child missing": (read_nnf, "o 1 0\n1 2 0\n", "damaged:2: node 2 is not defined"),
    "d4: a circle": (read_nnf, "o 1 0\no 2 0\n1 2 0\n2 1 0\n", "damaged:4: .*circle"),
    "d4: a literal of zero": (read_nnf, "o 1 0\nt 2 0\n1 2 0 0\n", "damaged:3: .*literal"),
    "sdd: nothing": (read_sdd, "sdd 0\n", "damaged has no nodes"),
    "sdd: unknown line": (read_sdd, "sdd 1\nA 0 1\n", "damaged:2: expected 'sdd'"),
    "sdd: a node twice": (read_sdd, "T 0\nF 0\n", "damaged:2: node 0 is there"),
    "sdd: an element cut off": (read_sdd, "T 0\nD 1 0 2 0 0\n", "damaged:2: expected 'D id"),
    "sdd: always false": (read_sdd, "F 0\n", "damaged: .*always false"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_mistakes_are_named_with_their_line(kind: str, tmp_path: Path) -> None:
    read, text, message = DAMAGE[kind]

    with pytest.raises(FormatError, match=message):
        read(_file(tmp_path, "damaged", text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("L 0 9 2", "x.psdd:1: the vtree has no node 9"),
        ("L 0 1 2", "x.psdd:1: .*not those of node 1"),
        ("L 0 0 2\nL 1 1 1\nD 2 2 1 1 0 0.0", "x.psdd:3: .*not those of node 0"),
        ("L 0 0 2\nL 1 1 1\nD 2 3 1 0 1 0.0", "x.psdd:3: .*inner node"),
    ],
)
def test_a_psdd_must_follow_its_vtree(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        read_psdd(_file(tmp_path, "x.psdd", line), _file(tmp_path, "x.vtree", VTREE))


@pytest.mark.parametrize("read", [read_vtree, read_psdd, read_spn, read_clt, read_nnf, read_sdd])
def test_files_that_cannot_be_read_are_named(read: Reader, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"cannot read .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"binary is not text"):
        read(tmp_path / "binary")
