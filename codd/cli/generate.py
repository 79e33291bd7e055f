"""`codd generate`: continues texts."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from codd.cli.inputs import (
    add_model,
    add_placement,
    add_seed,
    add_selection,
    add_threads,
    read_model,
    set_threads,
)
from codd.coupling.couplings import COUPLING_NAMES
from codd.coupling.settings import FACTORISED
from codd.decoding.automata import matching
from codd.decoding.calls import CACHES
from codd.decoding.loop import Callback, StepRecord
from codd.decoding.options import MODES
from codd.decoding.samplers import SAMPLERS
from codd.errors import DecodingError
from codd.model import CoupledModel

_TOKENS_PER_STEP = 8


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of `codd`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "generate",
        help="continue texts",
        description="Continues every prompt and prints the texts.",
    )
    add_model(parser)
    parser.add_argument("prompts", metavar="PROMPT", nargs="+", help="a text to continue")
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="tokens to add to each; default one block"
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--steps", type=int, metavar="N", help="denoiser calls in all")
    pace.add_argument(
        "--tokens-per-step",
        type=int,
        metavar="N",
        help=f"tokens to fix at each denoiser call; default {_TOKENS_PER_STEP}, or the block if it "
        "is shorter",
    )
    pace.add_argument(
        "--quota",
        metavar="RULE",
        help="as many as a rule allows: threshold=0.9, factor=1, entropy_bound=0.1, "
        "klass=0.01,0.6, or a budget that is spent token by token: total_correlation=6, "
        "joint_entropy=2",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--compare", action="store_true", help="print each text without and with coupling"
    )
    shown.add_argument(
        "--stream", action="store_true", help="show the texts on the terminal while they fill in"
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page that shows every step without and with coupling, with the joint's "
        "marginals and dependencies; one prompt",
    )
    group = parser.add_argument_group("decoding")
    _add_order(group)
    _add_drawing(group)
    add_seed(group)
    add_placement(parser)
    add_threads(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Generates and prints.

    Raises:
        CoddError: If the model or an option is wrong.
    """
    set_threads(args.threads)
    if args.compare and args.coupling == FACTORISED:
        raise DecodingError(f"--compare: expected a coupling, found --coupling {FACTORISED!r}")
    if args.html is not None:
        _check_page(args.html, args.prompts)
    model = read_model(args)
    own = args.coupling or model.settings.kind
    if args.html is not None:
        texts = _write_page(model, args, own)
    elif args.compare:
        texts = {coupling: _texts(model, args, coupling) for coupling in (FACTORISED, own)}
    else:
        with _live(model, args) as callback:
            texts = {own: _texts(model, args, args.coupling, callback)}
    if not args.compare:
        for text in texts[own]:
            print(text)
        return
    columns = [texts[coupling] for coupling in (FACTORISED, own)]
    table = Table(FACTORISED, own, show_lines=True)
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def _write_page(model: CoupledModel, args: argparse.Namespace, own: str) -> dict[str, list[str]]:
    """Writes what `--html` asks for; the texts by coupling."""
    from codd import viz  # pictures take a while to import

    recordings = {}
    for coupling in dict.fromkeys((FACTORISED, own)):
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(coupling, total=None)
            recordings[coupling] = viz.record(
                model,
                args.prompts[0],
                label=coupling,
                progress=lambda done, total, bar=bar, task=task: bar.update(  # type: ignore[misc]
                    task, completed=done, total=total
                ),
                **_options(model, args, coupling),
            )
    path = viz.write_page(args.html, list(recordings.values()))
    Console(stderr=True).print(f"wrote {path}", soft_wrap=True)
    return {coupling: [recording.text] for coupling, recording in recordings.items()}


def _check_page(path: Path, prompts: Sequence[str]) -> None:
    if len(prompts) != 1:
        raise DecodingError(f"--html: expected one prompt, found {len(prompts)}")
    if path.is_dir() or not path.parent.is_dir():
        raise DecodingError(f"--html: expected a file in a folder that exists, found {path}")


