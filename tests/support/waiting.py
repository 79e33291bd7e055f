"""Modes that see operations that ask the device for a value, as a recorded step may not."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# What copies a value to the host, or makes a shape of values.
_ASKING = (
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique",
    "repeat_interleave",
)


class WaitedForDevice(AssertionError):
    """An operation asked for a value."""


class Waits(TorchDispatchMode):
    """Counts the operations that ask for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def asked(self, name: str) -> None:
        """Is told each operation that asks."""
        self.count += 1

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__.lstrip("_")
        if any(name.startswith(own.lstrip("_")) for own in _ASKING):
            self.asked(name)
        return function(*args, **(kwargs or {}))


class WithoutWaiting(Waits):
    """Raises `WaitedForDevice` where an operation asks for a value."""

    def asked(self, name: str) -> None:
        """Is told each operation that asks."""
        raise WaitedForDevice(f"{name} waits for the device")
