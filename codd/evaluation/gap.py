"""The misspecification gap: what the factorised output loses, and how much a coupling closes.

Conditional log-likelihood of the true tokens at the masked positions, in nats per token, for

- factorised: the denoiser's own one-step output;
- each variant: its coupled one-step output;
- sequential: the chain rule of the same denoiser, one token revealed a call, in random order.

The gap is sequential minus factorised (Li et al. 2026, arXiv 2603.00045). All are measured on the
same windows and masks. Each window has one random order of its block; at a mask ratio the first
tokens of that order are masked and the chain rule reveals them from the last to the first. What it
says of a token then depends on the tokens before it in the order only, so one pass over the order
serves all ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.settings import FACTORISED
from codd.decoding.base import Decodable
from codd.denoisers.base import DenoiserOutput
from codd.errors import EvaluationError
from codd.evaluation.continuation import Progress
from codd.evaluation.statistics import UNDEFINED, Estimate, json_ready, mean, mean_ratio, ratio

EIGHTHS = tuple(i / 8 for i in range(1, 9))
SEQUENTIAL = "sequential"


@dataclass(frozen=True)
class GapVariant:
    """A coupling to measure.

    Attributes:
        model: Its `distribution` is used, on the output of the denoiser that is measured.
        coupling: A coupling's name or its settings; None for the model's own.

    Examples:
        >>> from codd.evaluation import GapVariant
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> GapVariant(demo, "product").coupling
        'product'
    """

    model: Decodable
    coupling: str | CouplingSettings | None = None


@dataclass(frozen=True)
class GapProtocol:
    """What is masked, and how much is computed at once.

    Attributes:
        block: Tokens at the end of each window that may be masked; those before stay visible.
        ratios: Shares of the block that are masked, in (0, 1], increasing.
        seed: Seed of the orders.
        batch_size: Rows of a denoiser call.

    Examples:
        >>> from codd.evaluation import GapProtocol
        >>> GapProtocol(block=32, ratios=(0.25, 1.0)).masked_counts
        (8, 32)
    """

    block: int
    ratios: tuple[float, ...] = EIGHTHS
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            EvaluationError: If a field is impossible.
        """
        if self.block < 1 or self.batch_size < 1:
            raise EvaluationError(
                f"block, batch_size: expected at least 1, found {self.block} and {self.batch_size}"
            )
        increasing = all(a < b for a, b in pairwise(self.ratios))
        inside = all(0 < r <= 1 for r in self.ratios)
        if not self.ratios or not increasing or not inside:
            raise EvaluationError(
                f"ratios: expected increasing numbers in (0, 1], found {self.ratios}"
            )

    @property
    def masked_counts(self) -> tuple[int, ...]:
        """Masked tokens at each ratio, rounded to the nearest and at least 1."""
        return tuple(max(1, round(r * self.block)) for r in self.ratios)


