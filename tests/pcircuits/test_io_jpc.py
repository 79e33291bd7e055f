"""PyJuice's files: its own numbers come out, ours go in, and nothing of a file is ever run."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import pcircuits as pc
from pcircuits.errors import FormatError
from pcircuits.execute.reference import log_value
from pcircuits.io.jpc import read_jpc, write_jpc
from pcircuits.parameters import WeightedCircuit
from tests.support.circuits import circuits, parameters_of

DATA = Path(__file__).parents[1] / "data" / "jpc"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def _log_likelihood(weighted: WeightedCircuit, values: torch.Tensor) -> torch.Tensor:
    return log_value(weighted.circuit, weighted.log_weights, pc.Evidence(values=values))


def _worlds(circuit: pc.Circuit) -> torch.Tensor:
    axes = [torch.arange(size) for size in circuit.categories]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))


@pytest.mark.parametrize("name", EXPECTED)
def test_pyjuice_files_give_pyjuices_numbers(name: str) -> None:
    weighted = read_jpc(DATA / f"{name}.jpc")
    values = torch.tensor(EXPECTED[name]["values"])
    expected = torch.tensor(EXPECTED[name]["log_likelihood"], dtype=torch.float64)

    torch.testing.assert_close(_log_likelihood(weighted, values), expected, rtol=0, atol=1e-5)
    plan = pc.compile_circuit(weighted.circuit)
    found = pc.queries.log_likelihood(plan, weighted.log_weights, values)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    print(f"{name}: largest difference to PyJuice {float((found - expected).abs().max()):.1e}")


@pytest.mark.parametrize("name", EXPECTED)
def test_pyjuice_files_are_distributions(name: str) -> None:
    weighted = read_jpc(DATA / f"{name}.jpc")

    total = _log_likelihood(weighted, _worlds(weighted.circuit)).logsumexp(0)

    assert abs(float(total)) < 1e-5


def test_ties_survive() -> None:
    homogeneous = read_jpc(DATA / "hmm.jpc")

    shapes = {tuple(tensor.shape) for tensor in homogeneous.log_weights.values()}

    assert shapes == {(4, 5), (4, 4), (4,)}


def test_blocks_that_are_not_connected_have_no_weights() -> None:
    weighted = read_jpc(DATA / "hmm_blocks.jpc")

    transitions = [t for t in weighted.log_weights.values() if t.dim() == 1 and t.numel() > 4]

    assert [t.numel() for t in transitions] == [12] * 4  # three of four blocks of 2 x 2


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_files_survive_our_writer(name: str, tmp_path: Path) -> None:
    weighted = read_jpc(DATA / f"{name}.jpc")
    write_jpc(tmp_path / "again.jpc", weighted)
    again = read_jpc(tmp_path / "again.jpc")

    worlds = _worlds(weighted.circuit)

    torch.testing.assert_close(
        _log_likelihood(again, worlds), _log_likelihood(weighted, worlds), rtol=0, atol=1e-6
    )


@given(st.data())
def test_random_circuits_survive(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    circuit = data.draw(circuits())
    log_weights = data.draw(parameters_of(circuit, per_example=False, normalized=True))
    path = tmp_path_factory.mktemp("jpc") / "circuit.jpc"

    write_jpc(path, WeightedCircuit(circuit, log_weights))
    again = read_jpc(path)

    worlds = _worlds(circuit)
    expected = _log_likelihood(WeightedCircuit(circuit, log_weights), worlds)
    found = _log_likelihood(again, worlds)
    assert again.circuit.categories == circuit.categories
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ties_are_written_once(tmp_path: Path) -> None:
    circuit = pc.families.hmm(5, num_states=4, num_categories=3)
    weights = pc.random_parameters(pc.compile_circuit(circuit))

    write_jpc(tmp_path / "hmm.jpc", WeightedCircuit(circuit, weights))
    entries = pickle.loads((tmp_path / "hmm.jpc").read_bytes())

    assert sum("params" in entry for entry in entries) == 3
    assert {entry["block_size"] for entry in entries} == {1, 4}
    assert len(read_jpc(tmp_path / "hmm.jpc").log_weights) == 3


class _Categorical:
    """Stands for PyJuice's class of that name."""


