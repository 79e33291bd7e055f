"""Files made to do harm: small ones that ask for much, and values of the wrong kind.

Each was found by a harness of `tests/fuzz` or by reading the readers with an attacker's eyes.
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest

import pcircuits as pc
from pcircuits.cli.tables import read_table
from pcircuits.errors import CircuitError, FormatError


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A reader that believes an absurd size fails at once, and not by filling the memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


HMM = Path(__file__).parents[1] / "data" / "jpc" / "hmm.jpc"
READERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "psdd variable": (pc.read_psdd, "L 0 0 999999\n" * 30_000, "variable 999999 is too large"),
    "text variable": (
        lambda path: pc.weighted_from_text(path.read_text()),
        "pcircuits-text 1\n" + "".join(f"a{i} = input 999999 categories=2\n" for i in range(9_000)),
        "variable 999999 is too large",
    ),
    "nnf variables": (pc.read_nnf, "nnf 1 0 1000000\nA 0\n", "variable .* too large"),
    "nnf literal": (pc.read_nnf, "nnf 1 0 2\nL 900000\n", "variable 900000 is too large"),
    "juice category": (pc.read_jpc, "I 0 0 1 99999999999\nC 1 0 1 -0.5\n", "categories"),
    "juice padding": (
        pc.read_jpc,
        "I 0 0 1 9999998\n" + "".join(f"C {i} 0 1 -0.5\n" for i in range(1, 9)),
        "rows lack",
    ),
    "text categories": (
        lambda path: pc.CircuitModel(pc.from_text(path.read_text())),
        "pcircuits-text 1\na = input 0 categories=99999999999 supports=[[0]]\n",
        "indicators .* need tables",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_absurd_sizes_are_refused_before_they_are_made(name: str, tmp_path: Path) -> None:
    read, text, message = READERS[name]
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(CircuitError, match=message):
        read(path)


def test_many_units_that_no_number_stands_for(tmp_path: Path) -> None:
    """Forty products of all pairs of two indicators claim 2^40 units in a few lines."""
    lines = ["pcircuits-text 1"]
    lines += [f"i{i} = input {i} units=2 categories=2 supports=[[0], [1]]" for i in range(40)]
    lines += ["k = kronecker(" + ", ".join(f"i{i}" for i in range(40)) + ")"]
    lines += ["r = sum(k) weighted=false"]
    circuit = pc.from_text("\n".join(lines))
    with pytest.raises(CircuitError, match="need tables"):
        pc.CircuitModel(circuit)


def _pickled(nodes: list[dict[str, Any]], tmp_path: Path) -> Path:
    path = tmp_path / "a.jpc"
    path.write_bytes(pickle.dumps(nodes, protocol=4))
    return path


def _product(edges: np.ndarray, **changes: object) -> dict[str, Any]:
    sizes = {"num_node_blocks": 1, "block_size": 1}
    return {"type": "Product", **sizes, "chs": (0,), "edge_ids": edges, **changes}


def _laughs() -> list[Any]:
    """Lists of the same lists: written out they would not fit any memory."""
    value: list[Any] = ["ha"]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "changes",
    [
        {"type": _laughs()},
        {"type": np.zeros(3)},
        {"chs": _laughs()},
        {"chs": (_laughs(),)},
        {"chs": "0"},
        {"num_node_blocks": 1 << 20_000},
        {"num_node_blocks": _laughs()},
        {"source_node": _laughs()},
        {"num_node_blocks": 2**62, "block_size": 2**62},
    ],
    ids=range(9),
)
def test_a_pickles_values_are_not_written_out_in_messages(
    changes: dict[str, object], tmp_path: Path
) -> None:
    node = _product(np.zeros((1, 1), dtype=np.int64), **changes)
    with pytest.raises(FormatError) as caught:
        pc.read_jpc(_pickled([node], tmp_path))
    assert len(str(caught.value)) < 500


def test_what_a_pickle_shares_is_not_copied_for_every_node(tmp_path: Path) -> None:
    """Three hundred nodes share one array of edges, and would have copies of 800 kB each."""
    leaf = pickle.loads(HMM.read_bytes())[0]  # our own file
    edges = np.zeros((1, 100_000), dtype=np.int32)
    children = (0,) * 100_000
    nodes = [_product(edges, chs=children) for _ in range(300)]
    with pytest.raises(FormatError, match=r"claims more .* than its file has room for"):
        pc.read_jpc(_pickled([leaf, *nodes], tmp_path))


def test_blocks_of_another_size_than_the_childrens(tmp_path: Path) -> None:
    """A finding: edges between blocks of unequal size led beyond the pieces of the child."""
    source = (Path(__file__).parents[1] / "data" / "jpc" / "hmm_blocks.jpc").read_bytes()
    nodes = pickle.loads(source)  # our own file
    wrong = next(node for node in nodes if node["type"] == "Product")
    wrong["num_node_blocks"], wrong["block_size"] = 1, wrong["num_node_blocks"] * 4
    with pytest.raises(FormatError):
        pc.read_jpc(_pickled(nodes, tmp_path))


@pytest.mark.parametrize(
    "attributes",
    [
        {"variable": 10**12},
        {"variable": True},
        {"variable": 0, "support": 3},
        {"variable": 0, "support": ["a"]},
        {"variable": 0, "support": [0], "num_categories": 0},
        {"variable": 0, "probabilities": 3.0},
        {"variable": 0, "probabilities": ["a", None]},
        {"variable": 0, "probabilities": [float("nan"), 1.0]},
        {"variable": 0, "probabilities": [float("inf"), 1.0]},
        {"variable": 0, "probabilities": [10**400, 1]},
    ],
    ids=str,
)
def test_attributes_of_a_graph_that_are_no_numbers(attributes: dict[str, Any]) -> None:
    graph = nx.DiGraph()
    graph.add_node("a", kind="input", **{"num_categories": 2, **attributes})
    with pytest.raises(CircuitError, match="'a'"):
        pc.weighted_from_networkx(graph)


def test_a_text_is_no_weight_of_an_edge() -> None:
    graph = nx.DiGraph()
    graph.add_node("a", kind="input", variable=0, num_categories=2, support=[0])
    graph.add_node("s", kind="sum")
    graph.add_edge("s", "a", weight="0.5")
    with pytest.raises(CircuitError, match=r"node 's': expected weights >= 0; found '0\.5'"):
        pc.weighted_from_networkx(graph)


@pytest.mark.parametrize("name", ["\0.safetensors", "\ud800.safetensors", "a\\b.safetensors", "/x"])
def test_tensor_files_are_called_as_we_call_them(name: str, tmp_path: Path) -> None:
    pc.CircuitModel(pc.families.hmm(2, 2, 2)).save(tmp_path)
    path = tmp_path / "circuit.json"
    content = json.loads(path.read_text())
    content["tensors"]["file"] = name
    path.write_text(json.dumps(pc.files.with_checksum(content)))
    with pytest.raises(FormatError, match="outside its folder"):
        pc.load(tmp_path)


def test_a_table_is_not_larger_than_its_file(tmp_path: Path) -> None:
    stream = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**9, 10**3)}
    np.lib.format.write_array_header_1_0(stream, header)
    (tmp_path / "a.npy").write_bytes(stream.getvalue() + b"\0" * 64)
    with pytest.raises(FormatError, match="claims an array"):
        read_table(tmp_path / "a.npy")


def test_an_archive_that_unpacks_to_far_more_than_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    shape = {"descr": "<i8", "fortran_order": False, "shape": (300 * 2**17 - 16, 1)}
    np.lib.format.write_array_header_1_0(header, shape)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w") as member,
    ):
        member.write(header.getvalue())
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(FormatError, match="unpacks to"):
        read_table(path)


def test_a_cell_that_csv_refuses(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"' + "1" * 200_000 + '"\n')
    with pytest.raises(FormatError, match="not a table"):
        read_table(tmp_path / "a.csv")
