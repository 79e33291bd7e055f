"""The command line of the Language Model Evaluation Harness, with the model "codd".

    python -m codd.lm_eval --tasks gsm8k --model_args pretrained=demo,tokens_per_step=4

takes every argument of `lm_eval`; the model is "codd" unless `--model` names another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pcircuits as pc
from codd.errors import CoddError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the harness.

    Args:
        argv: The arguments after the program's name; default the process's own.

    Returns:
        The exit code: 0; 2 for wrong input of this package; the harness's own otherwise.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from lm_eval.__main__ import cli_evaluate

        from codd.lm_eval.harness import NAME
    except ImportError as error:
        print(f"codd: error: {error}; pip install '.[eval]'", file=sys.stderr)
        return 2
    sys.argv = ["lm_eval", *_with_model(words, NAME)]
    try:
        cli_evaluate()
    except (CoddError, pc.errors.CircuitError) as error:
        print(f"codd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _with_model(words: Sequence[str], name: str) -> list[str]:
    """The same arguments, with the model's name where a run has none."""
    given = [word.split("=")[0] for word in words]
    if {"--model", "-M", "--config", "-C"} & set(given) or given[:1] in (["ls"], ["validate"]):
        return list(words)
    flags = words[1:] if given[:1] == ["run"] else words
    return ["run", "--model", name, *flags] if flags else list(words)


if __name__ == "__main__":
    sys.exit(main())
