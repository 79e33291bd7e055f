"""Runs notebooks from a fresh kernel each, with warnings as errors.

    python notebooks/run.py                     # runs all, changes nothing
    python notebooks/run.py --write 01 04       # runs two and stores what they print and draw

Needs the extra `notebooks`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SECONDS = 180
"""What a notebook may take on two cores."""

# Run in the kernel before the notebook and not stored in it. Figures are stored small, and without
# the version of matplotlib in them, so that a second run gives the same file.
_BEFORE = """
import warnings
from IPython import get_ipython
from matplotlib_inline.backend_inline import set_matplotlib_formats
get_ipython().run_line_magic("matplotlib", "inline")
set_matplotlib_formats("png", metadata={"Software": None})
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message="For consistency across")  # of ipykernel itself
"""


def notebooks(names: Iterable[str] = ()) -> list[Path]:
    """The notebooks in their order; with names only those whose file name starts with one."""
    prefixes = tuple(names)
    found = sorted(FOLDER.glob("[0-9]*.ipynb"))
    return [path for path in found if not prefixes or path.name.startswith(prefixes)]


def run(path: Path) -> NotebookNode:
    """Runs a notebook in a fresh kernel.

    Args:
        path: The notebook; its folder is the kernel's working directory.

    Returns:
        The notebook with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails or warns.
        nbclient.exceptions.CellTimeoutError: If a cell takes longer than `SECONDS`.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    before = nbformat.v4.new_code_cell(_BEFORE)
    notebook.cells.insert(0, before)
    try:
        client.execute()
    finally:
        notebook.cells.remove(before)
    _number(notebook)
    return notebook


def _number(notebook: NotebookNode) -> None:
    """Counts code cells from 1, as if the notebook had been run by hand."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Formatter)
    parser.add_argument("names", nargs="*", help="how file names start; default all")
    parser.add_argument("--write", action="store_true", help="store the new outputs")
    options = parser.parse_args(arguments)
    chosen = notebooks(options.names)
    if not chosen:
        parser.error(f"no notebook in {FOLDER} starts with {' or '.join(options.names)}")
    for path in chosen:
        start = time.perf_counter()
        notebook = run(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        if options.write:
            nbformat.write(notebook, path)
    return 0


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


if __name__ == "__main__":
    sys.exit(main())