def test_the_distribution_is_written_as_pyjuice_reads_it(tmp_path: Path) -> None:
    weights = {"inputs": torch.tensor([[0.25, 0.75]]).log()}
    circuit = pc.Circuit(pc.Input(0, num_units=1, num_categories=2, parameter="inputs"))
    write_jpc(tmp_path / "one.jpc", WeightedCircuit(circuit, weights))
    named = []

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            named.append(f"{module}.{name}")
            return _Categorical

    data = pickle.loads((tmp_path / "one.jpc").read_bytes())[0]["dist"]
    distribution = Unpickler(io.BytesIO(data)).load()

    assert named == ["pyjuice.nodes.distributions.categorical.Categorical"]
    empty: dict[str, object] = {"post_fw_fns": [], "post_bp_fns": [], "sampling_fns": []}
    assert vars(distribution) == empty | {"num_cats": 2}


def _plain_sum() -> WeightedCircuit:
    inputs = pc.Input(0, num_units=2, num_categories=2, supports=((0,), (1,)))
    return WeightedCircuit(pc.Circuit(pc.Sum(inputs, num_units=1, weighted=False)), {})


def _wide_indicator() -> WeightedCircuit:
    node = pc.Input(0, num_units=1, num_categories=2, supports=((0, 1),))
    return WeightedCircuit(pc.Circuit(node), {})


def _not_normalised() -> WeightedCircuit:
    circuit = pc.Circuit(pc.Input(0, num_units=1, num_categories=2, parameter="p"))
    return WeightedCircuit(circuit, {"p": torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_plain_sum, "has no weights"),
        (_wide_indicator, "is 1 on 2 categories"),
        (_not_normalised, "sums to 2;"),
    ],
)
def test_what_pyjuice_cannot_hold_is_refused(
    make: Callable[[], WeightedCircuit], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=message):
        write_jpc(tmp_path / "x.jpc", make())
    assert not list(tmp_path.iterdir())


# Distributions as their own classes are pickled, without PyJuice: a class of that name.
def _distribution(path: str, arguments: tuple[object, ...] = (), **state: object) -> bytes:
    module, _, name = path.rpartition(".")
    head = f"cpyjuice.nodes.distributions.{module}\n{name}\n".encode()
    call = pickle.dumps(arguments, protocol=2)[2:-1] + b"R" if arguments else b")\x81"
    return b"\x80\x02" + head + call + pickle.dumps(state, protocol=2)[2:-1] + b"b."


def _input(dist: bytes, **entry: object) -> dict[str, object]:
    sizes = {"num_node_blocks": 1, "block_size": 1}
    return {"type": "Input", **sizes, "chs": (), "scope": [0], "dist": dist, **entry}


CATEGORICAL = _distribution("categorical.Categorical", num_cats=2)
HALVES = np.array([0.25, 0.75], dtype=np.float32)


def _file(path: Path, entries: object) -> Path:
    path.write_bytes(pickle.dumps(entries))
    return path


@pytest.mark.parametrize(
    ("dist", "params", "probabilities"),
    [
        (CATEGORICAL, HALVES, [0.25, 0.75]),
        (_distribution("bernoulli.Bernoulli"), HALVES[1:], [0.25, 0.75]),
        (
            _distribution("softevi_categorical.SoftEvidenceCategorical", (2,)),
            HALVES,
            [0.25, 0.75],
        ),
        (_distribution("literal.Literal", lit=1), None, [0, 1]),
        (_distribution("indicator.Indicator", num_states=3), None, [1, 0, 0]),
    ],
)
def test_distributions(
    dist: bytes, params: np.ndarray | None, probabilities: list[float], tmp_path: Path
) -> None:
    entries = [_input(dist, params=params)]

    weighted = read_jpc(_file(tmp_path / "x.jpc", entries))

    found = _log_likelihood(weighted, _worlds(weighted.circuit)).exp()
    torch.testing.assert_close(found, torch.tensor(probabilities, dtype=torch.float64))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f2"])