@dataclass(frozen=True, eq=False)
class GapResult:
    """Log-likelihoods of every window, and what follows from them.

    Attributes:
        protocol: How they were measured.
        log_likelihoods: Label -> (N, R) nats per masked token, R mask ratios. Holds "factorised",
            "sequential" and every variant.

    Examples:
        >>> from codd.evaluation import GapProtocol, GapResult
        >>> measured = {"factorised": [[-2.0]], "sequential": [[-1.0]], "copula": [[-1.25]]}
        >>> log_likelihoods = {label: torch.tensor(numbers) for label, numbers in measured.items()}
        >>> result = GapResult(GapProtocol(block=4, ratios=(1.0,)), log_likelihoods)
        >>> result.gap()[0].value, result.gain("copula")[0].value  # nats per masked token
        (1.0, 0.75)
    """

    protocol: GapProtocol
    log_likelihoods: Mapping[str, Tensor] = field(repr=False)

    @property
    def variants(self) -> tuple[str, ...]:
        """The labels of the variants."""
        return tuple(k for k in self.log_likelihoods if k not in (FACTORISED, SEQUENTIAL))

    def level(self, label: str) -> list[Estimate]:
        """Mean log-likelihood at each ratio, in nats per masked token."""
        return [mean(column) for column in self.log_likelihoods[label].unbind(dim=1)]

    def lead(self, label: str, other: str) -> list[Estimate]:
        """Mean paired difference of two labels at each ratio, in nats per masked token."""
        difference = self.log_likelihoods[label] - self.log_likelihoods[other]
        return [mean(column) for column in difference.unbind(dim=1)]

    def gain(self, label: str) -> list[Estimate]:
        """Mean paired difference to the factorised output at each ratio, in nats per token."""
        return self.lead(label, FACTORISED)

    def gap(self) -> list[Estimate]:
        """The misspecification gap at each ratio, in nats per masked token."""
        return self.gain(SEQUENTIAL)

    def closed(self, label: str) -> list[Estimate]:
        """The share of the gap that a variant closes at each ratio.

        NaN where one token is masked: there is no gap then, only rounding.
        """
        counts = self.protocol.masked_counts
        pairs = zip(counts, self._pairs(label), strict=True)
        return [ratio(*pair) if count > 1 else UNDEFINED for count, pair in pairs]

    def mean_closed(self, label: str, least: float = 0.25) -> Estimate:
        """The share closed, averaged over the mask ratios from `least` on.

        NaN where no such ratio masks more than one token.
        """
        pairs = [
            pair
            for r, count, pair in zip(
                self.protocol.ratios,
                self.protocol.masked_counts,
                self._pairs(label),
                strict=True,
            )
            if r >= least and count > 1
        ]
        return mean_ratio(pairs) if pairs else UNDEFINED

    def to_json(self) -> object:
        """What the report shows, as JSON can hold it."""
        summary = {
            "protocol": {
                "block": self.protocol.block,
                "ratios": self.protocol.ratios,
                "seed": self.protocol.seed,
                "windows": len(self.log_likelihoods[FACTORISED]),
            },
            "log_likelihood": {label: self.level(label) for label in self.log_likelihoods},
            "gap": self.gap(),
            "gain": {label: self.gain(label) for label in self.variants},
            "closed": {label: self.closed(label) for label in self.variants},
            "mean_closed": {label: self.mean_closed(label) for label in self.variants},
        }
        return json_ready(summary)

    def _gains(self, label: str) -> Tensor:
        return self.log_likelihoods[label] - self.log_likelihoods[FACTORISED]

    def _pairs(self, label: str) -> list[tuple[Tensor, Tensor]]:
        columns = self._gains(label).unbind(dim=1), self._gains(SEQUENTIAL).unbind(dim=1)
        return list(zip(*columns, strict=True))


@torch.no_grad()
def measure_gap(
    model: Decodable,
    windows: Tensor,
    variants: Mapping[str, GapVariant],
    protocol: GapProtocol,
    *,
    progress: Progress | None = None,
) -> GapResult:
    """Measures factorised, coupled and sequential log-likelihoods on the same masks.

    Args:
        model: Its denoiser is measured, and its output given to every variant.
        windows: (N, L) int64 true tokens on the model's device, W <= L <= max_length. With
            L equal to the block nothing is visible but what is not masked.
        variants: Couplings by label.
        protocol: What is masked.
        progress: Called with the windows done and in all.

    Returns:
        (N, R) log-likelihoods for every label, R mask ratios.

    Raises:
        EvaluationError: If windows, variants and protocol do not fit together.

    Examples:
        >>> from codd.evaluation import GapProtocol, GapVariant, measure_gap
        >>> demo = codd.CoupledModel.from_pretrained("demo")
        >>> text = "Return a list of the names of all files in the given folder, sorted."
        >>> windows = demo.vocabulary.encode(text)[None, :48]  # (N, L) true tokens
        >>> protocol = GapProtocol(block=8, ratios=(1.0,))
        >>> result = measure_gap(demo, windows, {"copula": GapVariant(demo)}, protocol)
        >>> result.variants, result.gain("copula")[0].value > 0
        (('copula',), True)
    """
    _check(model, windows, variants, protocol)
    generator = torch.Generator().manual_seed(protocol.seed)
    keys = torch.rand(len(windows), protocol.block, generator=generator)
    orders = keys.argsort(dim=1).to(windows.device) + windows.shape[1] - protocol.block
    parts: dict[str, list[Tensor]] = {label: [] for label in (FACTORISED, *variants, SEQUENTIAL)}
    done = 0
    for batch, order in zip(
        windows.split(protocol.batch_size), orders.split(protocol.batch_size), strict=True
    ):
        one_step = _one_step(model, batch, order, variants, protocol)
        for label, part in one_step.items():
            parts[label].append(part)
        parts[SEQUENTIAL].append(_sequential(model, batch, order, protocol))
        done += len(batch)
        if progress is not None:
            progress(done, len(windows))
    return GapResult(protocol, {label: torch.cat(part).cpu() for label, part in parts.items()})


