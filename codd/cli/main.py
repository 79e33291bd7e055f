"""`codd`: reads the command line, calls the command, and turns errors into one line."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

import pcircuits as pc
from codd.cli import cache, caches, convert, demo, evaluate, generate, tasks, train
from codd.errors import CoddError

_COMMANDS = (demo, cache, train, generate, evaluate, tasks, caches, convert)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after the program's name; default the process's own.

    Returns:
        The exit code: 0; 2 for wrong input; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.command_line = shlex.join(["codd", *words])
    try:
        args.run(args)
    except KeyboardInterrupt as stop:
        return _complain(f"interrupted{stop}", 130)
    except (CoddError, pc.errors.CircuitError) as error:
        return _complain(f"error: {error}", 2)
    except (MemoryError, RuntimeError) as error:
        if not pc.errors.is_out_of_memory(error):
            raise
        return _complain(f"error: {error or 'out of memory'}", 2)
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"error: {place}{error.strerror or error}", 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codd",
        description="Coupled discrete diffusion: a masked diffusion language model whose tokens a "
        "probabilistic circuit couples.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _complain(message: str, code: int) -> int:
    print(f"codd: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
