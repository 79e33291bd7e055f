"""What pyproject.toml, constraints.txt and README.md promise, and whether they agree."""

from __future__ import annotations

import importlib
import itertools
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
}
TORCH_INSTALL = "pip install torch=={} && pip install -c constraints.txt "


def constraints() -> dict[str, Version]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    return {
        canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins
    }


def marked_blocks(marker: str) -> list[str]:
    return re.findall(rf"^<!-- {marker} -->\n```bash\n(.*?)\n```$", README, re.M | re.S)


@pytest.mark.parametrize("requirement", [*CORE, *EXTRAS["test"]], ids=str)
def test_what_the_tests_need_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    pin = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin)
    assert pin.local is None, "a local build cannot be installed elsewhere"


@pytest.mark.parametrize("requirement", [*CORE, *itertools.chain(*EXTRAS.values())], ids=str)
def test_requirements_have_a_lower_bound_and_no_upper_one(requirement: Requirement) -> None:
    operators = {specifier.operator for specifier in requirement.specifier}
    assert ">=" in operators
    assert operators <= {">=", "!="}


def test_readme_commands_install_the_pinned_torch_first() -> None:
    install = TORCH_INSTALL.format(constraints()["torch"])
    assert marked_blocks("install command") == [install + ". && codd demo"]
    assert marked_blocks("test command") == [install + '-e ".[test]" && pytest']


def test_every_extra_is_explained() -> None:
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == set(EXTRAS)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_readme_links_exist() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("command", ["codd", "pcircuits"])
def test_console_commands_exist(command: str) -> None:
    module, _, function = PROJECT["scripts"][command].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("package", ["pcircuits", "codd"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_installed_metadata_is_this_project() -> None:
    assert metadata.version(PROJECT["name"]) == PROJECT["version"]


@pytest.mark.parametrize(
    "example", re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S), ids=lambda _: "python"
)
def test_readme_example_runs(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "<README example>", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out
