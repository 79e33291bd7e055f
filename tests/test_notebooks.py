"""Every notebook runs from a fresh kernel, without a warning, and is stored as it was run."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]


def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook_runner", ROOT / "notebooks" / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = runner()
NOTEBOOKS = RUNNER.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path) -> None:
    RUNNER.run(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_without_running_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    first = notebook.cells[0].source
    assert re.match(rf"# {int(path.name[:2])}\. ", first), first.splitlines()[0]
    assert "**Purpose.**" in first and "**Time.**" in first
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [output.output_type for cell in code for output in cell.outputs]
    assert "error" not in kinds
    figures = [output for cell in code for output in cell.outputs if "image/png" in str(output)]
    assert figures, f"{path.name} stores no figure"


def test_notebooks_link_to_what_there_is() -> None:
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            for target in re.findall(r"\]\(([^)#:]+)\)", cell.source):
                assert (path.parent / target).exists(), f"{path.name}: {target} is not there"


@pytest.mark.parametrize(
    "source",
    ["import pcircuits as pc\npc.no_such_name", "import warnings\nwarnings.warn('careful')"],
    ids=["changed API", "warning"],
)
def test_a_notebook_that_is_broken_fails(tmp_path: Path, source: str) -> None:
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    with pytest.raises(CellExecutionError):
        RUNNER.run(path)
