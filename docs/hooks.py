"""What mkdocs does not do by itself when it builds the site.

Pages that live outside docs/ (notebooks, measurements, contributing) join the site, links are those
of the repository, formulas become MathML. A comment `<!-- help: codd train -->` becomes the help of
that command, `<!-- modules: codd.training -->` the reference of a package's modules. Nothing is
fetched, and no notebook is run.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import os
import posixpath
import re
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
RESULTS = "benchmarks/results"
_LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)#\s]+)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_PRINTED = re.compile(r"(?:^ {4}.*\n|^\n(?= {4}))+", re.MULTILINE)
_MODULES = re.compile(r"^<!-- modules: ([\w.]+) -->$", re.MULTILINE)
_HELP = re.compile(r"^<!-- help: (\w+)((?: [\w-]+)*) -->$", re.MULTILINE)


def places() -> dict[str, str]:
    """Where files outside docs/ are on the site: path in the repository -> path in the site."""
    found = {
        "README.md": "index.md",
        "LICENSE": "LICENSE.txt",
        "benchmarks/README.md": "measured/benchmarks.md",
        ".github/CONTRIBUTING.md": "project/contributing.md",
    }
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        found[f"notebooks/{notebook.name}"] = f"tutorials/{notebook.stem}.md"
    for result in sorted((ROOT / RESULTS).iterdir()):
        found[f"{RESULTS}/{result.name}"] = f"measured/{result.name}"
    return found


PLACES = places()


def on_config(config: Any) -> Any:
    """Adds the tables of measurements, as many as there are, to the navigation."""
    tables = sorted(to for of, to in PLACES.items() if of.startswith(RESULTS) and of.endswith("md"))
    for section in config.nav:
        if "Measured" in section:
            section["Measured"].append({"Tables": tables})
    return config


@event_priority(100)  # before the plugins look at the files
def on_files(files: Files, config: Any) -> Files:
    """Adds the files of `PLACES`; a notebook as Markdown, with its stored pictures beside it."""
    for source, target in PLACES.items():
        if source == "README.md":  # its content is that of the landing page
            continue
        if source.endswith(".ipynb"):
            for file in _notebook(config, ROOT / source, target):
                files.append(file)
        elif target.endswith(".md"):
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=text))
        else:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def _notebook(config: Any, path: Path, target: str) -> list[File]:
    body, resources = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    pictures = {name: f"{path.stem}-{name}" for name in resources["outputs"]}
    for name, unique in pictures.items():
        body = body.replace(f"({name})", f"({unique})")
    folder = posixpath.dirname(target)
    return [File.generated(config, target, content=_tidy(body))] + [
        File.generated(config, f"{folder}/{pictures[name]}", content=content)
        for name, content in resources["outputs"].items()
    ]


def _tidy(body: str) -> str:
    """Printed output, which the exporter indents, as blocks that are told from code."""
    parts = re.split(r"(^```.*?^```$)", body, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [_PRINTED.sub(_block, part) for part in parts[::2]]
    return "".join(parts).replace("![png]", "![What the cell draws]")


def _block(found: re.Match[str]) -> str:
    lines = [line.removeprefix("    ").rstrip() for line in found[0].strip("\n").split("\n")]
    printed = "\n".join(lines).strip("\n")
    return f"\n``` {{ .text .output }}\n{printed}\n```\n\n" if printed.strip() else "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Sends links out of docs/ to where the site has the file, and writes commands' help."""
    here = page.file.src_uri
    sources = {to: of for of, to in PLACES.items() if of != "README.md"}
    source = sources.get(here, f"docs/{here}")

    def moved(link: re.Match[str]) -> str:
        of = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if of not in PLACES and not of.startswith("docs/"):
            return link[0]  # within the site already, or wrong, which mkdocs will say
        to = PLACES.get(of) or of.removeprefix("docs/")
        return link[1] + posixpath.relpath(to, posixpath.dirname(here) or ".")

    parts = re.split(r"(^```.*?^```$|`[^`\n]+`)", markdown, flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [_LINK.sub(moved, part) for part in parts[::2]]
    text = _HELP.sub(lambda found: _help(found[1], found[2].split()), "".join(parts))
    return _MODULES.sub(lambda found: _modules(found[1]), text)


def _modules(package: str) -> str:
    """A reference entry for every module of a package: what no package above it exports."""
    entries = []
    for path in sorted(ROOT.joinpath(*package.split(".")).glob("[!_]*.py")):
        module = importlib.import_module(f"{package}.{path.stem}")
        above = (package.partition(".")[0], package)
        exported = {
            (name, id(getattr(exporter, name)))
            for exporter in map(importlib.import_module, above)
            for name in getattr(exporter, "__all__", ())
        }
        own = [
            name
            for name, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__
            and not name.startswith("_")
            and (name, id(value)) not in exported
        ]
        if own:
            options = f"    options:\n      members: [{', '.join(own)}]"
            entries.append(f"::: {module.__name__}\n{options}")
    return "\n\n".join(entries)


def on_page_content(content: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML, which browsers draw without a script."""
    return _FORMULA.sub(lambda found: _mathml(found[2], found[1] == "div"), content)


def _mathml(formula: str, block: bool) -> str:
    written = convert(html.unescape(formula).strip(), display="block" if block else "inline")
    return f'<div class="formula">{written}</div>' if block else written


def _help(command: str, names: list[str]) -> str:
    """What `command names... --help` prints, 100 columns wide."""
    main = importlib.import_module(f"{command}.cli.main").main
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*names, "--help"])
    return f"```text\n{printed.getvalue()}```"
