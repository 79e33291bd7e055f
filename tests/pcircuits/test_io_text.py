"""The text format: every circuit survives it, and every mistake is named with its line."""

from __future__ import annotations

import math
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
import pcircuits.io.text
from pcircuits.errors import FormatError
from pcircuits.execute.reference import log_value
from pcircuits.io.text import from_text, to_text, weighted_from_text
from pcircuits.parameters import WeightedCircuit
from tests.support.circuits import circuits, parameters_of
from tests.support.scalars import scalar_circuits

SPRINKLER = """\
pcircuits-text 1

# rain, and whether the grass is wet
rain = input 0 units=2 categories=2 supports=[[0], [1]]
"wet grass" = input 1 units=2 categories=2 parameter=wet
both = product(rain, "wet grass")
root = sum(both)
weights wet = [[0.9, 0.1], [0.2, 0.8]]
weights root = [0.7, 0.3]
"""


def _fields(circuit: pc.Circuit) -> list[tuple[object, ...]]:
    """All that a circuit's nodes say."""
    place = {node: i for i, node in enumerate(circuit.nodes)}
    keys = ("variable", "num_categories", "supports", "mixing", "weighted")
    return [
        (
            type(node),
            circuit.node_names[node],
            circuit.parameter_names.get(node),
            getattr(getattr(node, "parameter", None), "start", None),
            node.num_units,
            [place[child] for child in node.children],
            *(getattr(node, key, None) for key in keys),
        )
        for node in circuit.nodes
    ]


@given(st.one_of(circuits(), scalar_circuits()))
def test_structure_survives(circuit: pc.Circuit) -> None:
    again = from_text(to_text(circuit))

    assert _fields(again) == _fields(circuit)
    assert to_text(again) == to_text(circuit)


@given(st.data())
def test_weights_survive(data: Any) -> None:
    circuit = data.draw(circuits())
    weights = data.draw(parameters_of(circuit, per_example=False))

    again = weighted_from_text(to_text(WeightedCircuit(circuit, weights)))

    assert again.log_weights.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(again.log_weights[name], tensor, rtol=1e-14, atol=1e-14)


def test_parts_and_plain_sums_survive() -> None:
    inputs = [
        pc.Input(0, num_units=2, num_categories=2, parameter=pc.Part("table", start))
        for start in (0, 2)
    ]
    sums = [
        pc.Sum(node, num_units=1, parameter=pc.Part("sums", 2 * place))
        for place, node in enumerate(inputs)
    ]
    circuit = pc.Circuit(pc.Sum(*sums, num_units=1, weighted=False))

    text = to_text(circuit)

    assert _fields(from_text(text)) == _fields(circuit)
    assert "parameter=table[2]" in text
    assert "weighted=false" in text


@pytest.mark.parametrize("log_weight", [-math.inf, -1000.0, 1000.0, -0.1])
def test_extreme_weights_survive(log_weight: float) -> None:
    circuit = pc.Circuit(pc.Input(0, num_units=1, num_categories=2, name="x"))
    weights = {"x": torch.tensor([[log_weight, 0.0]], dtype=torch.float64)}

    again = weighted_from_text(to_text(WeightedCircuit(circuit, weights)))

    torch.testing.assert_close(again.log_weights["x"], weights["x"], rtol=1e-14, atol=1e-14)


def test_a_text_by_hand() -> None:
    weighted = weighted_from_text(SPRINKLER)

    worlds = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    found = log_value(weighted.circuit, weighted.log_weights, pc.Evidence(values=worlds)).exp()

    expected = torch.tensor([0.63, 0.07, 0.06, 0.24], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    written = [line for line in SPRINKLER.splitlines() if line and not line.startswith("#")]
    assert to_text(weighted).splitlines() == written


def _documented(text: str, start: str) -> str:
    """The lines from the header on, as far as they go."""
    found = textwrap.dedent(text[text.rindex("\n", 0, text.index(start)) :]).strip()
    return re.split(r"\n\n|\n```", found)[0]


def test_documented_examples_work() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "file-format.md").read_text()
    for text in (page, pcircuits.io.text.__doc__ or ""):
        weighted = weighted_from_text(_documented(text, "pcircuits-text 1"))

        found = pc.CircuitModel.of(weighted).log_likelihood(torch.tensor([[1, 0]])).exp().detach()
        assert abs(float(found) - 0.06) < 1e-6


