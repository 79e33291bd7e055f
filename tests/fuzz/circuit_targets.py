"""Readers of circuits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx

import pcircuits as pc
from pcircuits.learning.checkpoint import load_checkpoint, save_checkpoint
from tests.fuzz.choices import Choices, json_or_changed, random_bytes
from tests.fuzz.target import Target, folder, use, written

DATA = Path(__file__).parents[1] / "data"

TEXT = b"""pcircuits-text 1
# whether it rains
rain = input 0 units=2 categories=2 supports=[[0], [1]]
"wet" = input 1 units=2 categories=2 parameter=p[0]
both = product(rain, wet)
root = sum(both)
weights p = [[0.9, 0.1], [0.2, 0.8]]
log_weights root = [-0.7, -0.7]
"""
VTREE = b"c tree\nvtree 3\nL 0 1\nL 2 2\nI 1 0 2\n"
PSDD = b"""psdd 6
L 0 0 1
T 1 2 2 -0.69
L 2 0 -1
L 3 2 2
D 5 1 2 0 1 -0.22 2 3 -1.6
"""
SPN = b"(2 3)\nv 0 0\nv 0 1\nv 1 2\n* 0 2\n* 1 2\n+ 3 -0.5 4 -0.9\nEOF\n"
JUICE = b"""jpc 8
L 0 0 1
L 1 0 -1
I 2 1 2 2
C 3 1 2 -1.0 -1.0 -1.2
P 4 2 2 0 2
P 5 2 2 1 3
S 6 2 2 4 -0.4 5 -1.1
"""
CLT = b"3\n1\n1 0.4\n2 1 0.3 0.6\n3 1 0.2 0.9\n"
C2D = b"nnf 5 4 2\nL 1\nL -1\nL 2\nA 2 0 2\nO 1 2 3 1\n"
D4 = b"o 1 0\na 2 0\nt 3 0\n1 2 1 0\n1 3 -1 0\n2 3 2 0\n"
SDD = b"sdd 5\nL 0 0 1\nL 1 0 -1\nL 2 2 2\nT 3\nD 4 1 2 0 2 1 3\n"


def _text(data: bytes) -> None:
    use(pc.weighted_from_text(data.decode("utf-8", errors="replace")))


def _file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        found = read(written(name, data))
        if isinstance(found, pc.WeightedCircuit):
            use(found)
        elif isinstance(found, pc.Circuit):
            use(_uniform(found))

    return run


def _uniform(circuit: pc.Circuit) -> pc.WeightedCircuit:
    plan = pc.compile_circuit(circuit)
    return pc.WeightedCircuit(circuit, pc.random_parameters(plan))


def _psdd(data: bytes) -> None:
    tree, _, rest = data.partition(b"\n=\n")
    path = written("a.psdd", rest or tree)
    use(pc.read_psdd(path, written("a.vtree", tree) if rest else None))


def _sdd(data: bytes) -> None:
    tree, _, rest = data.partition(b"\n=\n")
    path = written("a.sdd", rest or tree)
    use(_uniform(pc.read_sdd(path, written("a.vtree", tree) if rest else None)))


@cache
def structures() -> tuple[dict[str, Any], ...]:
    """Structures of every version, as JSON values."""
    files = sorted(DATA.glob("format/v*/*/circuit.json"))
    found = [json.loads(file.read_text()) for file in files]
    return tuple({key: f[key] for key in ("structure_version", "nodes")} for f in found)


def _structure(data: bytes) -> None:
    circuit = pc.structure_from_json(json_or_changed_safely(data, structures()))
    again = pc.structure_from_json(pc.structure_to_json(circuit))
    assert again.parameter_shapes == circuit.parameter_shapes
    if sum(node.num_units for node in circuit.nodes) < 10_000 and circuit.num_categories < 10_000:
        use(_uniform(circuit))


def json_or_changed_safely(data: bytes, seeds: Sequence[Any]) -> Any:
    """As `json_or_changed`; what is no JSON at all changes a seed."""
    try:
        return json_or_changed(data, seeds)
    except (ValueError, RecursionError):
        return json_or_changed(b"\0" + data, seeds)


def _model_folder(data: bytes) -> None:
    """A model's folder: whoever writes such a file also writes its right checksum."""
    place = folder() / "model"
    if not place.exists():
        pc.CircuitModel(pc.families.hmm(3, 2, 2)).save(place)
    own = place / "circuit.json"
    if not _FOLDER_SEED:
        _FOLDER_SEED.append(json.loads(own.read_text()))
    own.write_text(json.dumps(sealed(json_or_changed_safely(data, _FOLDER_SEED))))
    model = pc.load(place)
    use(model.weighted())


