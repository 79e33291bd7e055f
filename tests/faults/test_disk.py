"""Disks that are full or may not be written to, and several writers of one folder."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from codd.checkpoint import load_checkpoint, save_checkpoint


def _model(seed: int) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(4, 3, 5), seed=seed)


VALUES = torch.randint(0, 5, (6, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_leaves_the_old_model_and_names_the_file(
    call: str, failing: int, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _model(1).save(tmp_path)
    before = _model(1).log_likelihood(VALUES)
    real, calls = getattr(os, call), []

    def fails(*args: object) -> object:
        calls.append(args)
        if len(calls) == failing:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        _model(2).save(tmp_path)
    monkeypatch.undo()

    assert caught.value.errno == code
    torch.testing.assert_close(pc.load(tmp_path).log_likelihood(VALUES), before)
    assert not list(tmp_path.glob(".*"))
    _model(2).save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_that_may_not_be_written_to_is_read_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    _model(1).save(folder)
    for place in (folder, *folder.parents):
        if place.owner() == "root" and place != Path("/"):
            place.chmod(0o755)
    os.seteuid(65534)
    try:
        found = pc.load(folder).log_likelihood(VALUES)
        with pytest.raises(OSError, match=str(folder)) as caught:
            _model(2).save(folder)
    finally:
        os.seteuid(0)
    assert caught.value.errno == errno.EACCES
    torch.testing.assert_close(found, _model(1).log_likelihood(VALUES))


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path,
) -> None:
    target = tmp_path / "a.json"
    left = tmp_path / ".a.json.999999-0.partial"
    left.write_bytes(b"half")
    with pc.files._beside(target) as (living, _):
        pc.files.write_atomically(target, b"whole")
        assert living.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def _race(write: Callable[[int], None], read: Callable[[], None]) -> list[BaseException]:
    """Errors of three writers and a reader at once; locks are of open files, so threads do."""
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    def reading() -> None:
        while not done.is_set():
            read()

    def writing(seed: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(20):
                write(seed)

        return run

    reader = threading.Thread(target=guarded(reading))
    writers = [threading.Thread(target=guarded(writing(seed))) for seed in range(3)]
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    return errors


def test_several_writers_of_one_model_and_its_reader(tmp_path: Path) -> None:
    models = [_model(seed) for seed in range(3)]
    known = [model.log_parameters()["emission"] for model in models]
    models[0].save(tmp_path)

    def read() -> None:
        found = pc.load(tmp_path).log_parameters()["emission"]
        assert any(torch.equal(found, each) for each in known)

    assert not _race(lambda seed: models[seed].save(tmp_path), read)
    read()
    assert len(list(tmp_path.iterdir())) == 2


def test_several_writers_of_one_checkpoint_and_its_reader(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        save_checkpoint(tmp_path, {"t": torch.full((50,), float(seed))}, {"seed": seed})

    def read() -> None:
        found = load_checkpoint(tmp_path)
        assert float(found.tensors["t"][0]) == found.metadata["seed"]

    write(0)
    assert not _race(write, read)
    read()
    assert len(list(tmp_path.iterdir())) == 2
