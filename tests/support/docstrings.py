"""What a public docstring must say: rules that a program can check."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.public_api import is_protocol

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Warns", "Examples")
# Sections of other names, and singular ones, which documentation tools do not know as sections.
MISNAMED = ("Arguments", "Parameters", "Params", "Return", "Yield", "Raise", "Example", "Note")
ARRAYS = ("Tensor", "ndarray", "Numbers")
# "(B, L)", "(K,)", "(vocabulary, D)"; or in words, where shapes are the circuit's own.
SHAPE = re.compile(r"\([\w\s*+-]*,[^()]*\)|\bshapes?\b|\bscalar\b|\bname -> ", re.IGNORECASE)


def sections(docstring: str) -> dict[str, str]:
    """Section title -> its text, of a docstring in Google's style."""
    found: dict[str, list[str]] = {}
    current = None
    for line in inspect.cleandoc(docstring).split("\n"):
        title = re.fullmatch(r"([A-Z]\w+):", line)
        if title and title[1] in SECTIONS:
            current = found.setdefault(title[1], [])
        elif line and not line.startswith(" "):
            current = None
        elif current is not None:
            current.append(line)
    return {title: textwrap.dedent("\n".join(lines)) for title, lines in found.items()}


def entries(section: str) -> dict[str, str]:
    """Name -> text, of a section that lists names."""
    found: dict[str, str] = {}
    name = ""
    for line in section.split("\n"):
        entry = re.match(r"(\*{0,2}\w+(?:, \w+)*): (.*)", line)
        if entry:
            name = entry[1].lstrip("*")
            found[name] = entry[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def _is_array(annotation: object) -> bool:
    return any(word in str(annotation) for word in ARRAYS)


def _raises_itself(function: Callable[..., Any]) -> bool:
    """Whether the function's own text has a `raise` of a new error."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def _arguments(owner: Callable[..., Any], listed: dict[str, str]) -> Iterator[str]:
    for name, parameter in inspect.signature(owner).parameters.items():
        if name not in listed:
            yield f"its parameter {name!r} is not among Args or Attributes"
        elif _is_array(parameter.annotation) and not SHAPE.search(listed[name]):
            yield f"the shape of its parameter {name!r} is not named: {listed[name]!r}"
    unknown = set(listed) - set(inspect.signature(owner).parameters)
    if unknown and not inspect.isclass(owner):
        yield f"Args has {sorted(unknown)}, which are no parameters"


def _results(function: Callable[..., Any], found: dict[str, str]) -> Iterator[str]:
    annotation = inspect.signature(function).return_annotation
    result = found.get("Returns") or found.get("Yields")
    if annotation in (None, "None", inspect.Signature.empty):
        return
    if not result:
        yield "there is no section Returns"
    elif _is_array(annotation) and not SHAPE.search(result):
        yield f"the shape of the result is not named: {result!r}"


def faults(value: Any) -> Iterator[str]:
    """What the docstring of a public function, class or module lacks."""
    docstring = inspect.getdoc(value) or ""
    if not docstring:
        yield "there is no docstring"
        return
    found = sections(docstring)
    for title in MISNAMED:
        if re.search(rf"^{title}:$", docstring, flags=re.M):
            yield f"the section {title!r} is unknown; expected one of {', '.join(SECTIONS)}"
    if inspect.isclass(value) and issubclass(value, Exception):
        return  # the module's example shows how they are caught
    if ">>>" not in found.get("Examples", ""):
        yield "there is no section Examples with a line of >>>"
    if inspect.isclass(value):
        if not is_protocol(value):
            listed = entries(found.get("Args", "")) | entries(found.get("Attributes", ""))
            yield from _arguments(value, listed)
    elif callable(value):
        yield from _arguments(value, entries(found.get("Args", "")))
        yield from _results(value, found)
        if _raises_itself(value) and "Raises" not in found:
            yield "it raises an error and has no section Raises"
