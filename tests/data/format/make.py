"""Makes the golden files of the current structure version: run once, when the version changes.

    python tests/data/format/make.py tests/data/format/v2

Files of earlier versions were made by the code of their time and are never made again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import pcircuits as pc
from pcircuits.execute.reference import log_value

ROWS = 8


def nodes() -> pc.Circuit:
    """All that version 1 has: all kinds of nodes, mixing and dense sums, ties, names."""
    words = pc.Input(0, num_units=2, num_categories=3, parameter="words", name="a word")
    tied = pc.Input(1, num_units=2, num_categories=3, parameter="words")
    other = pc.Input(1, num_units=1, num_categories=3)
    mixed = pc.Sum(tied, other, num_units=2, mixing=True)
    pairs = pc.KroneckerProduct(words, mixed)
    dense = pc.Sum(pairs, num_units=3, parameter="dense")
    last = pc.Input(2, num_units=3, num_categories=4, name="last")
    return pc.Circuit(pc.Sum(pc.Product(dense, last), num_units=1, name="root"))


def parts() -> pc.Circuit:
    """What version 2 added: parts of parameters, indicators, sums without weights."""
    inputs = [
        pc.Input(0, num_units=2, num_categories=3, parameter=pc.Part("table", start))
        for start in (0, 2)
    ]
    sums = [
        pc.Sum(node, num_units=2, parameter=pc.Part("sums", start))
        for node, start in zip(inputs, (0, 4), strict=True)
    ]
    either = pc.Sum(*sums, num_units=2, mixing=True, weighted=False)
    gate = pc.Input(1, num_units=2, num_categories=3, supports=((0,), (1, 2)))
    return pc.Circuit(pc.Sum(pc.Product(either, gate), num_units=1))


def main(folder: Path) -> None:
    """Writes one folder for each circuit, and what it gives for some rows."""
    generator = torch.Generator().manual_seed(1)
    for build in (nodes, parts):
        model = pc.CircuitModel(build(), seed=1).double()
        target = folder / build.__name__
        model.save(target)
        sizes = model.circuit.categories
        values = torch.stack(
            [torch.randint(0, size, (ROWS,), generator=generator) for size in sizes], dim=1
        )
        evidence = pc.Evidence(values=values)
        found = log_value(model.circuit, model.log_parameters(), evidence)
        expected = {"values": values.tolist(), "log_likelihood": found.tolist()}
        (target / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