def test_old_names_and_protocols(protocol: int, dtype: str, tmp_path: Path) -> None:
    matrix = np.array([[[0.25, 0.75], [0.5, 0.5]]], dtype=dtype, order="F")
    table = np.array([[0.125, 0.875], [0.75, 0.25]], dtype=dtype)
    old = {"num_node_groups": 1, "group_size": 2}
    edges = np.array([[0], [0]], dtype=np.int32)
    entries = [
        {
            "type": "Input",
            **old,
            "chs": (),
            "scope": [0],
            "dist": CATEGORICAL,
            "params": table.reshape(-1),
        },
        {"type": "Product", **old, "chs": (0,), "edge_ids": np.array([[0]])},
        {"type": "Sum", **old, "chs": (1,), "edge_ids": edges, "params": matrix},
        {"type": "Product", **old, "chs": (2,), "edge_ids": np.array([[0], [1]])},
        {
            "type": "Sum",
            "num_node_groups": 1,
            "group_size": 1,
            "chs": (3,),
            "edge_ids": edges,
            "params": np.array([[[0.5, 0.5]]], dtype=dtype),
        },
    ]
    path = tmp_path / "old.jpc"
    path.write_bytes(pickle.dumps(entries, protocol=protocol))

    weighted = read_jpc(path)

    found = _log_likelihood(weighted, torch.tensor([[0], [1]])).exp()
    expected = torch.tensor([0.5, 0.5], dtype=torch.float64) @ (
        torch.tensor(matrix[0].astype(float)) @ torch.tensor(table.astype(float))
    )
    torch.testing.assert_close(found, expected)


Entry = dict[str, Any]


