"""A generation with all that was said on the way, and the page that shows it."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codd.checkpoint import write_atomically
from codd.errors import EvaluationError
from codd.viz.page import assemble
from codd.vocabulary import Vocabulary

_DIGITS = 7
_FRAME = "width:100%;height:640px;border:0"


@dataclass(frozen=True, eq=False)
class Moment:
    """One step: the state it started from, and what the joint distribution said of it.

    N new tokens, M of them masked and inside the windows that were drawn from, C candidates.

    Attributes:
        tokens: (N,) new tokens before the step, the mask id where masked.
        fixed: (N,) bool, the tokens that the step fixed.
        confidence: (N,) probability that the joint's marginal gave the token that the step fixed;
            NaN elsewhere.
        positions: (M,) which new tokens the rest is about.
        candidates: (M, C) likeliest tokens, the likeliest first.
        probabilities: (M, C) theirs under the joint.
        alone: (M, C) theirs under the denoiser alone.
        entropy: (M,) nats, of each token under the joint.
        information: (M, M) mutual information in nats, entropies on the diagonal, zero between
            windows; None if not recorded.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 4, "steps": 2, "coupling": "factorised"}
        >>> first, second = codd.viz.record(model, "Return ", **options).moments
        >>> int(first.fixed.sum()), first.candidates.shape  # eight of each of four tokens
        (2, torch.Size([4, 8]))
        >>> torch.allclose(first.probabilities, first.alone, atol=1e-4)  # no circuit had a say
        True
    """

    tokens: Tensor
    fixed: Tensor
    confidence: Tensor
    positions: Tensor
    candidates: Tensor
    probabilities: Tensor
    alone: Tensor
    entropy: Tensor
    information: Tensor | None


@dataclass(frozen=True, eq=False)
class Recording:
    """A generation with all that was said on the way; shown by notebooks as a page.

    Attributes:
        label: What it is called beside others.
        prompt: (P,) tokens of the prompt.
        tokens: (N,) new tokens at the end.
        moments: One a step.
        vocabulary: Ids to text.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 4, "steps": 2, "coupling": "factorised"}
        >>> recording = codd.viz.record(model, "Return ", **options)
        >>> recording.label, len(recording.moments), recording.text.startswith("Return ")
        ('factorised', 2, True)
        >>> recording.to_html("steps.html").exists()
        True
    """

    label: str
    prompt: Tensor
    tokens: Tensor
    moments: tuple[Moment, ...]
    vocabulary: Vocabulary = field(repr=False)

    @property
    def text(self) -> str:
        """The prompt and what was written after it."""
        return self.vocabulary.decode(torch.cat((self.prompt, self.tokens)))

    def to_html(self, path: str | Path) -> Path:
        """Writes the page that shows every step; see `codd.viz.write_page`."""
        return write_page(path, [self])

    def _repr_html_(self) -> str:
        # A frame keeps the page's style and script away from the notebook's.
        source = html.escape(page_of([self]), quote=True)
        return f'<iframe sandbox="allow-scripts" style="{_FRAME}" srcdoc="{source}"></iframe>'


def write_page(
    path: str | Path, recordings: Sequence[Recording], *, title: str | None = None
) -> Path:
    """Writes recordings of one prompt side by side as one HTML file that needs no network.

    A slider (or the arrow keys) moves over the steps. Tokens are coloured by the step that fixed
    them or by their confidence; pointing at one shows what the joint distribution said of it: its
    likeliest tokens, and how much each other masked token depends on it.

    Args:
        path: The file, replaced in one step.
        recordings: At least one, all of the same prompt and length.
        title: Default the beginning of the prompt.

    Returns:
        The path.

    Raises:
        EvaluationError: If there is none, or they differ in prompt or length.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 4, "steps": 2, "coupling": "factorised"}
        >>> recordings = [
        ...     codd.viz.record(model, "Return ", selection=order, label=order, **options)
        ...     for order in ("random", "low_confidence")
        ... ]
        >>> codd.viz.write_page("steps.html", recordings).name
        'steps.html'
    """
    target = Path(path)
    write_atomically(target, page_of(recordings, title=title).encode("utf-8"))
    return target


def page_of(recordings: Sequence[Recording], *, title: str | None = None) -> str:
    """The page of `write_page` as a text.

    Args:
        recordings: At least one, all of the same prompt and length.
        title: Default the beginning of the prompt.

    Returns:
        The page as HTML.

    Raises:
        EvaluationError: If there is none, or they differ in prompt or length.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 4, "steps": 2, "coupling": "factorised"}
        >>> recording = codd.viz.record(model, "Return ", **options)
        >>> page = codd.viz.page_of([recording], title="Two steps")
        >>> "Two steps" in page, "https://" in page  # it needs no network
        (True, False)
    """
    _check(recordings)
    data = {
        "prompt": _texts(recordings[0], recordings[0].prompt),
        "recordings": [_recording(each) for each in recordings],
    }
    return assemble(title or _title(recordings[0]), data)


def _check(recordings: Sequence[Recording]) -> None:
    if not recordings:
        raise EvaluationError("recordings: expected at least one, found none")
    prompts = {tuple(each.prompt.tolist()) for each in recordings}
    lengths = {len(each.tokens) for each in recordings}
    if len(prompts) > 1 or len(lengths) > 1:
        raise EvaluationError(
            f"recordings: expected one prompt and length, found {len(prompts)} prompts and "
            f"lengths {sorted(lengths)}"
        )


def _title(recording: Recording) -> str:
    prompt = recording.vocabulary.decode(recording.prompt)
    return f"Filling in after “{prompt if len(prompt) <= 60 else prompt[:59] + '…'}”"


def _recording(recording: Recording) -> dict[str, Any]:
    states = [*(moment.tokens for moment in recording.moments), recording.tokens]
    return {
        "label": recording.label,
        "states": [_texts(recording, state) for state in states],
        "moments": [_moment(recording, moment) for moment in recording.moments],
    }


def _moment(recording: Recording, moment: Moment) -> dict[str, Any]:
    rows = zip(
        (_texts(recording, row) for row in moment.candidates),
        _rounded(moment.probabilities),
        _rounded(moment.alone),
        strict=True,
    )
    fixed = moment.fixed.nonzero()[:, 0]
    return {
        "fixed": fixed.tolist(),
        "confidence": _rounded(moment.confidence[fixed]),
        "positions": moment.positions.tolist(),
        "candidates": [list(zip(*row, strict=True)) for row in rows],
        "entropy": _rounded(moment.entropy),
        "information": None if moment.information is None else _rounded(moment.information),
    }


def _texts(recording: Recording, ids: Tensor) -> list[str | None]:
    """The text of each token, None where masked."""
    vocabulary = recording.vocabulary
    return [None if i == vocabulary.mask_id else vocabulary.decode([i]) for i in ids.tolist()]


def _rounded(numbers: Tensor) -> Any:
    """Nested lists of numbers in a few digits; None for what is none."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(each) for each in value]
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None

    return short(numbers.to(torch.float64).tolist())
