"""The options of the sub-command `cost`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.options import json_file, positive


def add_cost(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    description = "few-step accuracy on word problems against the cost of reaching it"
    command = commands.add_parser("cost", help=description, description=description)
    command.add_argument(
        "--out",
        type=json_file,
        default=Path("benchmarks/results/cost.json"),
        help="results; a table and a picture go beside; default %(default)s",
    )
    command.add_argument(
        "--work",
        type=Path,
        default=Path("runs/cost"),
        help="folder of checkpoints and of what is measured; default %(default)s",
    )
    command.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    command.add_argument("--threads", type=positive, default=1)
