"""Files of every version of our own format stay loadable, with the numbers of their time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import pcircuits as pc
from codd.checkpoint import VERSION
from codd.training.cache_layout import VERSION as CACHE_VERSION
from pcircuits.io.folder import FORMAT_VERSION
from pcircuits.io.structure_json import STRUCTURE_VERSION
from tests.data.format.make_states import KINDS, rows

DATA = Path(__file__).parents[1] / "data" / "format"
FOLDERS = sorted(path.parent for path in DATA.glob("v*/*/circuit.json"))


@pytest.mark.parametrize(
    "folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}"
)
def test_golden_files_load(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())

    model = pc.load(folder)

    found = model.log_likelihood(torch.tensor(expected["values"]))
    torch.testing.assert_close(
        found, torch.tensor(expected["log_likelihood"], dtype=torch.float64), rtol=1e-12, atol=0
    )


def test_every_version_has_golden_files() -> None:
    """A new version needs files made by the code that first wrote it: see make.py."""
    versions = {
        json.loads((folder / "circuit.json").read_text())["structure_version"]: folder.parent.name
        for folder in FOLDERS
    }

    assert versions == {version: f"v{version}" for version in range(1, STRUCTURE_VERSION + 1)}


STATES = sorted(path for path in (DATA / "states").glob("v*/*") if path.is_dir())


@pytest.mark.parametrize("folder", STATES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_golden_states_load(folder: Path, tmp_path: Path) -> None:
    """Unfinished learning, coupled models and caches of every version."""
    expected = json.loads((folder.parent / f"{folder.name}.expected.json").read_text())

    found = KINDS[folder.name](folder)

    torch.testing.assert_close(_numbers(found), _numbers(expected), rtol=1e-5, atol=1e-6)


def _numbers(value: Any) -> torch.Tensor:
    """All numbers of JSON values in their order."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return torch.tensor([value], dtype=torch.float64)
    return torch.cat([_numbers(each) for each in value])


def test_every_version_of_states_has_golden_files() -> None:
    assert {folder.parent.name for folder in STATES} == {f"v{i}" for i in range(1, VERSION + 1)}
    assert (VERSION, FORMAT_VERSION, CACHE_VERSION) == (2, 2, 2)


def test_an_unfinished_learning_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    ends = []
    for version in ("v1", "v2"):
        folder = tmp_path / version
        shutil.copytree(DATA / "states" / version / "learning", folder)
        model = pc.CircuitModel(pc.families.hmm(4, 2, 3), seed=1)
        pc.fit_em(model, rows(), epochs=4, checkpoint=folder, resume=True, progress=False)
        ends.append(model.log_likelihood(rows()))
    torch.testing.assert_close(ends[0], ends[1])