NAMES = ["weights", "log_weights", "a b", "ü", '"', "\n", "\u2028", "#", "0"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives(name: str) -> None:
    node = pc.Input(0, num_units=1, num_categories=2, name=name, parameter="p" + name)
    circuit = pc.Circuit(node)

    assert _fields(from_text(to_text(circuit))) == _fields(circuit)


def test_a_large_text_is_read_in_time() -> None:
    circuit = pc.families.hmm(3000, num_states=2, num_categories=2)

    assert len(from_text(to_text(circuit)).nodes) == len(circuit.nodes)


X = "x = input 0 categories=2"
DAMAGE = {
    "nothing": ("", "sketch has no nodes"),
    "no nodes": ("pcircuits-text 1\n# nothing\n", "sketch has no nodes"),
    "no header": (X, "sketch:1: expected 'pcircuits-text 1'"),
    "a later version": (f"pcircuits-text 2\n{X}", "sketch:1: expected 'pcircuits-text 1'"),
    "no name": (f"{X}\n= sum(x)", "sketch:3: expected the name of a node; found '= sum"),
    "no equals sign": (f"{X}\ny sum(x)", "sketch:3: expected '='; found 'sum"),
    "unknown kind": (f"{X}\ny = max(x)", "sketch:3: .*found 'max'"),
    "a name twice": (f"{X}\n{X}", "sketch:3: node 'x' is there already"),
    "a child missing": (f"{X}\ny = sum(z)", "sketch:3: node 'z' is not defined"),
    "a child later": (f"y = sum(x)\n{X}", "sketch:2: node 'x' is not defined"),
    "no children": (f"{X}\ny = sum()", r"sketch:3: expected the name of a child; found '\)'"),
    "not closed": (f"{X}\ny = sum(x", r"sketch:3: expected '\)'"),
    "something after": (f"{X}\ny = product(x) units=2", "sketch:3: expected the end of the line"),
    "no variable": ("x = input categories=2", "sketch:2: expected a variable; found 'categories"),
    "a huge variable": ("x = input 99999999 categories=2", "sketch:2: variable 99999999"),
    "no categories": ("x = input 0", "sketch:2: expected categories="),
    "zero units": ("x = input 0 units=0 categories=2", "sketch:2: .*num_units"),
    "an option twice": (f"{X} categories=2", "sketch:2: .*each once; found 'categories'"),
    "an unknown option": (f"{X} mixing=true", "sketch:2: .*found 'mixing'"),
    "no flag": (f"{X}\ny = sum(x) mixing=yes", "sketch:3: mixing must be true or false"),
    "supports of a number": (f"{X} supports=3", "sketch:2: supports must be"),
    "supports of texts": (f'{X} supports=[["a"]]', "sketch:2: supports must be"),
    "supports outside": (f"{X} supports=[[7]]", "sketch:2: .*7"),
    "supports not closed": (f"{X} supports=[[0]", "sketch:2: expected supports"),
    "supports and a parameter": (f"{X} supports=[[0]] parameter=p", "sketch:2: "),
    "a part not closed": (f"{X} parameter=p[0", r"sketch:2: expected '\]'"),
    "not smooth": (f"{X}\ny = input 1 categories=2\nz = sum(x, y)", "sketch:4: .*smooth"),
    "not decomposable": (f"{X}\nz = product(x, x)", "sketch:3: .*decomposable"),
    "a variable left out": ("x = input 1 categories=2", "sketch: .*0 .. 1"),
    "weights twice": (f"{X}\nweights x = [[1, 1]]\nweights x = [[1, 1]]", "sketch:4: .*already"),
    "weights of texts": (f'{X}\nweights x = [["a"]]', "sketch:3: parameter 'x'"),
    "ragged weights": (f"{X}\nweights x = [[1, 1], [1]]", "sketch:3: parameter 'x'"),
    "negative weights": (f"{X}\nweights x = [[1, -1]]", "sketch:3: .*negative"),
    "NaN": (f"{X}\nweights x = [[1, NaN]]", "sketch:3: .*not finite"),
    "weights missing": (X, "sketch: parameter 'x' has shape None"),
    "other weights": (f"{X}\nweights y = [[1, 1]]", "sketch: parameter"),
    "weights of another shape": (f"{X}\nweights x = [1, 1]", r"sketch: parameter 'x' .*\(2,\)"),
    "deep brackets": (f"{X} supports={'[' * 10**5}", "sketch:2: expected supports"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_mistakes_are_named_with_their_line(kind: str) -> None:
    text, message = DAMAGE[kind]
    header = "" if "header" in kind or "version" in kind or not text else "pcircuits-text 1\n"
    text = text if text.startswith("pcircuits-text") else header + text

    with pytest.raises(FormatError, match=message):
        weighted_from_text(text, where="sketch")
