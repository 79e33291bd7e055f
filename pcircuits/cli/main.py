"""`pcircuits`: reads the command line, calls the command, and turns errors into one line."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from pcircuits.cli import convert, draw, fit, info, query, sample, validate
from pcircuits.errors import is_out_of_memory

_COMMANDS = (info, validate, fit, query, sample, convert, draw)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after the program's name; default the process's own.

    Returns:
        The exit code: 0; 1 if `validate` finds a violation; 2 for wrong input; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.command_line = shlex.join(["pcircuits", *words])
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        return _complain(f"interrupted{stop}", 130)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has seen enough; nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        return _complain(f"error: {place}{error.strerror or error}", 2)
    except ValueError as error:  # all of the library's errors are of this kind
        return _complain(f"error: {error}", 2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _complain(f"error: {error or 'out of memory'}", 2)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcircuits",
        description="Probabilistic circuits over categorical variables: learn them from data, ask "
        "them exact questions, draw them.",
        epilog="example: pcircuits fit rows.csv --family hclt --output model",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    return parser


def _complain(message: str, code: int) -> int:
    print(f"pcircuits: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
