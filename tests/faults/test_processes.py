"""Read-only homes, little memory, forks and spawns, threads."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import pcircuits as pc

ROOT = Path(__file__).resolve().parents[2]

_EVALUATE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, pcircuits as pc
    model = pc.CircuitModel(pc.families.hmm(4, 2, 3), seed=0)
    model.log_likelihood(torch.zeros(2, 4, dtype=torch.long))
    from pcircuits.jit import cached_jit
    one = cached_jit(nogil=True)(lambda x: x + 1)
    assert one(1) == 2
print(sum("NUMBA_CACHE_DIR" in str(each.message) for each in caught), pc.__file__)
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv"
)
def test_a_read_only_package_in_a_read_only_home_works_with_one_warning(tmp_path: Path) -> None:
    package, home = tmp_path / "site" / "pcircuits", tmp_path / "home"
    shutil.copytree(ROOT / "pcircuits", package, ignore=shutil.ignore_patterns("__pycache__"))
    home.mkdir()
    for place in (home, package, *package.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    environment = {
        **os.environ,
        "HOME": str(home),
        "NUMBA_CACHE_DIR": str(home / "numba"),
        "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    powerless = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    run = subprocess.run(
        [*powerless, sys.executable, "-c", _EVALUATE],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1", str(package / "__init__.py")]


_TOO_MUCH = """
import resource
from pathlib import Path
import torch, pcircuits as pc
torch.set_num_threads(1)
hmm = pc.families.hmm(16, 32, 50)
mixture = pc.families.hmm(16, 32, 50)
model = pc.CircuitModel(hmm, seed=0)
few = torch.zeros(4, 16, dtype=torch.long)
for impl in ("fused", "eager"):
    before = pc.forward(model.plan, model.log_parameters(), pc.Evidence(few), impl=impl)
    many = torch.zeros(400_000, 16, dtype=torch.long)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        pc.forward(model.plan, model.log_parameters(), pc.Evidence(many), impl=impl)
    except pc.errors.OutOfMemoryError as error:
        assert isinstance(error, MemoryError)
        assert "400000 examples" in str(error), error
        print("refused")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    del many
    after = pc.forward(model.plan, model.log_parameters(), pc.Evidence(few), impl=impl)
    assert torch.equal(before, after)
"""


def test_a_batch_that_does_not_fit_is_named_and_the_model_goes_on() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _TOO_MUCH], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["refused", "refused"]


def _likelihoods(model: pc.CircuitModel, rows: torch.Tensor) -> list[float]:
    return [float(x) for x in model.log_likelihood(rows).detach()]


def test_threads_that_call_one_model_get_equal_answers() -> None:
    model = pc.CircuitModel(pc.families.hmm(8, 16, 10), seed=0)
    source = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 10, (n, 8), generator=source) for n in (3, 17, 64, 5)]
    expected = [_likelihoods(model, rows) for rows in batches]
    marginals = [model.marginals(pc.Evidence(rows)) for rows in batches]
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(12):
            place = (number + turn) % len(batches)
            if _likelihoods(model, batches[place]) != expected[place]:
                wrong.append(f"likelihoods of batch {place}")
            if not torch.equal(model.marginals(pc.Evidence(batches[place])), marginals[place]):
                wrong.append(f"marginals of batch {place}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _of_folder(folder: Path, rows: torch.Tensor) -> list[float]:
    return _likelihoods(pc.load(folder), rows)


def test_a_spawned_process_gives_the_same_answer(tmp_path: Path) -> None:
    """Forked ones are tested by `python -m tests.faults`, in a process without threads."""
    model = pc.CircuitModel(pc.families.hmm(4, 3, 3), seed=0)
    model.save(tmp_path)
    rows = torch.zeros(3, 4, dtype=torch.long)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_of_folder, (tmp_path, rows)) == _likelihoods(model, rows)
        assert pool.apply(_likelihoods, (model, rows)) == _likelihoods(model, rows)


@pytest.mark.parametrize("name", ["codd", "pcircuits"])
def test_an_interrupt_while_the_command_loads_is_quiet(name: str) -> None:
    code = (
        "import importlib, os, signal, pcircuits_codd as commands\n"
        "def interrupted(name):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "importlib.import_module = interrupted\n"
        f"raise SystemExit(commands.{name}())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (130, f"{name}: interrupted\n")
