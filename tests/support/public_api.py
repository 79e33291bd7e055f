"""What users may rely on: the public names, and their signatures as `public_api.txt` pins them.

`python -m tests.support.public_api` writes that file anew.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

PINNED = Path(__file__).resolve().parents[1] / "data" / "public_api.txt"
PACKAGES = ("pcircuits", "codd")
MEMBERS = (property, cached_property, classmethod, staticmethod, FunctionType)

MODULES = (
    "pcircuits",
    "pcircuits.errors",
    "pcircuits.families",
    "pcircuits.operators",
    "pcircuits.queries",
    "pcircuits.viz",
    "codd",
    "codd.compat",
    "codd.compat.dream",
    "codd.compat.llada",
    "codd.denoisers",
    "codd.errors",
    "codd.evaluation",
    "codd.training",
    "codd.viz",
)


@dataclass(frozen=True)
class Public:
    """A public name, and what it stands for."""

    name: str
    value: Any


def resolve(name: str) -> Any:
    """What users reach as `name`, by attributes alone."""
    package, *rest = name.split(".")
    found: Any = importlib.import_module(package)
    for part in rest:
        found = getattr(found, part)
    return found


def public_names() -> list[Public]:
    """The names in `__all__` of all public modules, without those that are public modules."""
    found = []
    for module in MODULES:
        for name in sorted(resolve(module).__all__):
            full = f"{module}.{name}"
            if full not in MODULES:
                found.append(Public(full, getattr(resolve(module), name)))
    return found


def _is_ours(owner: type) -> bool:
    return owner.__module__.partition(".")[0] in PACKAGES


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, also those of its bases in these packages."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if _is_ours(base):
            found |= {name: value for name, value in vars(base).items() if name[0] != "_"}
    for name, value in sorted(found.items()):
        if isinstance(value, MEMBERS):
            yield name, value


def function_of(member: Any) -> Callable[..., Any]:
    """The function behind a property, a class method, a static method or a method."""
    if isinstance(member, property):
        assert member.fget is not None
        return member.fget
    if isinstance(member, cached_property):
        return member.func
    return getattr(member, "__func__", member)


def is_protocol(owner: Any) -> bool:
    """Whether a class says what others have to have, and cannot be made."""
    return bool(getattr(owner, "_is_protocol", False))


def _type(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return inspect.formatannotation(annotation).removeprefix("torch.")


def _default(value: Any) -> str:
    return value.__name__ if inspect.isfunction(value) or inspect.isclass(value) else repr(value)


def _parameters(function: Callable[..., Any]) -> Iterator[str]:
    found = list(inspect.signature(function).parameters.values())
    starred = False
    for parameter in found:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            yield "*"
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        line = star.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            line += f": {_type(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            line += f" = {_default(parameter.default)}"
        if parameter.name not in ("self", "cls"):
            yield line


def _returns(function: Callable[..., Any]) -> str:
    annotation = inspect.signature(function).return_annotation
    return "" if annotation is inspect.Signature.empty else f" -> {_type(annotation)}"


def _class(name: str, owner: type) -> Iterator[str]:
    # Bases that are no public names may change unnoticed: what they bring stands among the members.
    public = [each.value for each in public_names()]
    known = [base for base in owner.__bases__ if base is not object]
    bases = ", ".join(
        base.__name__
        for base in known
        if any(base is value for value in public) or not _is_ours(base)
    )
    yield f"class {name}({bases})" if bases else f"class {name}"
    if not is_protocol(owner) and not issubclass(owner, Exception):
        yield from (f"    {line}" for line in _parameters(owner))
    for member, value in members(owner):
        function = function_of(value)
        kind = "property" if isinstance(value, property | cached_property) else "def"
        yield f"  {kind} {member}{_returns(function)}"
        yield from (f"    {line}" for line in _parameters(function))


def described() -> str:
    """All public names with their signatures, one parameter a line."""
    lines = []
    for public in public_names():
        if inspect.isclass(public.value):
            lines += _class(public.name, public.value)
        elif inspect.ismodule(public.value):
            lines.append(f"module {public.name}")
        elif callable(public.value):
            lines.append(f"def {public.name}{_returns(public.value)}")
            lines += [f"    {line}" for line in _parameters(public.value)]
        else:
            lines.append(f"{public.name} = {public.value!r}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PINNED.write_text(described(), encoding="utf-8")
    print(f"{PINNED}: {len(public_names())} public names")
