"""Joints and generations in a notebook: pieces of HTML with nothing to load.

Colours come with their own ink, all else takes the notebook's: both are read on light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import torch
from matplotlib import colormaps
from matplotlib.colors import to_hex
from torch import Tensor

from codd.coupling.distribution import TokenDistribution
from codd.decoding.records import Generation
from codd.viz.texts import token_texts
from codd.vocabulary import Vocabulary
from pcircuits import viz

_MOST_POSITIONS, _CANDIDATES, _MOST_ROWS, _MOST_TOKENS = 16, 5, 8, 400
_CELL = "padding:0 .25em;margin:0 1px;border-radius:3px;display:inline-block;white-space:pre"


def joint_html(joint: TokenDistribution, vocabulary: Vocabulary | None = None) -> str:
    """A joint distribution as HTML: what it is about, and the likeliest tokens of one window.

    Args:
        joint: The distribution.
        vocabulary: Ids to text; without one the ids are shown.

    Returns:
        One `div`; texts are escaped.

    Examples:
        >>> vocabulary = codd.ByteVocabulary()
        >>> text = vocabulary.encode("abcd")[None]
        >>> hidden = torch.tensor([[False, True, True, False]])
        >>> guesses = torch.randn(1, 4, 256).log_softmax(-1)
        >>> joint = codd.FactorisedDistribution(guesses, text, ~hidden)
        >>> page = codd.viz.joint_html(joint, vocabulary)
        >>> page.startswith("<div")
        True
    """
    with torch.no_grad():
        marginals = joint.marginals()[0].double().cpu()
    hidden = (~joint.observed[0]).cpu().nonzero()[:, 0].tolist()
    entropy = torch.special.entr(marginals).sum(-1)
    head = _row("th", ["position", "entropy (nats)", "likeliest tokens with their probabilities"])
    rows = [
        _row(
            "td",
            [str(i), f"{float(entropy[i]):.3f}", _likeliest(marginals[i], vocabulary)],
            escaped=True,
        )
        for i in hidden[:_MOST_POSITIONS]
    ]
    more = len(hidden) - len(rows)
    note = f"<p>{more} more positions</p>" if more > 0 else ""
    return f"<div><p>{escape(_about(joint))}</p><table>{head}{''.join(rows)}</table>{note}</div>"


def generation_html(generation: Generation, vocabulary: Vocabulary | None = None) -> str:
    """A generation as HTML: its new tokens, coloured by the step that fixed each, and its cost.

    Args:
        generation: What `generate` returned.
        vocabulary: Ids to text; default the generation's own, without one the ids are shown.

    Returns:
        One `div`; texts are escaped.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> found = model.generate_tokens("Return ", new_tokens=4, steps=2, coupling="factorised")
        >>> codd.viz.generation_html(found).startswith("<div")
        True
    """
    vocabulary = vocabulary or generation.vocabulary
    last = max(1, int(generation.fixed_at.max()) + 1)
    shown = list(range(min(len(generation.completions), _MOST_ROWS)))
    rows = "".join(f"<p>{_coloured(generation, row, last, vocabulary)}</p>" for row in shown)
    more = len(generation.completions) - len(shown)
    note = f"<p>{more} more texts</p>" if more else ""
    scale = "".join(
        f"<span style='{_CELL};{_paint(step, last)}'>{step + 1}</span>" for step in _some(last)
    )
    return f"<div>{rows}{note}<p>fixed by step {scale} · {escape(_cost(generation))}</p></div>"


def _about(joint: TokenDistribution) -> str:
    hidden = int((~joint.observed).sum())
    windows = f"{joint.batch_size} window{'s' * (joint.batch_size != 1)}"
    return (
        f"{type(joint).__name__} over {windows} of {joint.length} tokens, "
        f"{joint.num_categories:,} categories, {hidden} tokens masked; the first window:"
    )


def _likeliest(marginals: Tensor, vocabulary: Vocabulary | None) -> str:
    found = marginals.topk(min(_CANDIDATES, len(marginals)))
    names = _names(found.indices.tolist(), vocabulary)
    pieces = []
    for name, share in zip(names, found.values.tolist(), strict=True):
        bar = f"display:inline-block;height:.6em;width:{3 * share:.2f}em;background:{viz.style.SKY}"
        pieces.append(
            f"<span style='display:inline-block;min-width:7.5em'><code>{escape(name)}</code> "
            f"{share:.3f} <span style='{bar}'></span></span>"
        )
    return "".join(pieces)


def _coloured(generation: Generation, row: int, last: int, vocabulary: Vocabulary | None) -> str:
    """The end of the prompt, then every new token on the colour of its step."""
    length = len(generation.completions[row])
    if generation.lengths is not None:
        length = int(generation.lengths[row])
    prompt = generation.tokens[row][: len(generation.tokens[row]) - length].tolist()
    ids = generation.completions[row][:length].tolist()[:_MOST_TOKENS]
    steps = generation.fixed_at[row].tolist()
    gap = "" if vocabulary is not None else " "
    before = escape(gap.join(_names(prompt[-40:], vocabulary)))
    cells = [
        f"<span style='{_CELL};{_paint(step, last)}'>{escape(name)}</span>"
        for name, step in zip(_names(ids, vocabulary), steps, strict=False)
    ]
    return f"<code style='white-space:pre-wrap'>{before}{''.join(cells)}</code>"


def _paint(step: int, last: int) -> str:
    """Style of a token that a step fixed; what was given or is masked takes the page's colours."""
    if step < 0:
        return ""
    colour = colormaps[viz.style.SEQUENTIAL](step / max(1, last - 1))[:3]
    return f"background:{to_hex(colour)};color:{viz.style.ink_on(colour)}"


def _names(ids: Sequence[int], vocabulary: Vocabulary | None) -> list[str]:
    if vocabulary is None:
        return [str(i) for i in ids]
    return token_texts(vocabulary, ids)


def _some(last: int) -> list[int]:
    """A few steps from the first to the last."""
    return sorted({round(i * (last - 1) / 7) for i in range(8)})


def _cost(generation: Generation) -> str:
    return (
        f"{generation.denoiser_calls} denoiser calls, "
        f"{generation.tokens_per_forward:.3g} tokens each; denoiser "
        f"{generation.denoiser_seconds:.2f} s, coupling {generation.coupling_seconds:.2f} s"
    )


def _row(tag: str, cells: Sequence[str], *, escaped: bool = False) -> str:
    texts = cells if escaped else [escape(cell) for cell in cells]
    return (
        "<tr>"
        + "".join(f"<{tag} style='text-align:left'>{text}</{tag}>" for text in texts)
        + "</tr>"
    )
