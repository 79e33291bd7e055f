"""Folders: what is written is read back, and nothing else is trusted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given

import pcircuits as pc
from pcircuits.errors import FormatError
from pcircuits.io.structure_json import structure_from_json, structure_to_json
from tests.support.circuits import circuits
from tests.support.sealed import edit_description


def _model() -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.gated_hmm(4, num_states=3, num_categories=5), seed=4)


VALUES = torch.tensor([[0, 1, 2, 3], [4, 4, 0, 1]])


@given(circuits())
def test_structure_survives(circuit: pc.Circuit) -> None:
    again = structure_from_json(json.loads(json.dumps(structure_to_json(circuit))))

    assert len(again.nodes) == len(circuit.nodes)
    place = {node: i for i, node in enumerate(circuit.nodes)}
    place_again = {node: i for i, node in enumerate(again.nodes)}
    for old, new in zip(circuit.nodes, again.nodes, strict=True):
        assert type(old) is type(new)
        assert old.num_units == new.num_units
        assert [place[c] for c in old.children] == [place_again[c] for c in new.children]
        assert circuit.node_names[old] == again.node_names[new]
        assert circuit.parameter_names.get(old) == again.parameter_names.get(new)
        assert getattr(old, "mixing", None) == getattr(new, "mixing", None)
    assert again.categories == circuit.categories


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_survives(tmp_path: Path, dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    model.set_probabilities({"jump_0": torch.tensor([1.0, 0.0, 0.0])})

    model.save(tmp_path / "folder" / "model")
    loaded = pc.load(tmp_path / "folder" / "model")

    found, expected = loaded.probabilities(), model.probabilities()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=0)
    torch.testing.assert_close(loaded.log_likelihood(VALUES), model.log_likelihood(VALUES))


def test_saving_again_replaces_what_was_there(tmp_path: Path) -> None:
    first, second = _model(), pc.CircuitModel(pc.families.factorized(4, 5), seed=1)
    first.save(tmp_path)

    second.save(tmp_path)

    torch.testing.assert_close(
        pc.load(tmp_path).log_likelihood(VALUES), second.log_likelihood(VALUES)
    )
    assert len(list(tmp_path.iterdir())) == 2


def test_the_structure_is_readable_text(tmp_path: Path) -> None:
    _model().save(tmp_path)

    description = json.loads((tmp_path / "circuit.json").read_text(encoding="utf-8"))

    assert description["format"] == "pcircuits"
    assert {node["kind"] for node in description["nodes"]} == {"input", "product", "sum"}


@pytest.mark.parametrize("failing_call", [1, 2])
def test_an_interrupted_save_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int
) -> None:
    model = _model()
    model.save(tmp_path)
    calls = []
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == failing_call:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        pc.CircuitModel(pc.families.factorized(4, 5)).save(tmp_path)
    monkeypatch.undo()

    torch.testing.assert_close(
        pc.load(tmp_path).log_likelihood(VALUES), model.log_likelihood(VALUES)
    )
    assert not list(tmp_path.glob(".*"))


def _edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    return lambda folder: edit_description(folder / "circuit.json", change)


def _tensor_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def _node(kind: str, /, **changes: object) -> Callable[[Path], None]:
    def change(description: dict) -> None:
        next(node for node in description["nodes"] if node["kind"] == kind).update(changes)

    return _edited(change)


def _not_tensors(folder: Path) -> None:
    data = b"not tensors"
    _tensor_file(folder).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    _edited(lambda d: d["tensors"].update(sha256=digest, bytes=len(data)))(folder)


def _outside(folder: Path) -> None:
    target = folder.parent / "outside.safetensors"
    target.write_bytes(_tensor_file(folder).read_bytes())
    _edited(lambda d: d["tensors"].update(file="../outside.safetensors"))(folder)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no description": (lambda f: (f / "circuit.json").unlink(), "cannot read .*circuit.json"),
    "not JSON": (lambda f: (f / "circuit.json").write_text("{"), "circuit.json is not JSON"),
    "not text": (lambda f: (f / "circuit.json").write_bytes(b"\xff\xfe"), "is not text"),
    "deep JSON": (lambda f: (f / "circuit.json").write_text("[" * 10**5), "is not JSON"),
    "a list": (lambda f: (f / "circuit.json").write_text("[]"), "must hold an object"),
    "another format": (_edited(lambda d: d.update(format="x")), r"\('x', 2\)"),
    "a later version": (_edited(lambda d: d.update(format_version=99)), "99"),
    "a later structure": (_edited(lambda d: d.update(structure_version=99)), "found 99"),
    "no nodes": (_edited(lambda d: d.update(nodes=[])), "list of nodes"),
    "nodes of another type": (_edited(lambda d: d.update(nodes=[3])), "node 0"),
    "unknown kind": (_node("sum", kind="max"), "unknown kind 'max'"),
    "unknown field": (_node("sum", bias=1), r"fields \['bias'\]"),
    "missing field": (_edited(lambda d: d["nodes"][0].pop("units")), "node 0 .*units"),
    "units of another type": (_node("input", units="3"), "num_units"),
    "units negative": (_node("input", units=-3), "num_units"),
    "variable huge": (_node("input", variable=10**15), "variable"),
    "a name of another type": (_node("input", name=[1]), "node 0.*name"),
    "a parameter of another type": (_node("input", parameter={}), "node 0.*parameter"),
    "child after its parent": (_node("product", children=[10**6]), "child 1000000"),
    "child negative": (_node("product", children=[-1]), "child -1"),
    "other shape": (_node("input", units=1), "node|shape"),
    "no tensors named": (_edited(lambda d: d.pop("tensors")), "does not name its tensors"),
    "no tensor file": (lambda f: _tensor_file(f).unlink(), "cannot read .*safetensors"),
    "truncated tensors": (
        lambda f: _tensor_file(f).write_bytes(_tensor_file(f).read_bytes()[:-1]),
        r"expected \d+ bytes, found \d+",
    ),
    "not tensors": (_not_tensors, "not a safetensors file"),
    "tensors outside": (_outside, "outside its folder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(tmp_path: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    folder = tmp_path / "model"
    _model().save(folder)

    damage(folder)

    with pytest.raises(FormatError, match=message):
        pc.load(folder)


def test_a_structure_must_be_an_object() -> None:
    with pytest.raises(FormatError, match="found list"):
        structure_from_json([])


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere"):
        pc.load(tmp_path / "nowhere")


def test_a_parameter_missing_from_the_tensors_is_named(tmp_path: Path) -> None:
    """Two models' files put together by hand."""
    _model().save(tmp_path / "a")
    pc.CircuitModel(pc.families.factorized(4, 5)).save(tmp_path / "b")
    first = json.loads((tmp_path / "a" / "circuit.json").read_text())
    edit_description(tmp_path / "b" / "circuit.json", lambda d: d.update(nodes=first["nodes"]))

    with pytest.raises(FormatError, match=r"parameter 'emission' has shape None; .*\(3, 5\)"):
        pc.load(tmp_path / "b")
