"""The commands `codd` and `pcircuits`, quiet at Ctrl-C from their first moment to their last.

PyTorch takes seconds to import, in which an interrupt would print where the import was. So the
commands are started from here, outside the packages, with nothing but Python loaded.
"""

from __future__ import annotations

import importlib
import signal
import sys


def codd() -> int:
    """The command `codd`."""
    return _run("codd")


def pcircuits() -> int:
    """The command `pcircuits`."""
    return _run("pcircuits")


def _run(name: str) -> int:
    try:
        main = importlib.import_module(f"{name}.cli.main").main
        code: int = main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        code = 130
    # The work is done: what is left is Python's own end, which nothing may interrupt with a trace.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code
