"""What exactness tests are made of finds what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import numba as nb
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

import pcircuits as pc
from tests.support.circuits import SEEDS
from tests.support.evidence import Case
from tests.support.fast_paths import exact, results, strided
from tests.support.low_precision import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    TF32,
    VALUE,
    Precision,
    Rounded,
    allowed,
)
from tests.support.poison import embedded, poisoned_memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs the GNU C library")


# Poison.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_torch_allocates_is_nan(dtype: torch.dtype) -> None:
    assert fresh_tensors_are_nan(5_000, dtype)


@LINUX
def test_small_tensors_are_nan_without_the_cache_of_the_c_library() -> None:
    """That cache hands out what was freed meanwhile, by whatever ran before."""
    script = "from tests import test_exactness_tools as own; own.assert_small_tensors_are_nan()"
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def assert_small_tensors_are_nan() -> None:
    """Run in a process of its own, since the C library reads its switches at the start."""
    for size in (1, 7, 33):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            # What is freed here would be handed out again.
            torch.stack([torch.ones(size, dtype=dtype) for _ in range(30)])
            assert fresh_tensors_are_nan(size, dtype), (size, dtype)


def fresh_tensors_are_nan(size: int, dtype: torch.dtype) -> bool:
    """Whether tensors that nobody has written hold NaN, however they are made."""
    like = torch.zeros(size, dtype=dtype)
    with poisoned_memory():
        fresh = [
            torch.empty(size, dtype=dtype),
            torch.empty_like(like),
            like.new_empty(size),
            torch.empty_strided((size, 2), (1, size), dtype=dtype),
            torch.empty(0, dtype=dtype).resize_(size),
        ]
    return all(bool(tensor.isnan().all()) for tensor in fresh)


@pytest.mark.parametrize("size", [1, 7, 33, 5_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_numpy_allocates_is_nan(dtype: type, size: int) -> None:
    like = np.zeros((size, 2), dtype)
    with poisoned_memory():
        fresh = [np.empty(size, dtype), np.empty_like(like), np.empty((2, size), dtype=dtype)]
    assert all(np.isnan(array).all() for array in fresh)
    assert (np.empty(3, np.int64) is not None) and np.empty.__module__ == "numpy"


def test_a_buffer_that_is_given_is_not_poisoned() -> None:
    buffer, ones = torch.ones(5), torch.ones(5)
    with poisoned_memory():
        torch.add(ones, ones, out=buffer)
    assert buffer.tolist() == [2.0] * 5


@nb.njit
def _compiled_scratch(size: int) -> float:
    scratch = np.empty(size, np.float32)
    scratch[: size - 1] = 1.0  # the planted mistake: the last one is forgotten
    return scratch.sum()


@LINUX
def test_compiled_code_that_forgets_an_element_is_found() -> None:
    with poisoned_memory():
        assert np.isnan(_compiled_scratch(5_000))


@nb.njit
def _compiled_later(size: int) -> float:
    scratch = np.empty(size, np.float64)
    like = np.empty_like(scratch)
    scratch[:], like[:] = 1.0, 2.0
    return scratch.sum() + like.sum()


def test_code_may_be_compiled_on_poisoned_memory() -> None:
    with poisoned_memory():
        assert _compiled_later(10) == 30.0


def _sum_that_forgets(x: Tensor, *, forgotten: bool) -> Tensor:
    total = x.new_empty(len(x))
    for row in range(len(x) - forgotten):
        total[row] = x[row].sum()
    return total


def test_a_kernel_that_forgets_a_row_is_found() -> None:
    with poisoned_memory():
        assert _sum_that_forgets(torch.ones(3, 2), forgotten=True).isnan().any()
        assert _sum_that_forgets(torch.ones(3, 2), forgotten=False).tolist() == [2.0] * 3


@pytest.mark.parametrize("place", [embedded, strided])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_what_lies_between_nans_is_the_same(place: object, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).view(2, 3).to(dtype)
    found = place(tensor)
    assert torch.equal(found, tensor) and found.dtype == dtype
    assert found.is_contiguous() == (place is embedded)
    start = found.storage_offset() - 1 if place is embedded else 1
    neighbour = found.as_strided((1,), (1,), start)
    assert dtype == torch.bool or not bool(neighbour < 100)


# Interpreted kernels.


def _kernels() -> ModuleType:
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("kernels are compiled for a device here")
    pytest.importorskip("triton")
    return import_module("tests.support.planted")


def test_a_kernel_without_a_mask_is_found() -> None:
    kernel = _kernels().copy_kernel
    for size, masked in ((3, True), (8, False)):
        source, target = torch.ones(size), torch.zeros(size)
        with poisoned_memory():
            kernel[(1,)](source, target, size, BLOCK=8, masked_store=masked)
        assert torch.equal(source, target)
    source, target = torch.ones(3), torch.zeros(3)
    with poisoned_memory(), pytest.raises(Exception, match="5 of 8 addresses outside"):
        kernel[(1,)](source, target, 3, BLOCK=8, masked_store=False)


def test_lanes_that_are_masked_out_have_no_value() -> None:
    kernel, source = _kernels().sum_kernel, torch.ones(3)
    for zero_elsewhere in (True, False):
        target = torch.zeros(1)
        with poisoned_memory():
            kernel[(1,)](source, target, 3, BLOCK=8, zero_elsewhere=zero_elsewhere)
        assert bool(target.isnan()) != zero_elsewhere


# Tolerances.


def _case(seed: int) -> Case:
    circuit = pc.families.hmm(5, 7, 9)
    plan = pc.compile_circuit(circuit)
    parameters = pc.random_parameters(plan, seed=seed, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    soft = 3 * torch.randn(3, 5, 9, generator=generator, dtype=torch.float64)
    return Case(circuit, parameters, pc.Evidence(log_potentials=soft))


@given(SEEDS)
def test_rounded_arithmetic_is_that_of_the_precision(seed: int) -> None:
    """Beside float32 itself: element by element the same; sums differ by their order alone."""
    x = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    y = x.double().requires_grad_()
    x.requires_grad_()
    with Rounded(FLOAT32):
        (rounded,) = torch.autograd.grad(((y * y) / 3 + y).sum(), y)
    (single,) = torch.autograd.grad(((x * x) / 3 + x).sum(), x)
    assert torch.equal(rounded.float(), single)
    assert torch.equal(rounded, rounded.float().double())


@pytest.mark.parametrize("precision", [FLOAT32, TF32, BFLOAT16])
def test_tolerances_are_of_the_size_of_the_unit(precision: Precision) -> None:
    limits = exact(_case(0), precision, results, 0)
    largest = max(float(tensor.abs().max()) for tensor in limits.exact.values())
    assert limits.errors[VALUE] < 100 * precision.factor_unit + 1000 * precision.unit * largest
    assert min(limits.errors.values()) > precision.unit / 100


def test_lower_precisions_allow_more() -> None:
    errors = [exact(_case(0), p, results, 0).errors for p in (FLOAT64, FLOAT32, TF32, BFLOAT16)]
    for name in errors[0]:
        sizes = [own[name] for own in errors]
        assert sizes == sorted(sizes) and sizes[0] < 1e-6 * sizes[1] and sizes[1] < sizes[2] / 50


def test_an_error_beyond_the_tolerance_is_found() -> None:
    x = torch.linspace(0.1, 1.0, 11, dtype=torch.float64)
    limits = allowed(lambda: {VALUE: x.log(), "other": x.exp()}, FLOAT32)
    single = x.float()
    assert limits.check({VALUE: single.log(), "other": single.exp()}, "float32") <= 1
    for name in (VALUE, "other"):
        wrong = {VALUE: single.log(), "other": single.exp()}
        wrong[name] = wrong[name] + 2e-5
        with pytest.raises(AssertionError, match=f"{name} is off by 2"):
            limits.check(wrong, "float32")
        wrong[name] = torch.where(torch.arange(11) == 3, torch.nan, wrong[name])
        with pytest.raises(AssertionError, match=f"{name} has NaN"):
            limits.check(wrong, "float32")


def test_infinities_must_agree() -> None:
    limits = allowed(lambda: {VALUE: torch.tensor([-torch.inf, 0.0]).double()}, FLOAT32)
    limits.check({VALUE: torch.tensor([-torch.inf, 0.0])}, "right")
    for wrong in ([-1e30, 0.0], [-torch.inf, -torch.inf]):
        with pytest.raises(AssertionError):
            limits.check({VALUE: torch.tensor(wrong)}, "wrong")
