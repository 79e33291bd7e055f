"""A starting point for hidden Markov models of text: states that are contexts.

A suffix tree of frequent contexts is grown where a longer context changes the next token most (Ron,
Singer and Tishby, "The power of amnesia", Machine Learning 1996). Each context becomes a state: it
emits its last token, and transitions are counted along the text. EM refines what this starts; from
a random start it takes many times as long and ends lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A context seen fewer times than this says too little about what follows it.
_MIN_COUNT = 20
# Contexts added a round, as a share of those there are: rounds see the effect of earlier ones.
_GROWTH = 8


@dataclass
class _Tree:
    """A suffix tree under construction.

    Attributes:
        child: (K, V) node for each node and preceding token, -1 where none.
        last: (K,) last token of each context.
        depth: (K,) its length.
        size: Number of nodes so far.
    """

    child: np.ndarray
    last: np.ndarray
    depth: np.ndarray
    size: int


def context_hmm(
    tokens: Tensor, num_states: int, num_categories: int, *, smoothing: float = 0.02
) -> dict[str, Tensor]:
    """Parameters of a homogeneous HMM whose states are frequent contexts of a text.

    Args:
        tokens: (N,) integers, one long text.
        num_states: Number of states K, at least V.
        num_categories: Number of categories V.
        smoothing: Share of every transition row that goes to states by their frequency.

    Returns:
        `initial` (K,), `transition` (K, K) and `emission` (K, V) probabilities, none zero, for
        `CircuitModel.set_probabilities`.

    Raises:
        ValueError: If there are fewer states than categories or fewer than two tokens.

    Examples:
        >>> text = torch.tensor([0, 1, 2] * 20)  # abcabc...
        >>> model = pc.CircuitModel(pc.families.hmm(6, num_states=3, num_categories=3))
        >>> model.set_probabilities(pc.context_hmm(text, num_states=3, num_categories=3))
        >>> pc.mean_log_likelihood(model, text.reshape(10, 6)) > -1.5  # uniform: 6 ln(1/3) = -6.6
        True
    """
    if num_states < num_categories or tokens.ndim != 1 or len(tokens) < 2:
        raise ValueError(
            f"expected at least as many states as categories and a text of two tokens or more; "
            f"found {num_states} states, {num_categories} categories, shape {tuple(tokens.shape)}"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= num_categories:
        raise ValueError(
            f"tokens hold {int(tokens.min())} .. {int(tokens.max())}; expected categories "
            f"0 .. {num_categories - 1}"
        )
    text = tokens.cpu().numpy().astype(np.int64)
    tree, states = _grow(text, num_states, num_categories)
    counts = np.bincount(states, minlength=num_states) + 0.1
    initial = counts / counts.sum()
    pairs = np.bincount(states[:-1] * num_states + states[1:], minlength=num_states**2)
    transition = pairs.reshape(num_states, num_states) + 1e-3
    transition = transition / transition.sum(1, keepdims=True)
    transition = (1 - smoothing) * transition + smoothing * initial
    emission = np.full((num_states, num_categories), 1e-3 / num_categories)
    emission[np.arange(num_states), tree.last] += 1 - 1e-3
    found = {"initial": initial, "transition": transition, "emission": emission}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def _grow(text: np.ndarray, num_states: int, num_categories: int) -> tuple[_Tree, np.ndarray]:
    """Grows the tree to at most K contexts; also the context of every position."""
    last = np.arange(num_states) % num_categories
    child = np.full((num_states, num_categories), -1)
    tree = _Tree(child, last, np.ones(num_states, dtype=np.int64), num_categories)
    states = text.copy()  # contexts of length one are the tokens themselves
    while tree.size < num_states:
        contexts, gains = _candidates(text, states, tree)
        room = min(num_states - tree.size, max(_GROWTH, tree.size // _GROWTH))
        best = np.argsort(-gains, kind="stable")[:room]
        best = best[gains[best] > 0]
        if len(best) == 0:
            break  # the text supports no longer context; the remaining states start as duplicates
        parent, token = np.divmod(contexts[best], num_categories)
        new = tree.size + np.arange(len(best))
        tree.child[parent, token] = new
        tree.last[new], tree.depth[new] = tree.last[parent], tree.depth[parent] + 1
        tree.size += len(best)
        states = _descend(text, states, tree)
    return tree, states


def _candidates(text: np.ndarray, states: np.ndarray, tree: _Tree) -> tuple[np.ndarray, np.ndarray]:
    """Contexts one token longer, as parent * V + token, and what each gains.

    The gain is the rise of the text's log-likelihood when the next token is predicted from the
    longer context instead of its parent.
    """
    num_categories = tree.child.shape[1]
    position = np.arange(len(text) - 1)
    before = position - tree.depth[states[:-1]]
    position = position[before >= 0]
    parent, following = states[position], text[position + 1]
    longer = parent * num_categories + text[before[before >= 0]]
    contexts, index, count = np.unique(longer, return_inverse=True, return_counts=True)
    followed, times = np.unique(index * num_categories + following, return_counts=True)
    own, token = np.divmod(followed, num_categories)
    table = np.bincount(parent * num_categories + following, minlength=tree.child.size)
    table = table.reshape(-1, num_categories)
    above = contexts // num_categories
    before_gain = table[above[own], token] / table[above[own]].sum(1)
    gains = np.bincount(own, weights=times * np.log(times / count[own] / before_gain))
    taken = tree.child[above, contexts % num_categories] >= 0
    return contexts, np.where(taken | (count < _MIN_COUNT), -1.0, gains)


def _descend(text: np.ndarray, states: np.ndarray, tree: _Tree) -> np.ndarray:
    """Moves every position to the longer context that now covers it, where there is one."""
    before = np.arange(len(text)) - tree.depth[states]
    inside = before >= 0
    deeper = tree.child[states[inside], text[before[inside]]]
    moved = states.copy()
    moved[inside] = np.where(deeper >= 0, deeper, states[inside])
    return moved
