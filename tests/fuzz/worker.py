"""One harness under atheris, in a process of its own: started by `python -m tests.fuzz`."""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

# Imported before anything is instrumented: only the readers guide the fuzzer.
import networkx
import numba
import safetensors.torch
import torch

from tests.fuzz import instrumented

assert networkx and numba and safetensors.torch


def main(name: str, options: list[str]) -> None:
    """Fuzzes until the time that libFuzzer's options say is over."""
    with atheris.instrument_imports(include=list(instrumented(name)), enable_loader_override=False):
        from tests.fuzz.target import ALLOWED
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    torch.set_num_threads(1)
    warnings.simplefilter("error")

    def one(data: bytes) -> None:
        with contextlib.suppress(ALLOWED):
            target.run(data)

    with tempfile.TemporaryDirectory() as corpus:
        for i, seed in enumerate(target.seeds()):
            (Path(corpus) / f"seed-{i}").write_bytes(seed)
            one(seed)
        limit = _address_space() + 2 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        atheris.Setup([sys.argv[0], *options, corpus], one)
        atheris.Fuzz()


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
