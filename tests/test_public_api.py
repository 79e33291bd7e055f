"""The public names: none comes, goes or changes unnoticed, and each is explained."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib.metadata import version

import pytest
from typing_extensions import deprecated

from tests.support.docstrings import faults
from tests.support.public_api import (
    MODULES,
    PINNED,
    Public,
    described,
    function_of,
    members,
    public_names,
    resolve,
)

# Constants have no docstring; the comment above each explains it.
NAMES = [
    public for public in public_names() if callable(public.value) or inspect.ismodule(public.value)
]


def test_the_public_api_is_the_pinned_one() -> None:
    pinned = PINNED.read_text(encoding="utf-8").splitlines()
    changes = difflib.unified_diff(
        pinned, described().splitlines(), "pinned", "found", lineterm="", n=4
    )
    shown = "\n".join(changes)
    assert not shown, (
        f"the public API has changed:\n{shown}\nIf that is meant, deprecate what was there (see "
        "CONTRIBUTING.md) and run: python -m tests.support.public_api"
    )


def overdue(value: object, current: str) -> str:
    """What is wrong with how a public name is deprecated; nothing if it is not."""
    message = getattr(value, "__deprecated__", None)
    if message is None:
        return ""
    found = re.match(r"since (\d+\.\d+), removed in (\d+\.\d+): \w", message)
    if not found:
        return f"expected 'since X.Y, removed in X.Y: what to use instead'; found {message!r}"
    now = tuple(int(part) for part in current.split(".")[:2])
    last = tuple(int(part) for part in found[2].split("."))
    return f"it was to be removed in {found[2]}; this is {current}" if now >= last else ""


@pytest.mark.parametrize("public", NAMES, ids=lambda public: public.name)
def test_deprecations_name_versions_and_are_carried_out(public: Public) -> None:
    assert not overdue(public.value, version("pcircuits-codd"))


def test_a_deprecated_name_warns_with_its_versions() -> None:
    @deprecated("since 0.2, removed in 0.4: use `new`")
    def old() -> int:
        return 1

    with pytest.warns(DeprecationWarning, match=r"since 0\.2, removed in 0\.4: use `new`"):
        assert old() == 1
    assert not overdue(old, "0.3.7")
    assert "to be removed in 0.4" in overdue(old, "0.4.0")
    assert "expected 'since" in overdue(deprecated("use new")(lambda: 1), "0.1.0")


@pytest.mark.parametrize("name", MODULES)
def test_public_modules_are_explained(name: str) -> None:
    module = resolve(name)
    assert sorted(set(module.__all__)) == sorted(module.__all__), "a name is listed twice"
    assert not list(faults(module))


@pytest.mark.parametrize("public", NAMES, ids=lambda public: public.name)
def test_public_names_are_explained(public: Public) -> None:
    found = list(faults(public.value))
    assert not found, f"{public.name}: " + "; ".join(found)


@pytest.mark.parametrize(
    "public", [each for each in NAMES if inspect.isclass(each.value)], ids=lambda each: each.name
)
def test_methods_and_properties_are_explained(public: Public) -> None:
    silent = [
        name for name, value in members(public.value) if not inspect.getdoc(function_of(value))
    ]
    assert not silent, f"{public.name} has methods without docstrings: {', '.join(silent)}"
