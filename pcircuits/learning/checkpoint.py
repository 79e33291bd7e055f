"""The state of unfinished learning in a folder: tensors in safetensors, the rest in JSON.

As for a model's folder, the tensors' file carries its checksum in its name and is written first;
`checkpoint.json` names it and is put in place by one rename, so that whatever happens the folder
holds the old checkpoint or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pcircuits.errors import FormatError
from pcircuits.files import read_described, write_described

FORMAT = "pcircuits-checkpoint"
# Version 2 added the checksum of the description's own content.
FORMAT_VERSION = 2
_READABLE = {(FORMAT, 1): False, (FORMAT, FORMAT_VERSION): True}
_DESCRIPTION, _STEM = "checkpoint.json", "tensors"


def save_checkpoint(folder: str | Path, state: Mapping[str, object]) -> None:
    """Writes a state, replacing the one that is there.

    Args:
        folder: The folder, made if needed.
        state: Nested dictionaries (keys: strings or integers), lists and tuples of tensors,
            numbers, strings, truth values and None, such as an optimiser's `state_dict()`.

    Raises:
        FormatError: If something else is in it; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    encoded = _encode(dict(state), tensors, "state")
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    write_described(Path(folder) / _DESCRIPTION, _STEM, tensors, head, {"state": encoded})


def load_checkpoint(folder: str | Path) -> dict[str, object] | None:
    """Reads the state that `save_checkpoint` wrote.

    Args:
        folder: The folder.

    Returns:
        The state, tensors on the CPU; None if there is no checkpoint.

    Raises:
        FormatError: If the checkpoint is damaged, or of another format or version.
    """
    path = Path(folder) / _DESCRIPTION
    if not path.exists():
        return None
    description, tensors = read_described(path, _READABLE)
    try:
        state = _decode(description["state"], tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error!r}") from error
    if not isinstance(state, dict):
        raise FormatError(f"{path} holds {type(state).__name__}; expected a dictionary")
    return state


def _encode(value: object, tensors: dict[str, Tensor], place: str) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        # A copy of its own: safetensors writes no memory that two tensors share.
        key = f"{len(tensors)}:{place}"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        entries = [[k, _encode(v, tensors, f"{place}/{k}")] for k, v in value.items()]
        return {"entries": entries}
    if isinstance(value, (list, tuple)):
        items = [_encode(v, tensors, f"{place}/{i}") for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    raise FormatError(f"{place} is a {type(value).__name__}, which a checkpoint cannot hold")


def _decode(value: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in content)
    if kind == "entries":
        return {key: _decode(item, tensors) for key, item in content}
    raise ValueError(f"unknown entry {kind!r}")
