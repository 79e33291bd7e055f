"""What a joint distribution says of one text: dependencies, candidates, where errors lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor

from codd.coupling.distribution import TokenDistribution
from codd.errors import EvaluationError
from codd.viz.texts import HOLE, symbols, token_texts
from codd.vocabulary import Vocabulary
from pcircuits import viz


def dependencies(
    joint: TokenDistribution,
    vocabulary: Vocabulary,
    *,
    row: int = 0,
    last: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws the mutual information between the masked tokens of one partly masked window.

    Args:
        joint: A distribution over W tokens.
        vocabulary: Ids to text.
        row: Which window.
        last: Shows the last tokens of the window only; default all.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; masked tokens are black squares, visible ones grey letters.

    Raises:
        EvaluationError: If there is no such window.

    Examples:
        >>> vocabulary = codd.ByteVocabulary()
        >>> text = vocabulary.encode("abcd")[None]
        >>> hidden = torch.tensor([[False, True, True, False]])
        >>> guesses = torch.randn(1, 4, 256).log_softmax(-1)
        >>> joint = codd.FactorisedDistribution(guesses, text, ~hidden)
        >>> ax = codd.viz.dependencies(joint, vocabulary)
        >>> ax.get_title()
        'Which masked tokens depend on which'
    """
    _check_row(joint, row)
    with torch.no_grad():
        information = joint.mutual_information()[row]
    shown = slice(0 if last is None else -last, None)
    values, observed = joint.values[row, shown], joint.observed[row, shown]
    axes = viz.information_map(
        information[shown, shown],
        observed=observed,
        variable_names=_sentence(vocabulary, values, observed),
        ax=ax,
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_label_text(f"token of the window ({HOLE} = masked)")
    viz.style.entitle(axes, "Which masked tokens depend on which")
    return axes


def candidates(
    joint: TokenDistribution,
    vocabulary: Vocabulary,
    *,
    row: int = 0,
    num_candidates: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Draws the likeliest tokens at every masked position of one window.

    Args:
        joint: A distribution over W tokens.
        vocabulary: Ids to text.
        row: Which window.
        num_candidates: Most tokens shown at each position.
        ax: Where to draw; default a new figure.

    Returns:
        The axes; positions count within the window.

    Raises:
        EvaluationError: If there is no such window.

    Examples:
        >>> vocabulary = codd.ByteVocabulary()
        >>> text = vocabulary.encode("abcd")[None]
        >>> hidden = torch.tensor([[False, True, True, False]])
        >>> guesses = torch.randn(1, 4, 256).log_softmax(-1)
        >>> joint = codd.FactorisedDistribution(guesses, text, ~hidden)
        >>> ax = codd.viz.candidates(joint, vocabulary)
        >>> ax.get_title()
        'what is expected in 2 of 4 positions'
    """
    _check_row(joint, row)
    with torch.no_grad():
        found = joint.marginals()[row]
    return viz.candidates(
        found,
        joint.values[row],
        joint.observed[row],
        num_candidates=num_candidates,
        token_names=symbols(vocabulary),
        ax=ax,
    )


@torch.no_grad()
def position_log_probs(joint: TokenDistribution, tokens: Tensor) -> Tensor:
    """Log-probability of each masked token given the visible ones and the masked ones before it.

    By the chain rule they add up to `joint.log_prob(tokens)`, so differences of two distributions
    say at which positions one is better.

    Args:
        joint: A distribution over W tokens.
        tokens: (B, W) true tokens.

    Returns:
        (B, W) nats, zero where visible.

    Examples:
        The terms of the chain rule; those of visible tokens are zero:

        >>> vocabulary = codd.ByteVocabulary()
        >>> text = vocabulary.encode("abcd")[None]
        >>> hidden = torch.tensor([[False, True, True, False]])
        >>> guesses = torch.full((1, 4, 256), 1 / 256).double().log()
        >>> joint = codd.FactorisedDistribution(guesses, text, ~hidden)
        >>> terms = codd.viz.position_log_probs(joint, text)
        >>> terms.exp() * 256
        tensor([[256.0000,   1.0000,   1.0000, 256.0000]], dtype=torch.float64)
        >>> torch.allclose(terms.sum(1), joint.log_prob(text))
        True
    """
    state = joint.conditioner()
    found = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    for position in range(tokens.shape[1]):
        rows = ~joint.observed[:, position]
        at = torch.full_like(tokens[:, 0], position)
        own = tokens[:, position]
        log = state.marginal(at, rows).double().log().gather(1, own[:, None])[:, 0]
        found[:, position] = log.masked_fill(~rows, 0.0)
        state.fix(at, own, rows)
    return found


def position_errors(
    log_probs: Mapping[str, Tensor],
    tokens: Tensor,
    masked: Tensor,
    vocabulary: Vocabulary,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draws where in a sentence distributions err: nats lost at every masked token.

    Args:
        log_probs: Name -> (W,) log-probabilities of the true tokens, one row of
            `position_log_probs`; the first is drawn as bars.
        tokens: (W,) true tokens.
        masked: (W,) bool.
        vocabulary: Ids to text.
        ax: Where to draw; default a new figure.

    Returns:
        The axes.

    Raises:
        EvaluationError: If there is nothing to draw or shapes differ.

    Examples:
        >>> vocabulary = codd.ByteVocabulary()
        >>> text, hidden = vocabulary.encode("abcd"), torch.tensor([False, True, True, False])
        >>> alone, coupled = torch.tensor([[0.0, -2.0, -3.0, 0.0], [0.0, -2.0, -1.0, 0.0]])
        >>> nats = {"alone": alone, "coupled": coupled}
        >>> ax = codd.viz.position_errors(nats, text, hidden, vocabulary)
        >>> ax.get_ylabel()
        'nats lost at the token'
    """
    shapes = {name: tuple(each.shape) for name, each in log_probs.items()}
    if not shapes or set(shapes.values()) != {tuple(tokens.shape)} or tokens.ndim != 1:
        raise EvaluationError(f"log_probs: expected (W,) as tokens are; found {shapes}")
    width = 0.2 * len(tokens) + 2.4
    axes = viz.style.axes_or_new(ax, (min(max(width, 5.0), 14.0), 3.2))
    places = masked.cpu().nonzero()[:, 0].tolist()
    for number, (name, each) in enumerate(log_probs.items()):
        lost = [-float(each[i]) for i in places]
        label = f"{name}: {sum(lost):.2f} in all"
        if number == 0:
            axes.bar(places, lost, width=0.8, color=viz.style.SKY, label=label)
        else:
            viz.style.curve(axes, number + 2, places, lost, label=label, linestyle="none")
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(-0.8, len(tokens) - 0.2)
    axes.set_xticks(range(len(tokens)), token_texts(vocabulary, tokens), fontsize=8)
    for place, text in enumerate(axes.get_xticklabels()):
        text.set_color(viz.style.INK if place in places else viz.style.GREY)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("token of the window (bars: masked)")
    axes.set_ylabel("nats lost at the token")
    viz.style.without_frame(axes)
    viz.style.legend_beside(axes, "nats lost")
    viz.style.entitle(axes, "Where in the sentence tokens are hard to say")
    return axes


def _sentence(vocabulary: Vocabulary, values: Tensor, observed: Tensor) -> list[str]:
    ids = values.masked_fill(~observed, vocabulary.mask_id)
    return token_texts(vocabulary, ids)


def _check_row(joint: TokenDistribution, row: int) -> None:
    if not 0 <= row < joint.batch_size:
        raise EvaluationError(f"row: expected 0 to {joint.batch_size - 1}, found {row}")
