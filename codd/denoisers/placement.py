"""Where the parts of a network lie: one device, several, or as many as are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codd.errors import ConfigError

Device = str | torch.device
DeviceMap = Device | Mapping[str, Device] | None
Place = Callable[[str], torch.device]

_SPARE = 0.9  # share of a device's free memory that weights may take; the rest is for work


def placement(network: nn.Module, device_map: DeviceMap, dtype: torch.dtype | None) -> Place:
    """Says for each parameter of a network on which device it lies.

    Args:
        network: Its parts are its children, and the members of lists among them.
        device_map: A device for all; "auto" for CUDA devices in turn, as long as they have room,
            then the CPU; or parts' names -> devices, "" for the others; None for the CPU.
        dtype: Of the weights; None for float32.

    Raises:
        ConfigError: If a name is of no part, a part has no device, or a device is none.
    """
    parts = part_names(network)
    if device_map is None or isinstance(device_map, torch.device):
        chosen = dict.fromkeys(parts, device_map or torch.device("cpu"))
    elif device_map == "auto":
        size = torch.empty((), dtype=dtype or torch.float32).element_size()
        sizes = [
            size * sum(weight.numel() for weight in network.get_submodule(part).parameters())
            for part in parts
        ]
        chosen = dict(zip(parts, fill_devices(sizes, _free_memory()), strict=True))
    elif isinstance(device_map, str):
        chosen = dict.fromkeys(parts, _device(device_map))
    else:
        chosen = _by_name(parts, device_map)
    return lambda name: next(chosen[part] for part in parts if name.startswith(part + "."))


def single_device(device_map: DeviceMap) -> torch.device:
    """The one device of a network that is not split; "auto" is a CUDA device if there is one.

    Raises:
        ConfigError: If the map names parts, or no device.
    """
    if isinstance(device_map, Mapping):
        raise ConfigError(
            f"device_map: expected one device for a network that is not split, found {device_map!r}"
        )
    if device_map == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device("cpu") if device_map is None else _device(device_map)


def first_device(network: nn.Module) -> torch.device:
    """Where the first part of a network lies; the CPU if it has no weights."""
    return next((weight.device for weight in network.parameters()), torch.device("cpu"))


def part_names(network: nn.Module) -> list[str]:
    """Names of the parts that are placed as a whole, in the order in which they are called."""
    names = []
    for name, child in network.named_children():
        several = isinstance(child, nn.ModuleList)
        names += [f"{name}.{i}" for i in range(len(child))] if several else [name]  # type: ignore[arg-type]
    return names


def fill_devices(
    sizes: Sequence[int], free: Iterable[tuple[torch.device, int]]
) -> list[torch.device]:
    """Puts parts on devices in turn, each as long as it has room.

    Args:
        sizes: Bytes of each part.
        free: Devices and the bytes that they may take, in order; what is left goes to the CPU.

    Returns:
        The device of each part: neighbours stay together.
    """
    devices = [*free, (torch.device("cpu"), sum(sizes))]
    placed: list[torch.device] = []
    room = devices[0][1]
    for size in sizes:
        while size > room and len(devices) > 1:
            devices.pop(0)
            room = devices[0][1]
        room -= size
        placed.append(devices[0][0])
    return placed


def follow_devices(network: nn.Module) -> None:
    """Makes every part of a network move what it is given to where it lies itself.

    What the network returns is moved to where its first argument was.
    """
    for part in part_names(network):
        network.get_submodule(part).register_forward_pre_hook(_bring, with_kwargs=True)
    network.register_forward_hook(lambda module, given, found: _moved(found, given[0].device))


def _bring(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    device = next(module.parameters()).device
    return _moved(given, device), {name: _moved(each, device) for name, each in named.items()}


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if type(value) is tuple:  # a named one, such as a span, holds no tensors
        return tuple(_moved(each, device) for each in value)
    return value


def _by_name(parts: Sequence[str], device_map: Mapping[str, Device]) -> dict[str, torch.device]:
    chosen = {}
    for name in device_map:
        if name and not any(part == name or part.startswith(name + ".") for part in parts):
            raise ConfigError(
                f"device_map: expected names of parts, {', '.join(parts[:3])}, ..., found {name!r}"
            )
    for part in parts:
        fitting = [n for n in device_map if not n or part == n or part.startswith(n + ".")]
        if not fitting:
            raise ConfigError(f"device_map: expected a device for {part!r}, found none")
        chosen[part] = _device(device_map[max(fitting, key=len)])
    return chosen


def _device(name: Device) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device_map: expected a device or 'auto', found {name!r}") from error


def _free_memory() -> list[tuple[torch.device, int]]:
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [(each, int(_SPARE * torch.cuda.mem_get_info(each)[0])) for each in devices]
