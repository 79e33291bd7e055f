"""The two measurements of `codd evaluate` and `codd demo`: run, shown and written."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import pcircuits as pc
from codd import viz as pictures
from codd.checkpoint import write_atomically
from codd.evaluation.continuation import FewStepVariant
from codd.evaluation.few_step import FewStepProtocol, FewStepResult, measure_few_step
from codd.evaluation.gap import GapProtocol, GapResult, GapVariant, measure_gap
from codd.evaluation.ngram import NGramJudge
from codd.evaluation.quality import Judges
from codd.evaluation.report import FIGURES, few_step_table, gap_summary, gap_table
from codd.evaluation.words import words
from codd.model import CoupledModel
from codd.training.corpus import Corpus
from codd.vocabulary import Vocabulary

_JUDGE_ORDER = 6
_WIDTH = 160
# Columns that the table of all figures takes; in fewer it shows these.
_ALL_FIGURES = 140
_MAIN_FIGURES = ("score", "entropy", "recovered")


@dataclass(frozen=True)
class Measured:
    """Both results.

    Attributes:
        gap: Log-likelihoods by mask ratio.
        few_step: Quality by tokens a step.
    """

    gap: GapResult
    few_step: FewStepResult


def open_console() -> Console:
    """A console as wide as the terminal, or as the tables where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)


def make_judges(corpus: Corpus, vocabulary: Vocabulary, train: Tensor) -> Judges:
    """The judges of generated text, all from the training split.

    Args:
        corpus: Gives the words.
        vocabulary: Text to ids.
        train: (N,) ids of the training split.
    """
    # A large vocabulary leaves room for shorter n-grams only.
    fitting = math.ceil(63 / math.log2(max(2, vocabulary.size))) - 1
    judge = NGramJudge.fit(train, num_categories=vocabulary.size, order=min(_JUDGE_ORDER, fitting))
    known = frozenset(word for text in corpus.train for word in words(text))
    return Judges(judge, vocabulary, known)


def run_gap(
    model: CoupledModel, windows: Tensor, variants: Mapping[str, GapVariant], protocol: GapProtocol
) -> GapResult:
    """Measures log-likelihoods, with a progress bar on standard error.

    Args:
        model: Its denoiser is measured.
        windows: (N, L) ids.
        variants: By label.
        protocol: What is masked.
    """
    with show_progress("log-likelihoods") as report:
        return measure_gap(model, windows, variants, protocol, progress=report)


def run_few_step(
    windows: Tensor,
    variants: Mapping[str, FewStepVariant],
    judges: Judges,
    protocol: FewStepProtocol,
) -> FewStepResult:
    """Measures generated text, with a progress bar on standard error.

    Args:
        windows: (N, L) ids, prompts and true continuations.
        variants: By label.
        judges: What judges the text.
        protocol: What is generated.
    """
    with show_progress("generation") as report:
        return measure_few_step(windows, variants, judges, protocol, progress=report)


def show(console: Console, measured: Measured) -> None:
    """Prints both tables, and what the first one says of each variant."""
    console.print(gap_table(measured.gap))
    for line in gap_summary(measured.gap):
        console.print(line)
    narrow = console.width < _ALL_FIGURES
    console.print(few_step_table(measured.few_step, _MAIN_FIGURES if narrow else FIGURES))


def write(path: Path, measured: Measured, about: dict[str, Any]) -> list[Path]:
    """Writes the results as JSON, and a figure of each beside it.

    Args:
        path: The JSON file, in a folder that exists.
        measured: The results.
        about: JSON values that say what was measured.

    Returns:
        The files written.
    """
    contents = {
        **about,
        "gap": measured.gap.to_json(),
        "few_step": measured.few_step.to_json(),
    }
    write_json(path, contents)
    gap, few_step = (path.with_name(f"{path.stem}-{name}.png") for name in ("gap", "few-step"))
    save_figure(gap, (9.0, 4.8), lambda axes: pictures.gap(measured.gap, ax=axes))
    save_figure(few_step, (9.0, 4.8), lambda axes: pictures.few_step(measured.few_step, ax=axes))
    return [path, gap, few_step]


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes results, replacing the file in one step.

    Args:
        path: The file, in a folder that exists.
        contents: What JSON can hold; no NaN.
    """
    text = json.dumps(contents, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode("utf-8"))


def save_figure(path: Path, size: tuple[float, float], draw: Callable[[Axes], Axes]) -> None:
    """Writes one picture; no window system is asked for.

    Args:
        path: The file.
        size: Width and height in inches.
        draw: Draws on the axes it is given.
    """
    pc.viz.save(draw(Figure(figsize=size, layout="constrained").add_subplot()), path)


@contextmanager
def show_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, to be called with what is done and all there is."""
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
