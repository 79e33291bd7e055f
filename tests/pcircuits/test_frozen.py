"""What packages hand around cannot be changed; if it holds arrays, it equals only itself."""

from __future__ import annotations

import dataclasses
import pkgutil
from importlib import import_module

import pytest

# State of one search, and what is equal where its parts are.
CHANGING = {"_Search"}
BY_PARTS = {"Choice", "_Group"}


def classes(package: str) -> dict[str, type]:
    """Dataclasses of a package's files, but of kernels for devices, by module and name."""
    path = import_module(package).__path__
    names = [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
    files = [import_module(name) for name in names if ".triton" not in name]
    found = [own for file in files for own in vars(file).values() if isinstance(own, type)]
    return {
        f"{own.__module__}.{own.__name__}": own
        for own in found
        if dataclasses.is_dataclass(own) and own.__module__.startswith(package)
    }


@pytest.mark.parametrize("package", ["pcircuits.queries", "pcircuits.execute"])
def test_what_is_handed_around_is_frozen_and_compares_by_identity(package: str) -> None:
    found = classes(package)
    assert len(found) > 5
    for own in found.values():
        first = object.__new__(own)
        field = dataclasses.fields(own)[0].name
        name = own.__name__
        if name in CHANGING:
            continue
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(first, field, None)
        assert (own.__eq__ is object.__eq__) is (name not in BY_PARTS), name
        assert own.__hash__ is not None, name


@pytest.mark.parametrize("package", ["pcircuits.queries", "pcircuits.execute"])
def test_what_holds_arrays_is_a_dataclass(package: str) -> None:
    """With the fields that it says, in their order."""
    for own in classes(package).values():
        assert [field.name for field in dataclasses.fields(own)] == list(own.__annotations__)


@pytest.mark.parametrize("package", ["pcircuits.compile", "codd.coupling", "codd.decoding"])
def test_no_dataclass_can_be_changed(package: str) -> None:
    found = classes(package)
    assert len(found) > 5
    for own in found.values():
        for field in dataclasses.fields(own):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(object.__new__(own), field.name, None)
