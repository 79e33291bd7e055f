"""Weights of published networks: safetensors, in one file or several with an index.

The files are looked at as if somebody hostile had written them: names are plain file names inside
the folder, shapes are compared before anything is read, and each tensor is put into its place as
it comes, so that a network takes no more memory than its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from codd.denoisers.base import LoadOptions
from codd.denoisers.folders import INDEX, SINGLE, read_json
from codd.denoisers.placement import follow_devices, placement
from codd.denoisers.quantization import quantize_linear, require_quantization
from codd.errors import CheckpointError


class PublishedTensors:
    """The tensors of a folder by name; open while its context lasts.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: Path, files: Mapping[str, Any]) -> None:
        """Takes the opened file of each tensor."""
        self.folder = folder
        self._files = files

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, read from the header alone."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def require(self, names: set[str], *, all_of_them: bool = False) -> None:
        """Checks that tensors are there.

        Args:
            names: The tensors that a network needs.
            all_of_them: Whether there may be no others.

        Raises:
            CheckpointError: If one is missing or, where that is asked, unknown.
        """
        wrong = {"missing": names - self.names}
        if all_of_them:
            wrong["unknown"] = self.names - names
        for what, found in wrong.items():
            if found:
                some = ", ".join(sorted(found)[:3])
                raise CheckpointError(
                    f"{self.folder}: expected the tensors that config.json describes, found "
                    f"{len(found)} {what}: {some}{', ...' if len(found) > 3 else ''}"
                )

    def read(self, name: str) -> Tensor:
        """The tensor, mapped from the disk.

        Raises:
            CheckpointError: If it is not of floating point.
        """
        tensor: Tensor = self._files[name].get_tensor(name)
        if not tensor.is_floating_point():
            raise CheckpointError(
                f"{self.folder}: tensor {name}: expected floating point, found {tensor.dtype}"
            )
        return tensor


@contextmanager
def open_tensors(folder: Path) -> Iterator[PublishedTensors]:
    """Opens the safetensors of a folder.

    Raises:
        CheckpointError: If there are none, or the index is damaged or leaves the folder.
    """
    with ExitStack() as stack:
        opened: dict[str, Any] = {}

        def file(name: str) -> Any:
            if name not in opened:
                opened[name] = stack.enter_context(_open_file(folder, name))
            return opened[name]

        if (folder / INDEX).is_file():
            index = _read_index(folder)
            placed = {tensor: file(name) for tensor, name in index.items()}
            held = {name: set(each.keys()) for name, each in opened.items()}
            for tensor, name in index.items():
                if tensor not in held[name]:
                    raise CheckpointError(
                        f"{folder / INDEX}: expected tensor {tensor!r} in {name}, found none"
                    )
        else:
            whole = file(SINGLE)
            placed = dict.fromkeys(whole.keys(), whole)
        yield PublishedTensors(folder, placed)


def assign_weights(
    network: nn.Module,
    tensors: PublishedTensors,
    published_name: Callable[[str], str],
    *,
    options: LoadOptions,
    ignored: Callable[[str], bool] = lambda name: False,
) -> None:
    """Fills a network on the meta device with published weights, one after the other.

    Args:
        network: Its parameters have the right shapes and no memory.
        tensors: What was published.
        published_name: The published name of each parameter.
        options: Type, devices and quantisation of the weights.
        ignored: Published tensors that no parameter needs.

    Raises:
        CheckpointError: If names or shapes are not the network's.
        ConfigError: If an option is impossible.
    """
    place = placement(network, options.device_map, options.dtype)
    if options.quantization is not None:
        require_quantization(options.quantization)  # before anything is read
    wanted = {name: published_name(name) for name, _ in network.named_parameters()}
    needless = {name for name in tensors.names - set(wanted.values()) if ignored(name)}
    tensors.require(set(wanted.values()) | needless, all_of_them=True)
    for name, parameter in network.named_parameters():
        found = tensors.shape(wanted[name])
        if found != tuple(parameter.shape):
            raise CheckpointError(
                f"{tensors.folder}: tensor {wanted[name]}: expected shape "
                f"{tuple(parameter.shape)}, found {found}"
            )
    at_first = place if options.quantization is None else lambda name: torch.device("cpu")
    filled: dict[int, nn.Parameter] = {}
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if id(parameter) not in filled:  # tied parameters stay one
            tensor = tensors.read(wanted[name]).to(at_first(name), options.dtype)
            filled[id(parameter)] = nn.Parameter(tensor, requires_grad=False)
        _set(network, name, filled[id(parameter)])
    if options.quantization is not None:
        quantize_linear(network, options.quantization, place)
        for name, weight in list(network.named_parameters()):
            if weight.device != place(name):
                _set(network, name, nn.Parameter(weight.data.to(place(name)), requires_grad=False))
    if len({weight.device for weight in network.parameters()}) > 1:
        follow_devices(network)


def _set(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(network.get_submodule(owner), last, parameter)


def _read_index(folder: Path) -> dict[str, str]:
    found = read_json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise CheckpointError(
            f"{folder / INDEX}: expected 'weight_map' from tensors to files, found "
            f"{type(found).__name__}"
        )
    return found


def _open_file(folder: Path, name: str) -> Any:
    plain = Path(name).name == name and name.endswith(".safetensors") and "\\" not in name
    if not plain:
        raise CheckpointError(f"{folder}: expected the name of a safetensors file, found {name!r}")
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder}: expected the file {name}, found none")
    try:
        return safe_open(folder / name, framework="pt")
    except SafetensorError as error:
        raise CheckpointError(f"{folder / name}: expected safetensors, found {error}") from error