class _Entries:
    """Random vectors of units, connected as PyJuice allows: by blocks, by units, sparsely, tied."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._block = int(self._random.choice([1, 2, 4]))
        self._sums: list[int] = []
        self.num_variables = int(self._random.integers(1, 5))
        self.entries: list[Entry] = []
        root = self._region(list(range(self.num_variables)))
        self._sum([root], num_blocks=1, block=1)

    def _append(self, kind: str, num_blocks: int, block: int, **entry: Any) -> int:
        sizes = {"num_node_blocks": num_blocks, "block_size": block}
        self.entries.append({"type": kind, **sizes, **entry})
        return len(self.entries) - 1

    def _blocks(self, place: int) -> int:
        return int(self.entries[place]["num_node_blocks"])

    def _region(self, variables: list[int]) -> int:
        if len(variables) == 1:
            return self._input(variables[0])
        cut = int(self._random.integers(1, len(variables)))
        below = [self._above(self._region(part)) for part in (variables[:cut], variables[cut:])]
        return self._product(below)

    def _above(self, place: int) -> int:
        """Sums over what is there, sometimes twice, with a product between."""
        for _ in range(int(self._random.integers(0, 3))):
            children = [place, self._product([place])][: int(self._random.integers(1, 3))]
            tied = self._tied(children)
            place = self._sum(children, int(self._random.integers(1, 4)), self._block, tied)
        return place

    def _input(self, variable: int) -> int:
        num_blocks = int(self._random.integers(1, 4))
        owners = [i for i, e in enumerate(self.entries) if e["type"] == "Input" and "params" in e]
        owners = [i for i in owners if self._blocks(i) == num_blocks]
        entry: Entry = {"chs": (), "scope": [variable], "dist": CATEGORICAL}
        if owners and self._random.random() < 0.5:
            entry["source_node"] = owners[0]
        else:
            table = self._random.random((num_blocks * self._block, 2), dtype=np.float32)
            entry["params"] = (table / table.sum(1, keepdims=True)).reshape(-1)
        return self._append("Input", num_blocks, self._block, **entry)

    def _product(self, below: list[int]) -> int:
        sizes = [self._blocks(place) for place in below]
        units = [size * self._block for size in sizes]
        kind = self._random.choice(["straight", "blocks", "units", "crossed"])
        if kind == "straight":
            edges = np.arange(min(sizes))[:, None].repeat(len(below), 1)
        elif kind == "blocks":
            edges = self._random.integers(0, sizes, (int(self._random.integers(1, 4)), len(below)))
        elif kind == "units":
            rows = int(self._random.integers(1, 4)) * self._block
            edges = self._random.integers(0, units, (rows, len(below)))
        else:
            edges = np.indices(units).reshape(len(below), -1).T.copy()
        by_block = kind in ("straight", "blocks")
        num_blocks = len(edges) if by_block else len(edges) // self._block
        return self._append("Product", num_blocks, self._block, chs=tuple(below), edge_ids=edges)

    def _tied(self, children: list[int]) -> int | None:
        """An earlier sum over as many blocks, if the coin says so."""
        blocks = [self._blocks(place) for place in children]
        for place in self._sums:
            if [self._blocks(child) for child in self.entries[place]["chs"]] == blocks:
                return place if self._random.random() < 0.7 else None
        return None

    def _sum(
        self, children: list[int], num_blocks: int, block: int, tied: int | None = None
    ) -> int:
        if tied is not None:
            entry = {"edge_ids": self.entries[tied]["edge_ids"], "source_node": tied}
            return self._append("Sum", self._blocks(tied), block, chs=tuple(children), **entry)
        shape = (num_blocks, sum(self._blocks(child) for child in children))
        connected = self._random.random(shape) < self._random.choice([0.5, 1.0])
        connected[:, 0] |= ~connected.any(axis=1)
        edges = self._random.permutation(np.argwhere(connected)).T
        params = self._random.random((edges.shape[1], block, self._block), dtype=np.float32)
        params[self._random.random(params.shape) < 0.1] = 0
        entry = {"edge_ids": edges, "params": params}
        place = self._append("Sum", num_blocks, block, chs=tuple(children), **entry)
        if block == self._block:
            self._sums.append(place)
        return place

    def value(self, world: tuple[int, ...]) -> float:
        """The root's value, unit by unit as PyJuice's documentation says."""
        values: list[np.ndarray] = []
        for entry in self.entries:
            owner = self.entries[entry.get("source_node", len(values))]
            if entry["type"] == "Input":
                table = owner["params"].reshape(-1, 2).astype(float)
                values.append(table[:, world[entry["scope"][0]]])
                continue
            below = [values[child] for child in entry["chs"]]
            evaluate = _product_value if entry["type"] == "Product" else _sum_value
            values.append(evaluate(entry, owner, below, self._block))
        return float(values[-1][0])


def _product_value(entry: Entry, _: Entry, below: list[np.ndarray], block: int) -> np.ndarray:
    edges = entry["edge_ids"]
    if len(edges) == entry["num_node_blocks"]:
        edges = (edges[:, None, :] * block + np.arange(block)[None, :, None]).reshape(
            -1, len(below)
        )
    return np.prod([child[edges[:, j]] for j, child in enumerate(below)], axis=0)


def _sum_value(entry: Entry, owner: Entry, below: list[np.ndarray], block: int) -> np.ndarray:
    blocks = np.concatenate(below).reshape(-1, block)
    found = np.zeros((entry["num_node_blocks"], entry["block_size"]))
    for (parent, child), weights in zip(entry["edge_ids"].T, owner["params"], strict=True):
        found[parent] += weights.astype(float) @ blocks[child]
    return found.reshape(-1)


@given(st.integers(0, 10**6))
def test_any_connection_of_blocks_and_units(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    made = _Entries(seed)
    path = _file(tmp_path_factory.mktemp("jpc") / "x.jpc", made.entries)

    weighted = read_jpc(path)

    worlds = _worlds(weighted.circuit)
    expected = [made.value(tuple(world)) for world in worlds.tolist()]
    found = _log_likelihood(weighted, worlds).exp()
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0
    )


class _Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


class _Persistent(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value if isinstance(value, str) and value.startswith("touch") else None


def _persistent(command: str) -> bytes:
    buffer = io.BytesIO()
    _Persistent(buffer).dump([command])
    return buffer.getvalue()


def _text(command: str) -> bytes:
    return pickle.dumps(command, protocol=2)[2:-1]


def _nested(command: str) -> bytes:
    return pickle.dumps([_input(pickle.dumps(_Call(os.system, command)), params=HALVES)])


def _built(command: str) -> bytes:
    """An admitted name, then attributes set on it: no class may be changed for the next file."""
    return b"\x80\x02cnumpy\nndarray\n}" + _text("__setstate__") + b"cos\nsystem\nsb."


# What a file may try. All but the marked ones run the command if they are unpickled.
LIVE: dict[str, Callable[[str], bytes]] = {
    "os.system": lambda command: pickle.dumps([_Call(os.system, command)]),
    "os.system, protocol 0": lambda command: pickle.dumps([_Call(os.system, command)], protocol=0),
    "builtins.eval": lambda command: pickle.dumps(
        _Call(eval, f"__import__('os').system({command!r})")
    ),
    "builtins.exec": lambda command: pickle.dumps(
        {"type": _Call(exec, f"import os; os.system({command!r})")}
    ),
    "a call in dist": lambda command: _nested(command),
    "INST": lambda command: b"\x80\x02(" + _text(command) + b"ios\nsystem\n.",
    "OBJ": lambda command: b"\x80\x02(cos\nsystem\n" + _text(command) + b"o.",
    "a call after valid nodes": lambda command: pickle.dumps(
        [_input(CATEGORICAL, params=HALVES), _Call(os.system, command)]
    ),
    "getattr": lambda command: (
        pickle.dumps(_Call(getattr, _Call(__import__, "os"), "system"))[:-1]
        + _text(command)
        + b"\x85R."
    ),
}
DEAD: dict[str, Callable[[str], bytes]] = {
    "persistent id": _persistent,
    "an extension code": lambda command: b"\x80\x02\x82\x07.",
    "copyreg": lambda command: pickle.dumps(_Call(copyreg._reconstructor, dict, dict, {})),
    "an array of a class of its own": lambda command: (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85C\x01b\x87R."
    ),
    "_reconstruct of a text": lambda command: (
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\n"
        + _text(command)
        + b"K\x00\x85C\x01b\x87R."
    ),
    "an array of objects": lambda command: pickle.dumps(np.array([command], dtype=object)),
    "a call of ndarray": lambda command: b"\x80\x02cnumpy\nndarray\nM\xff\xff\x85R.",
    "attributes of a class": _built,
    "a module that does not exist": lambda command: b"\x80\x02cno_such_module\nname\n.",
    "numpy's other functions": lambda command: pickle.dumps(_Call(np.fromfile, command)),
    "a name beside the distributions": lambda command: pickle.dumps(
        [_input(b"\x80\x02cpyjuice.nodes\ndistributions\n.")]
    ),
}


def _distribution_call(command: str) -> bytes:
    """A name inside the admitted module that leads out of it: it must stay a name."""
    dist = b"\x80\x02cpyjuice.nodes.distributions.distributions\ntorch.os.system\n"
    return pickle.dumps([_input(dist + _text(command) + b"\x85R.", params=HALVES)])


@pytest.mark.parametrize("kind", [*LIVE, *DEAD])
def test_hostile_files_are_refused_and_nothing_runs(kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    payload = {**LIVE, **DEAD}[kind](f"touch {marker}")
    path = tmp_path / "hostile.jpc"
    path.write_bytes(payload)

    with pytest.raises(FormatError, match=r"hostile\.jpc"):
        read_jpc(path)

    assert not marker.exists()


@pytest.mark.parametrize("kind", LIVE)
def test_the_hostile_files_are_live(kind: str, tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    marker = tmp_path / "it_ran"
    payload = LIVE[kind](f"touch {marker}")
    if kind == "a call in dist":
        payload = pickle.loads(payload)[0]["dist"]

    pickle.loads(payload)

    assert marker.exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("os.system", "'posix.system'"),
        ("builtins.eval", "'builtins.eval'"),
        ("a call in dist", "node 0: dist asks for 'posix.system'"),
        ("a module that does not exist", "'no_such_module.name'"),
        ("persistent id", "BINPERSID"),
        ("an extension code", "EXT1"),
        ("INST", "INST"),
    ],
)
def test_what_is_refused_is_named(kind: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.jpc"
    path.write_bytes({**LIVE, **DEAD}[kind]("touch nothing"))

    with pytest.raises(FormatError, match=name):
        read_jpc(path)


def test_admitted_names_are_never_looked_up(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    path = tmp_path / "hostile.jpc"
    path.write_bytes(_distribution_call(f"touch {marker}"))

    with pytest.raises(FormatError, match="distribution system"):
        read_jpc(path)

    assert not marker.exists()


def _bomb() -> bytes:
    """A list that shares itself forty times over: visiting its values would not end."""
    levels = b"".join(
        b"]q" + bytes([level]) + b"(" + (b"h" + bytes([level - 1])) * 2 + b"e"
        for level in range(1, 60)
    )
    return b"\x80\x02]q\x00" + levels + b"."


def _array_entry(shape: tuple[int, ...], raw: bytes, text: str = "f4") -> bytes:
    dtype = b"cnumpy\ndtype\n" + _text(text) + b"\x89\x88\x87R"
    state = b"(K\x01" + pickle.dumps(shape, protocol=2)[2:-1] + dtype + b"\x89"
    content = b"B" + len(raw).to_bytes(4, "little") + raw
    head = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return b"\x80\x03]" + head + state + content + b"tba."


ENTRY = _input(CATEGORICAL, params=HALVES)
SUM = {
    "type": "Sum",
    "num_node_blocks": 1,
    "block_size": 1,
    "chs": (0,),
    "edge_ids": np.array([[0], [0]]),
    "params": np.ones((1, 1, 1), dtype=np.float32),
}
DAMAGE: dict[str, tuple[object, str]] = {
    "nothing": (b"", "has no nodes"),
    "no pickle": (b"hello there", "damaged.jpc:1: expected 'jpc'"),
    "neither text nor pickle": (b"\xff\xfe", "is not text"),
    "an escape that is none": (b"\x80\x02ca\\.\nb\n.", "not a well-formed pickle: invalid escape"),
    "only a protocol": (b"\x80\x04", "not a well-formed pickle"),
    "cut off": (pickle.dumps([ENTRY])[:-20], "not a well-formed pickle|dist"),
    "no list": ({"type": "Input"}, "list of nodes; found dict"),
    "an empty list": ([], "list of nodes"),
    "a value": ([3], "node 0 must be a dictionary"),
    "a bomb": (_bomb(), "not a well-formed pickle|list"),
    "deep": (b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".", "must be a dictionary"),
    "an array of a huge shape": (_array_entry((2**40,), b"1234"), "has 4 bytes"),
    "an array of a negative shape": (_array_entry((-1, -1), b"1234"), "shape"),
    "an array of objects": (_array_entry((1,), b"12345678", "O8"), "type is 'O8'"),
    "no kind": ([{**ENTRY, "type": "Max"}], "type 'Max'"),
    "no children": ([{k: v for k, v in ENTRY.items() if k != "chs"}], "node 0 lacks 'chs'"),
    "no size": ([{**ENTRY, "num_node_blocks": 0}], "0 blocks"),
    "a size of another type": ([{**ENTRY, "block_size": "2"}], "units"),
    "a huge size": ([{**ENTRY, "num_node_blocks": 2**40}], "claims more units than"),
    "a child after it": ([ENTRY, {**SUM, "chs": (1,)}], "child 1"),
    "a variable too large": ([{**ENTRY, "scope": [10**9]}], "variable 1000000000"),
    "two variables": ([{**ENTRY, "scope": [0, 1]}], "expected one variable"),
    "a variable left out": ([ENTRY, {**ENTRY, "scope": [1]}], "without a gap|lacks"),
    "no parameters": ([{**ENTRY, "params": None}], "before they were initialised"),
    "too few parameters": ([{**ENTRY, "params": HALVES[:1]}], "1 numbers"),
    "negative parameters": ([{**ENTRY, "params": -HALVES}], "not probabilities"),
    "NaN": ([{**ENTRY, "params": HALVES * np.nan}], "not probabilities"),
    "another distribution": (
        [{**ENTRY, "dist": _distribution("gaussian.Gaussian", mu=0)}],
        "distribution Gaussian",
    ),
    "no number of categories": (
        [{**ENTRY, "dist": _distribution("categorical.Categorical")}],
        "num_cats None",
    ),
    "no distribution": ([{**ENTRY, "dist": pickle.dumps(3)}], "not a distribution"),
    "an edge out of range": (
        [ENTRY, {**SUM, "edge_ids": np.array([[0], [1]])}],
        "does not exist",
    ),
    "an edge twice": (
        [ENTRY, {**SUM, "edge_ids": np.array([[0, 0], [0, 0]])}],
        "an edge twice",
    ),
    "edges of another shape": ([ENTRY, {**SUM, "edge_ids": np.array([0])}], "shape"),
    "edges of another type": ([ENTRY, {**SUM, "edge_ids": HALVES}], "edge_ids"),
    "tied in a circle": (
        [{**ENTRY, "source_node": 1}, {**ENTRY, "source_node": 0}],
        "tied to node",
    ),
    "tied to another kind": ([ENTRY, {**SUM, "source_node": 0}], "tied to node 0"),
    "two roots": ([{**ENTRY, "num_node_blocks": 2, "params": np.tile(HALVES, 2)}], "2 units"),
    "external parameters": ([ENTRY, {**SUM, "external_params": b""}], "per sample"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str, tmp_path: Path) -> None:
    content, message = DAMAGE[kind]
    path = tmp_path / "damaged.jpc"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))

    with pytest.raises(FormatError, match=message) as caught:
        read_jpc(path)

    assert "damaged.jpc" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"cannot read .*nowhere"):
        read_jpc(tmp_path / "nowhere.jpc")
