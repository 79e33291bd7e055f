"""The field's other spellings of decoding arguments, read as ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from codd.decoding.quotas import Factor, Threshold
from codd.errors import DecodingError

SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "num_steps": "steps",
        "diffusion_steps": "steps",
        "gen_length": "new_tokens",
        "max_new_tokens": "new_tokens",
        "max_gen_len": "new_tokens",
        "block_size": "block_length",
        "remasking": "selection",
        "alg": "selection",
        "cfg_scale": "guidance",
        "eos_token_id": "end_id",
        "output_history": "record_history",
        "threshold": "quota",
        "factor": "quota",
    }
)
"""Another name (LLaDA, Dream, MDLM, Fast-dLLM) -> ours."""

_SELECTIONS = {
    "confidence": "low_confidence",
    "maskgit_plus": "low_confidence",
    "topk_margin": "margin",
    "origin": "random",
    "left-to-right": "left_to_right",
}
_QUOTAS = {"threshold": Threshold, "factor": Factor}


def is_given(argument: str, options: Mapping[str, Any]) -> bool:
    """Whether options name one of our arguments, in any spelling."""
    return given_value(argument, options) is not None


def given_value(argument: str, options: Mapping[str, Any]) -> Any:
    """What options say of one of our arguments, in any spelling; None if nothing."""
    names = (argument, *(other for other, own in SPELLINGS.items() if own == argument))
    found = (options[name] for name in names if options.get(name) is not None)
    return next(found, None)


def read_spellings(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Puts arguments in other spellings among our own.

    Args:
        own: Our arguments; None where not given.
        others: Arguments by any name in `SPELLINGS`.

    Returns:
        `own`, completed; selections by our names.

    Raises:
        DecodingError: If a name is unknown, or two spellings of one argument differ.
    """
    found = dict(own)
    found["selection"] = _our_value("selection", found.get("selection"))
    said = {name: name for name, value in found.items() if value is not None}
    for other, given in others.items():
        name = SPELLINGS.get(other)
        if name is None:
            known = ", ".join([*own, *SPELLINGS])
            raise DecodingError(f"no argument {other!r}; known are {known}")
        value = _our_value(other, given)
        if value is None:
            continue
        if found.get(name) is not None and found[name] != value:
            raise DecodingError(
                f"{said[name]}, {other}: two spellings of {name!r} must agree, found "
                f"{found[name]!r} and {value!r}"
            )
        found[name], said[name] = value, other
    return found


def _our_value(spelling: str, value: Any) -> Any:
    if value is None:
        return None
    if spelling in _QUOTAS:
        return _QUOTAS[spelling](value)
    if spelling == "selection" or SPELLINGS.get(spelling) == "selection":
        return _SELECTIONS.get(value, value)
    return value