@contextmanager
def _live(model: CoupledModel, args: argparse.Namespace) -> Iterator[Callback | None]:
    """What to call after each step: it shows the drafts on standard error, until all is there."""
    if not args.stream:
        yield None
        return
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def show(record: StepRecord) -> None:
            title = Text(f"call {record.step + 1} of at most {record.num_steps}", style="dim")
            drafts = (
                Text(prompt) + Text(model.vocabulary.decode(row), style="bold")
                for prompt, row in zip(args.prompts, record.tokens, strict=True)
            )
            live.update(Group(title, *drafts), refresh=True)

        yield show


def _texts(
    model: CoupledModel,
    args: argparse.Namespace,
    coupling: str | None,
    callback: Callback | None = None,
) -> list[str]:
    options = _options(model, args, coupling)
    found = model.generate_tokens(args.prompts, callback=callback, **options)
    return [model.vocabulary.decode(row) for row in found.tokens]


def _options(model: CoupledModel, args: argparse.Namespace, coupling: str | None) -> dict[str, Any]:
    """What decoding is told."""
    tokens = model.block if args.tokens is None else args.tokens
    region = (args.block or min(model.block, tokens)) if args.mode == "block" else tokens
    pace = args.tokens_per_step
    if args.steps is None and pace is None and args.quota is None:
        pace = min(_TOKENS_PER_STEP, region)
    constraint = None
    if args.constraint is not None:
        constraint = matching(args.constraint, tokens, model.vocabulary)
    return {
        "new_tokens": tokens,
        "steps": args.steps,
        "tokens_per_step": pace,
        "quota": args.quota,
        "revision": args.revision,
        "guidance": args.guidance,
        "stochastic": args.stochastic,
        "constraint": constraint,
        "mode": args.mode,
        "block_length": args.block,
        "selection": args.selection,
        "sampler": args.sampler,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "coupling": coupling,
        "mask_ratio_limit": args.gamma,
        "seed": args.seed,
        "cache": args.cache,
        "lookahead": args.lookahead,
    }


def _add_order(group: Any) -> None:
    add_selection(group, "low_confidence")
    group.add_argument(
        "--mode",
        choices=MODES,
        default="block",
        help="block after block, or anywhere among the new tokens; default %(default)s",
    )
    group.add_argument(
        "--stochastic",
        action="store_true",
        help="draw at which step each token is fixed, as in the reverse process; needs --steps",
    )
    group.add_argument(
        "--constraint", metavar="REGEX", help="a regular expression that the new text has to match"
    )
    group.add_argument(
        "--revision",
        metavar="RULE",
        help="take tokens back: remdm_cap=0.02, remdm_rescale=0.05, remdm_conf or "
        "remdm_loop=0.02; needs --steps",
    )
    group.add_argument(
        "--guidance",
        type=float,
        default=0.0,
        metavar="W",
        help="weight of classifier-free guidance; default %(default)s",
    )
    group.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="tokens of a block; default the model's own, or all tokens if they are fewer",
    )
    group.add_argument(
        "--cache",
        choices=CACHES,
        default="none",
        help="key-value cache of the denoiser; see `codd caches`; default %(default)s",
    )
    group.add_argument(
        "--lookahead", action="store_true", help="the denoiser sees the masks of later blocks"
    )


def _add_drawing(group: Any) -> None:
    group.add_argument("--coupling", choices=COUPLING_NAMES, help="default the model's own")
    group.add_argument(
        "--gamma",
        type=float,
        metavar="G",
        help="couple only while the share of masked tokens is below this; default always",
    )
    group.add_argument(
        "--sampler",
        choices=tuple(SAMPLERS),
        help="how the tokens of a step are drawn together: in one joint draw, in one whose latent "
        "choices are exact and whose tokens are tempered, or one by one, each given those before, "
        "or the most probable together; default exact, or any_order with a budget",
    )
    group.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="0 takes the likeliest; other than 1 needs sampler latent or any_order; "
        "default %(default)s",
    )
    group.add_argument(
        "--top-p", type=float, metavar="P", help="nucleus of each token; sampler any_order only"
    )
