"""What decoding tells: the state after every step, and all of it at the end."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codd.errors import DecodingError
from codd.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class StepRecord:
    """The state after one step.

    Attributes:
        step: Which step, from 0.
        num_steps: Steps in all; at most so many with an adaptive quota.
        tokens: (B, N) new tokens, the mask id where still masked.
        fixed: (B, N) bool, True where this step fixed a token.
        log_probs: (B, N) log-probabilities under the step's marginals of what it fixed, else zero;
            None if not asked for.
    """

    step: int
    num_steps: int
    tokens: Tensor
    fixed: Tensor
    log_probs: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Generation:
    """What `generate` returns.

    Attributes:
        tokens: For each row its whole prompt and new tokens, (P_b + N,), or fewer where the text
            ends before.
        completions: (B, N) the new tokens alone.
        fixed_at: (B, N) int64, the step at which each was fixed, from 0; -1 if it never was.
        history: The state after each step if it was asked for, else empty.
        denoiser_calls: Number of calls, each for all rows that were unfinished.
        denoiser_seconds: Wall time of these calls.
        coupling_seconds: Wall time of building the distributions, choosing and drawing.
        calls: (B,) int64, the calls that each row took part in.
        lengths: (B,) int64, new tokens of each row up to and with its end; None when filling in.
        log_probs: (B, N) log-probability that the marginal of its step gave each token, zero where
            none was fixed; None if not asked for.
        vocabulary: Ids to text, where the model that was asked has one.

    Examples:
        >>> model = codd.CoupledModel.from_pretrained("demo")
        >>> options = {"new_tokens": 8, "steps": 4, "coupling": "factorised"}
        >>> found = model.generate_tokens("Return the ", **options)
        >>> found.texts[0].startswith("Return the "), found.denoiser_calls
        (True, 4)
        >>> found.fixed_at.shape, found.fixed_at.unique()
        (torch.Size([1, 8]), tensor([0, 1, 2, 3]))
        >>> found.tokens_per_forward
        2.0
    """

    tokens: tuple[Tensor, ...]
    completions: Tensor
    fixed_at: Tensor
    history: tuple[StepRecord, ...]
    denoiser_calls: int
    denoiser_seconds: float
    coupling_seconds: float
    calls: Tensor
    lengths: Tensor | None = None
    log_probs: Tensor | None = None
    vocabulary: Vocabulary | None = None

    def __repr__(self) -> str:
        rows, new = self.completions.shape
        return (
            f"Generation({rows} text{'s' * (rows != 1)} of {new} new tokens; "
            f"{self.denoiser_calls} denoiser calls, {self.tokens_per_forward:.3g} tokens each)"
        )

    @property
    def texts(self) -> list[str]:
        """The whole texts.

        Raises:
            DecodingError: If the vocabulary is not known.
        """
        if self.vocabulary is None:
            raise DecodingError("texts: expected a generation by a model with a vocabulary")
        return [self.vocabulary.decode(row) for row in self.tokens]

    @property
    def tokens_per_forward(self) -> float:
        """Tokens fixed in a row by a denoiser call that it took part in, on average."""
        return float((self.fixed_at >= 0).sum()) / max(int(self.calls.sum()), 1)