def _one_step(
    model: Decodable,
    windows: Tensor,
    orders: Tensor,
    variants: Mapping[str, GapVariant],
    protocol: GapProtocol,
) -> dict[str, Tensor]:
    """Label -> (B, R) nats per masked token of the one-step outputs."""
    labelled = {FACTORISED: GapVariant(model, FACTORISED), **variants}
    columns: dict[str, list[Tensor]] = {label: [] for label in labelled}
    start = torch.full_like(windows[:, 0], windows.shape[1] - model.window)
    for count in protocol.masked_counts:
        tokens = windows.scatter(1, orders[:, :count], model.mask_id)
        output = model.denoise(tokens)
        for label, variant in labelled.items():
            distribution = variant.model.distribution(
                output, tokens, start, coupling=variant.coupling
            )
            total = distribution.log_prob(windows[:, -model.window :])
            columns[label].append(total.double() / count)
    return {label: torch.stack(column, dim=1) for label, column in columns.items()}


def _sequential(model: Decodable, windows: Tensor, orders: Tensor, protocol: GapProtocol) -> Tensor:
    """(B, R) nats per masked token of the chain rule."""
    batch, most = len(windows), max(protocol.masked_counts)
    rank = torch.full_like(windows, most)  # what is never masked comes after everything
    places = torch.arange(most, device=windows.device).expand(batch, -1)
    rank.scatter_(1, orders[:, :most], places)
    # Row i * most + j: window i, its token of rank j wanted, those of lower rank masked too.
    wanted = places.reshape(-1)
    window = torch.arange(batch, device=windows.device).repeat_interleave(most)
    pieces = []
    for rows, ranks in zip(
        window.split(protocol.batch_size), wanted.split(protocol.batch_size), strict=True
    ):
        hidden = rank[rows] <= ranks.unsqueeze(1)
        output = model.denoise(windows[rows].masked_fill(hidden, model.mask_id))
        pieces.append(_log_prob_at(output, orders[rows, ranks], windows[rows]))
    steps = torch.cat(pieces).view(batch, most).cumsum(dim=1)  # (B, most)
    counts = torch.tensor(protocol.masked_counts, device=windows.device)
    return steps[:, counts - 1] / counts


def _log_prob_at(output: DenoiserOutput, position: Tensor, tokens: Tensor) -> Tensor:
    """(B,) log-probability of the true token at one position (B,) of each row."""
    row = torch.arange(len(tokens), device=tokens.device)
    logits = output.logits[row, position].double()  # (B, V)
    return logits.log_softmax(dim=-1)[row, tokens[row, position]]


def _check(
    model: Decodable,
    windows: Tensor,
    variants: Mapping[str, GapVariant],
    protocol: GapProtocol,
) -> None:
    if windows.dim() != 2 or not len(windows):
        raise EvaluationError(f"windows: expected (N, L), found {tuple(windows.shape)}")
    if not model.window <= windows.shape[1] <= model.max_length:
        raise EvaluationError(
            f"windows: expected {model.window} to {model.max_length} tokens each, "
            f"found {windows.shape[1]}"
        )
    if protocol.block > model.window:
        raise EvaluationError(
            f"block: expected at most the model's window, {model.window}, found {protocol.block}"
        )
    for label, variant in variants.items():
        if label in (FACTORISED, SEQUENTIAL):
            raise EvaluationError(f"variants: {label!r} is measured anyway; expected another label")
        if variant.model.window != model.window:
            raise EvaluationError(
                f"variants[{label!r}]: expected a window of {model.window} tokens, "
                f"found {variant.model.window}"
            )
