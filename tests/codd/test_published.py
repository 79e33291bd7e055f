"""Circuits that the authors publish: PyJuice's numbers come out, and nothing of a file is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import codd
import pcircuits as pc
from codd.errors import CheckpointError
from codd.published import PublishedSettings, load_published_circuit, save_published_circuit

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "jpc"
EXPECTED = json.loads((DATA / "expected.json").read_text())
SETTINGS = {"base_model_type": "dream", "mask_id": 5, "vocab_size": 5, "num_steps": 32}


def published(folder: Path, layout: str, **settings: object) -> Path:
    """A folder as the authors lay it out, with PyJuice's own homogeneous HMM."""
    folder.mkdir(exist_ok=True)
    shutil.copy(DATA / "hmm.jpc", folder / layout)
    if layout == "pc_model.jpc":
        (folder / "codd_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    return folder


@pytest.mark.parametrize("layout", ["model.jpc", "pc_model.jpc"])
@pytest.mark.parametrize("as_file", [False, True])
def test_both_layouts_give_pyjuices_log_likelihood(
    tmp_path: Path, layout: str, as_file: bool
) -> None:
    folder = published(tmp_path / "made", layout)
    found = load_published_circuit(folder / layout if as_file else folder)

    values = torch.tensor(EXPECTED["hmm"]["values"])
    expected = torch.tensor(EXPECTED["hmm"]["log_likelihood"])
    torch.testing.assert_close(
        found.circuit.log_likelihood(values).detach(), expected, rtol=0, atol=1e-5
    )
    # By the names of the family, so that every modulator fits and files say what they hold.
    assert set(found.circuit.plan.parameter_shapes) == {"initial", "transition", "emission"}
    assert (found.settings is None) == (layout == "model.jpc")


def test_blocks_are_kept_as_they_are() -> None:
    found = load_published_circuit(DATA / "hmm_blocks.jpc").circuit

    values = torch.tensor(EXPECTED["hmm_blocks"]["values"])
    expected = torch.tensor(EXPECTED["hmm_blocks"]["log_likelihood"])
    torch.testing.assert_close(found.log_likelihood(values).detach(), expected, rtol=0, atol=1e-5)


def test_settings_become_arguments_of_generate(tmp_path: Path) -> None:
    folder = published(tmp_path, "pc_model.jpc", remasking="entropy", temperature=1, extra="x")
    settings = load_published_circuit(folder).settings

    assert settings is not None and settings.base_model_type == "dream"
    assert settings.decoding == {
        "steps": 32,
        "new_tokens": 256,
        "block_length": 32,
        "selection": "entropy",
        "sampler": "latent",
        "temperature": 1.0,
        "guidance": 0.0,
        "coupling": "product",
        "mask_ratio_limit": 0.7,
    }
    reversed_settings = PublishedSettings(reverse_frac=True)
    assert "mask_ratio_limit" not in reversed_settings.decoding


def test_a_circuit_written_again_is_the_same(tmp_path: Path) -> None:
    found = load_published_circuit(published(tmp_path / "a", "pc_model.jpc"))
    save_published_circuit(tmp_path / "b", found.circuit, found.settings)
    save_published_circuit(tmp_path / "c", found.circuit)
    values = torch.tensor(EXPECTED["hmm"]["values"])

    assert (tmp_path / "c" / "model.jpc").is_file()
    for name in ("b", "c"):
        again = load_published_circuit(tmp_path / name)
        torch.testing.assert_close(
            again.circuit.log_likelihood(values), found.circuit.log_likelihood(values)
        )
        assert again.settings == (found.settings if name == "b" else None)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"vocab_size": 126464}, {}, "expected 126464 categories by codd_config.json, found"),
        ({}, {"num_categories": 7}, "expected 7 categories by the caller, found"),
        ({}, {"window": 32}, "expected a circuit over 32 tokens, found 6"),
        ({"mask_id": "five"}, {}, "mask_id: expected int, found 'five'"),
        ({"reverse_frac": 1}, {}, "reverse_frac: expected bool, found 1"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, settings: dict[str, object], options: dict[str, int], message: str
) -> None:
    folder = published(tmp_path, "pc_model.jpc", **settings)
    with pytest.raises(CheckpointError, match=message):
        load_published_circuit(folder, **options)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected pc_model.jpc or model.jpc, found neither"):
        load_published_circuit(tmp_path)
    folder = published(tmp_path / "made", "pc_model.jpc")
    (folder / "codd_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="must hold an object; found list"):
        load_published_circuit(folder)
    (folder / "codd_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_published_circuit(folder)
    with pytest.raises(CheckpointError, match="as vocab_size, found 9"):
        circuit = load_published_circuit(DATA / "hmm.jpc").circuit
        save_published_circuit(tmp_path / "b", circuit, PublishedSettings(vocab_size=9))


class _Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("layout", ["model.jpc", "pc_model.jpc"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, layout: str) -> None:
    folder = published(tmp_path / "made", layout)
    marker = tmp_path / "it_ran"
    (folder / layout).write_bytes(pickle.dumps([_Hostile(f"touch {marker}")]))

    with pytest.raises(pc.errors.FormatError, match=r"posix\.system"):
        load_published_circuit(folder)
    assert not marker.exists()
    pickle.loads((folder / layout).read_bytes())
    assert marker.exists(), "the file was harmless, and the test proved nothing"


PEAK = """
import re, sys
from pathlib import Path
import codd

def peak():
    return 1024 * int(re.search("VmHWM:(.*) kB", Path("/proc/self/status").read_text())[1])

codd.load_published_circuit(sys.argv[1])  # what a load needs once
before = peak()
found = codd.load_published_circuit(sys.argv[2])
print((peak() - before) / sum(p.numel() * 4 for p in found.circuit.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says the peak")
def test_a_large_table_is_not_held_many_times(tmp_path: Path) -> None:
    states, categories = 256, 65_536
    circuit = pc.CircuitModel(pc.families.hmm(4, states, categories))
    save_published_circuit(tmp_path, circuit)
    command = [sys.executable, "-c", PEAK, str(DATA / "hmm.jpc"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    # What the file has and the log-weights, or the log-weights and the model's.
    tables = float(done.stdout)
    print(f"peak: {tables:.2f} tables")
    assert tables < 2.8


def test_settings_are_what_the_authors_write() -> None:
    assert len(asdict(PublishedSettings())) == 14
    assert codd.load_published_circuit is load_published_circuit