_FOLDER_SEED: list[dict[str, Any]] = []


def sealed(value: Any) -> Any:
    """JSON values with the checksum that the writers put in, if they had one."""
    if not isinstance(value, dict) or "content_sha256" not in value:
        return value
    rest = {key: own for key, own in value.items() if key != "content_sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return {**rest, "content_sha256": hashlib.sha256(canonical.encode()).hexdigest()}


def _model_bytes(data: bytes) -> None:
    """A folder whose description is any bytes."""
    place = folder() / "bytes"
    place.mkdir(exist_ok=True)
    (place / "circuit.json").write_bytes(data)
    use(pc.load(place).weighted())


def _checkpoint(data: bytes) -> None:
    place = folder() / "checkpoint"
    if not place.exists():
        tensor = next(iter(pc.CircuitModel(pc.families.hmm(3, 2, 2)).log_parameters().values()))
        save_checkpoint(place, {"a": [1, (2.5, None)], "b": {"t": tensor, 3: "x"}})
    own = place / "checkpoint.json"
    if not _CHECKPOINT_SEED:
        _CHECKPOINT_SEED.append(json.loads(own.read_text()))
    own.write_text(json.dumps(sealed(json_or_changed_safely(data, _CHECKPOINT_SEED))))
    load_checkpoint(place)


_CHECKPOINT_SEED: list[dict[str, Any]] = []


def _graph_seed() -> list[Any]:
    table = {"kind": "input", "variable": 1, "probabilities": [0.4, 0.6]}
    nodes = [["root", {"kind": "sum"}], ["p0", {"kind": "product"}], ["p1", {"kind": "product"}]]
    for i in range(2):
        support = {"kind": "input", "variable": 0, "support": [i], "num_categories": 2}
        nodes += [[f"i{i}", support], [f"t{i}", table]]
    edges: list[Any] = [["root", "p0", {"weight": 0.3}], ["root", "p1", {"weight": 0.7}]]
    edges += [[f"p{i}", f"{kind}{i}", {}] for i in range(2) for kind in "it"]
    return [nodes, edges]


def _networkx(data: bytes) -> None:
    """Attributes are changed, the graph itself is one that networkx takes."""
    choices = Choices(data)
    nodes, edges = _graph_seed()
    graph = nx.DiGraph()
    graph.add_nodes_from((name, dict(attributes)) for name, attributes in nodes)
    graph.add_edges_from((a, b, dict(attributes)) for a, b, attributes in edges)
    for _ in range(1 + choices.below(4)):
        if choices.below(3) == 0:
            names = list(graph)
            graph.add_edge(choices.one(names), choices.one(names), weight=choices.hostile())
        else:
            owner: Any = choices.one([*graph.nodes.values(), *graph.edges.values()])
            key = choices.one([*owner, "weight", "variable", "support", "probabilities", "kind"])
            owner[key] = choices.hostile()
    use(pc.weighted_from_networkx(graph))


def _jpc_seeds() -> list[bytes]:
    files = sorted(DATA.glob("jpc/*.jpc"), key=lambda file: file.stat().st_size)
    return [file.read_bytes() for file in files if file.stat().st_size < 40_000][:5]


def _structure_seeds() -> list[bytes]:
    own = [json.dumps(structure).encode() for structure in structures()]
    return [*own, *random_bytes(24)]


CIRCUIT_TARGETS = (
    Target("text", _text, lambda: [TEXT]),
    Target("structure", _structure, _structure_seeds),
    Target("model-folder", _model_folder, random_bytes),
    Target("model-bytes", _model_bytes, _structure_seeds),
    Target("checkpoint", _checkpoint, random_bytes),
    Target("jpc", _file("a.jpc", pc.read_jpc), _jpc_seeds),
    Target("juice-jpc", _file("a.jpc", pc.read_jpc), lambda: [JUICE]),
    Target("spn", _file("a.spn", pc.read_spn), lambda: [SPN]),
    Target("clt", _file("a.clt", pc.read_clt), lambda: [CLT]),
    Target("psdd", _psdd, lambda: [PSDD, VTREE + b"\n=\n" + PSDD]),
    Target("sdd", _sdd, lambda: [SDD, VTREE + b"\n=\n" + SDD]),
    Target("nnf", _file("a.nnf", pc.read_nnf), lambda: [C2D, D4]),
    Target("networkx", _networkx, random_bytes),
)
