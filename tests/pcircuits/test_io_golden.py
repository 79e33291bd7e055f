"""Files of every version of our own format stay loadable, with the numbers of their time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pcircuits as pc
from pcircuits.io.structure_json import STRUCTURE_VERSION

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
