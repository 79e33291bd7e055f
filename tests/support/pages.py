"""Runs what a page of the documentation shows: its Python in one namespace, its commands beside.

A comment on the line before a block says what differs from running it as it stands:

    <!-- not run: REASON -->        it needs what a test has not
    <!-- test: append OPTIONS -->   each command gets these too, to be small
    <!-- file: NAME -->             it is what the file holds, which a later block runs
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codd.cli.main import main as codd_main
from pcircuits.cli.main import main as pcircuits_main

RUN = ("python", "bash")
SHOWN = ("text", "yaml", "bibtex", "json", "")  # what is no program
_FENCE = re.compile(r"^```(\w*)(.*)$")
_NOTE = re.compile(r"^<!-- (not run|test|file): (.*) -->$")


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        language: After the fence.
        code: What is in it.
        line: Of its first line on the page, from 1.
        note: Kind and text of the comment before it, or ("", "").
    """

    language: str
    code: str
    line: int
    note: tuple[str, str]


def blocks(path: Path) -> Iterator[Block]:
    """All blocks of a page, in order."""
    lines = path.read_text(encoding="utf-8").split("\n")
    note, start, language = ("", ""), None, ""
    for number, line in enumerate(lines):
        if start is not None:
            if line == "```":
                code = "\n".join(lines[start:number]) + "\n"
                yield Block(language, code, start + 1, note)
                note, start = ("", ""), None
        elif found := _FENCE.match(line):
            language, start = found[1], number + 1
        elif line and (said := _NOTE.match(line)):
            note = said[1], said[2]
        elif line:
            note = ("", "")


def run_page(path: Path, folder: Path) -> dict[str, Any]:
    """Runs the blocks of a page in order; the working directory is `folder`.

    Args:
        path: The page.
        folder: Where files of the page go, already the working directory.

    Returns:
        The names that its Python has defined.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(path):
        where = f"{path.name}:{block.line}"
        assert block.language in (*RUN, *SHOWN), f"{where}: a block of {block.language!r}"
        kind, said = block.note
        if block.language in SHOWN or kind == "not run":
            continue
        if kind == "file":
            (folder / said).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            padded = "\n" * (block.line - 1) + block.code  # errors name the line of the page
            exec(compile(padded, str(path), "exec"), namespace)
        else:
            for command in _commands(block.code):
                words = [*command, *(shlex.split(said)[1:] if kind == "test" else ())]
                assert _run(words, folder) == 0, f"{where}: {shlex.join(words)}"
    return namespace


def _commands(code: str) -> Iterator[list[str]]:
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def _run(words: list[str], folder: Path) -> int:
    """Our own commands in this process, which has imported what they need; others as they are."""
    own = {"codd": codd_main, "pcircuits": pcircuits_main}
    if words[0] in own:
        return own[words[0]](words[1:])
    if words[0] == "torchrun":  # that of this environment
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    with subprocess.Popen(words, cwd=folder) as running:
        try:
            return running.wait(timeout=600)
        except subprocess.TimeoutExpired:
            running.terminate()  # and not killed: it ends the processes that it started
            raise
