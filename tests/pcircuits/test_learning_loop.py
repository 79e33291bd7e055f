"""Around every fit: early stopping, the history as a table, checkpoints and exact resume."""

from __future__ import annotations

import csv
import importlib.util
import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from pcircuits.errors import FormatError
from pcircuits.learning import em_fit
from pcircuits.learning.checkpoint import load_checkpoint, save_checkpoint
from pcircuits.learning.objective import mean_log_likelihood
from tests.support.sealed import edit_description


def _values(num_rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(3, (num_rows, 1), generator=generator)
    return (first + (torch.rand((num_rows, 6), generator=generator) < 0.4).long().cumsum(1)) % 3


def _model(num_states: int = 3) -> pc.CircuitModel:
    return pc.CircuitModel(pc.families.hmm(6, num_states, 3))


# Early stopping.


@pytest.mark.parametrize("fit", [pc.fit_em, pc.fit_gradient])
def test_early_stopping_keeps_the_best_parameters(fit: Callable[..., pc.History]) -> None:
    model, valid = _model(8), _values(20, seed=9)

    history = fit(
        model, _values(15), epochs=200, valid=valid, patience=3, pseudocount=0.01, progress=False
    )

    assert history.stopped == "patience"
    assert len(history) < 200
    measured = [record.valid for record in history]
    assert history.best.valid == max(measured) > measured[-1]
    assert measured.index(max(measured)) == len(measured) - 4
    assert mean_log_likelihood(model, valid) == pytest.approx(history.best.valid, rel=1e-6)


def test_without_patience_the_last_parameters_are_kept() -> None:
    model, valid = _model(8), _values(20, seed=9)

    history = pc.fit_em(
        model, _values(15), epochs=30, valid=valid, pseudocount=0.01, progress=False
    )

    assert history.best.valid > history.records[-1].valid
    assert mean_log_likelihood(model, valid) == pytest.approx(history.records[-1].valid, rel=1e-6)


# The history as a table.


def _history() -> pc.History:
    records = (pc.Record(1, 1.0, -2.5, None, 0.25), pc.Record(2, 2.0, -2.25, -3.0, 0.5))
    return pc.History(records, "finished")


def test_a_history_is_a_table() -> None:
    history = _history()

    assert history.table()[1] == {
        "step": 2, "epoch": 2.0, "train": -2.25, "valid": -3.0, "seconds": 0.5
    }  # fmt: skip
    assert list(csv.reader(io.StringIO(history.csv()))) == [
        ["step", "epoch", "train", "valid", "seconds"],
        ["1", "1.0", "-2.5", "", "0.25"],
        ["2", "2.0", "-2.25", "-3.0", "0.5"],
    ]
    assert repr(history) == "History(2 records, 'finished')"


def test_a_history_is_a_data_frame_where_pandas_is() -> None:
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(ModuleNotFoundError, match="pandas"):
            _history().frame()
    else:
        assert _history().frame()["train"].tolist() == [-2.5, -2.25]


def test_the_best_record_is_that_of_the_validation_rows() -> None:
    records = tuple(pc.Record(i, i, -1.0 * i, v, 0) for i, v in enumerate((-3.0, -1.0, -2.0)))

    assert pc.History(records, "finished").best is records[1]
    assert pc.History(_history().records[:1], "finished").best.step == 1
    with pytest.raises(ValueError, match="empty"):
        _ = pc.History((), "interrupted").best


# Checkpoints.

FITS: dict[str, tuple[Callable[..., pc.History], dict[str, object]]] = {
    "plain": (pc.fit_em, {}),
    "online": (pc.fit_em, {"batch_size": 7}),
    "anemone": (pc.fit_em, {"batch_size": 7, "algorithm": "anemone"}),
    "adam": (pc.fit_gradient, {"batch_size": 7}),
    "sgd": (
        pc.fit_gradient,
        {"batch_size": 7, "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)},
    ),
    "lbfgs": (
        pc.fit_gradient,
        {"batch_size": None, "optimizer": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3)},
    ),
}


@pytest.mark.parametrize("kind", FITS)
def test_a_resumed_fit_is_bit_for_bit_the_whole_one(kind: str, tmp_path: Path) -> None:
    fit, options = FITS[kind]
    options = {**options, "valid": _values(9, seed=5), "patience": 50, "progress": False}
    whole, broken, resumed = _model(), _model(), _model()

    expected = fit(whole, _values(20), epochs=5, **options)
    fit(broken, _values(20), epochs=2, checkpoint=tmp_path, **options)
    history = fit(resumed, _values(20), epochs=5, checkpoint=tmp_path, resume=True, **options)

    for name, tensor in whole.log_parameters().items():
        assert torch.equal(tensor, resumed.log_parameters()[name])
    without_time = [(r.step, r.epoch, r.train, r.valid) for r in history]
    assert without_time == [(r.step, r.epoch, r.train, r.valid) for r in expected]
    assert history.stopped == expected.stopped
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_fit_interrupted_within_an_epoch_resumes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = _model(), _model()
    options = {"epochs": 3, "batch_size": 7, "progress": False}
    expected = pc.fit_em(whole, _values(20), **options)
    flows, calls = em_fit.flows, []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return flows(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(em_fit, "flows", interrupted)
        first = pc.fit_em(broken, _values(20), checkpoint=tmp_path, **options)
    resumed = _model()
    history = pc.fit_em(resumed, _values(20), checkpoint=tmp_path, resume=True, **options)

    assert (first.stopped, len(first), len(calls)) == ("interrupted", 1, 5)
    assert [r.train for r in history] == [r.train for r in expected]
    for name, tensor in whole.log_parameters().items():
        assert torch.equal(tensor, resumed.log_parameters()[name])


def test_a_finished_fit_resumes_to_itself(tmp_path: Path) -> None:
    options = {"epochs": 3, "checkpoint": tmp_path, "progress": False}
    model, again = _model(), _model()

    history = pc.fit_em(model, _values(20), **options)
    repeated = pc.fit_em(again, _values(20), resume=True, **options)

    assert repeated == history
    assert torch.equal(model.log_parameters()["emission"], again.log_parameters()["emission"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pseudocount": 0.5}, "settings"),
        ({"seed": 1}, "seed is 0; expected 1"),
        ({"batch_size": 5}, "settings|batch_size"),
        ({"weights": torch.full((20,), 2.0)}, "rows"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    options = {"checkpoint": tmp_path, "epochs": 1, "progress": False}
    pc.fit_em(_model(), _values(20), **options)

    with pytest.raises(FormatError, match=f"another run: .*{message}"):
        pc.fit_em(_model(), _values(20), resume=True, **options, **change)
    with pytest.raises(FormatError, match="another run"):
        pc.fit_em(_model(4), _values(20), resume=True, **options)
    with pytest.raises(FormatError, match="another run"):
        pc.fit_gradient(_model(), _values(20), resume=True, **options)
    with pytest.raises(FormatError, match="resume=True"):
        pc.fit_em(_model(), _values(20), **options)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    state = {
        "numbers": [1, 2.5, True, None, "text", float("inf")],
        "by number": {0: {"step": torch.tensor(3.0)}, 1: (0.9, 0.999)},
        "a/b": shared,
        "a": {"b": shared[1:], "empty": torch.zeros(0, 2), "kinds": torch.tensor([True])},
    }

    save_checkpoint(tmp_path, state)
    found = load_checkpoint(tmp_path)

    assert found["numbers"] == state["numbers"]
    assert found["by number"][1] == (0.9, 0.999)
    assert torch.equal(found["by number"][0]["step"], torch.tensor(3.0))
    assert torch.equal(found["a/b"], shared)
    assert torch.equal(found["a"]["b"], shared[1:])
    assert found["a"]["empty"].shape == (0, 2)
    assert found["a"]["kinds"].dtype == torch.bool
    assert load_checkpoint(tmp_path / "nothing") is None


def test_what_a_checkpoint_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="state/outer/1 is a object"):
        save_checkpoint(tmp_path, {"outer": [1, object()]})
    assert list(tmp_path.iterdir()) == []


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    def damage(change: Callable[[Path, Path], object], message: str) -> None:
        save_checkpoint(tmp_path, {"a": torch.ones(3)})
        (tensors,) = tmp_path.glob("*.safetensors")
        change(tmp_path / "checkpoint.json", tensors)
        with pytest.raises(FormatError, match=message):
            load_checkpoint(tmp_path)

    def edit(**changes: object) -> Callable[[Path, Path], object]:
        return lambda path, _: edit_description(path, lambda d: d.update(changes))

    damage(lambda path, _: path.write_text("{"), "not JSON")
    damage(lambda path, _: path.write_text("[]"), "must hold an object")
    damage(edit(format_version=99), "99")
    damage(edit(state=[1]), "holds list")
    damage(edit(state={"tensor": "absent"}), "damaged")
    damage(lambda _, tensors: tensors.write_bytes(b"other"), "damaged")
    damage(lambda _, tensors: tensors.unlink(), "cannot read")
