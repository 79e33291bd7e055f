import json
import os
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from codd.checkpoint import (
    DESCRIPTION,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from codd.errors import CheckpointError

TENSORS = {
    "weight": torch.randn(3, 4),
    "half": torch.randn(5).to(torch.bfloat16),
    "step": torch.tensor(7.0),
}
METADATA = {"step": 7, "loss": 0.1 + 0.2, "symbols": ["▁", "é"]}


def tensor_file(folder: Path) -> Path:
    (file,) = folder.glob("tensors-*.safetensors")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", TENSORS, METADATA)
    return tmp_path / "run"


def test_what_is_saved_is_loaded(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert loaded.metadata == METADATA
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_views_that_share_memory_are_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_checkpoint(tmp_path, {"a": base, "b": base.view(2, 3).T}, {})
    loaded = load_checkpoint(tmp_path).tensors
    assert torch.equal(loaded["b"], base.view(2, 3).T)


def test_saving_again_leaves_one_tensor_file(folder: Path) -> None:
    save_checkpoint(folder, {"weight": torch.zeros(2)}, {"step": 8})
    assert sorted(p.name for p in folder.iterdir()) == [DESCRIPTION, tensor_file(folder).name]
    assert load_checkpoint(folder).metadata == {"step": 8}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_crash_while_saving_keeps_the_previous_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls = 0
    replace = os.replace

    def crash(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, {"weight": torch.zeros(2)}, {"step": 8})
    loaded = load_checkpoint(folder)
    assert loaded.metadata == METADATA
    assert torch.equal(loaded.tensors["weight"], TENSORS["weight"])


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected the file .*checkpoint\.json, found none"):
        load_checkpoint(tmp_path)


def test_damage_is_found(folder: Path) -> None:
    assert has_checkpoint(folder)
    file = tensor_file(folder)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=f"{len(data)} bytes, found {len(data) - 1}"):
        load_checkpoint(folder)
    file.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(CheckpointError, match=r"damaged: it has SHA-256 "):
        load_checkpoint(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"cannot read .*\.safetensors: No such"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, r"format and version \('codd-checkpoint', 3\); expected one of"),
        ({"format": "other"}, "expected one of .*'codd-checkpoint'"),
        ({"tensors": {}}, "does not name its tensors"),
        ({"metadata": 3}, "missing or damaged field"),
    ],
)
def test_foreign_descriptions_are_refused(
    folder: Path, change: dict[str, object], message: str
) -> None:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    changed = pc.files.with_checksum({**description, **change})
    (folder / DESCRIPTION).write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_a_cut_description_is_refused(folder: Path) -> None:
    text = (folder / DESCRIPTION).read_text(encoding="utf-8")
    (folder / DESCRIPTION).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_checkpoint(folder)


def test_a_tensor_file_outside_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    description["tensors"]["file"] = "../secret.safetensors"
    text = json.dumps(pc.files.with_checksum(description))
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_checkpoint(folder)


def test_write_atomically_leaves_nothing_beside(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"
