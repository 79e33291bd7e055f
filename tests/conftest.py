"""Settings of all tests: random examples are the same on every run, and no test has a deadline."""

import os

import torch
from hypothesis import HealthCheck, Phase, settings

from tests.support.browser import browser  # noqa: F401  (a fixture of all tests)

if not torch.cuda.is_available():
    # Read when Triton is imported: without a device its kernels run in the interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")

_COMMON = settings(
    deadline=None,
    derandomize=True,
    database=None,
    # A failing case is reported as found: to shrink a circuit takes minutes and tells little more.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

settings.register_profile("quick", _COMMON, max_examples=40)
settings.register_profile("oracle", _COMMON, max_examples=300)
settings.load_profile("quick")
