"""What to decode and how, checked before any work is done."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from codd.coupling.couplings import COUPLING_NAMES, CouplingSettings
from codd.decoding.base import Capturable, Decodable
from codd.decoding.budgets import Budget
from codd.decoding.calls import check_cache
from codd.decoding.revision import Revision
from codd.decoding.rules import Quota
from codd.decoding.samplers import SAMPLERS, SamplingRule
from codd.decoding.schedules import (
    EvenSchedule,
    FixedSchedule,
    Schedule,
    StochasticSchedule,
    split_evenly,
)
from codd.decoding.selection import SELECTIONS
from codd.errors import DecodingError

MODES = ("block", "full")


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode; see `codd.decoding.loop.generate` for what each means.

    Attributes:
        new_tokens: N, tokens to generate after each prompt.
        steps: Denoiser calls for all N tokens.
        tokens_per_step: Tokens to fix at each denoiser call.
        quota: An adaptive rule; exactly one of the three is given.
        stochastic: Whether the tokens of a step are drawn in number, with `steps`.
        mode: One of `MODES`.
        block_length: Tokens of a block; None in mode "full".
        selection: A name in `SELECTIONS`.
        sampler: A name in `SAMPLERS`.
        temperature: At least 0.
        top_p: In (0, 1], or None.
        coupling: A coupling's name or its settings, or None for the model's own.
        mask_ratio_limit: In [0, 1], or None.
        seed: Seed of everything random.
        capture: Whether each step's coupling is recorded on the CUDA device and replayed.
        revision: Which tokens a step takes back, or None; with `steps`.
        guidance: Weight of classifier-free guidance, at least 0.
        end_id: The token that ends a text, or None.
        stop: Token sequences that end a text.
        log_probs: Whether each token's log-probability is recorded.
        cache: A name in `codd.decoding.calls.CACHES`.
        lookahead: Whether the denoiser sees the masks of later blocks.
    """

    new_tokens: int
    steps: int | None = None
    tokens_per_step: int | None = None
    quota: Quota | None = None
    stochastic: bool = False
    mode: str = "block"
    block_length: int | None = None
    selection: str = "low_confidence"
    sampler: str = "exact"
    temperature: float = 1.0
    top_p: float | None = None
    coupling: str | CouplingSettings | None = None
    mask_ratio_limit: float | None = None
    seed: int = 0
    capture: bool = False
    revision: Revision | None = None
    guidance: float = 0.0
    end_id: int | None = None
    stop: tuple[tuple[int, ...], ...] = ()
    log_probs: bool = False
    cache: str = "none"
    lookahead: bool = False

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            DecodingError: If a field is impossible, or two of them contradict each other.
        """
        _one_of("mode", self.mode, MODES)
        _one_of("selection", self.selection, SELECTIONS)
        _one_of("sampler", self.sampler, SAMPLERS)
        if isinstance(self.coupling, str):
            _one_of("coupling", self.coupling, COUPLING_NAMES)
        if self.new_tokens < 1:
            raise DecodingError(f"new_tokens: expected at least 1, found {self.new_tokens}")
        self._check_blocks()
        self._check_pace()
        self._check_sampling()
        self._check_rest()

    @property
    def region_length(self) -> int:
        """Tokens decoded together: the block, or all new tokens in mode "full"."""
        return self.new_tokens if self.block_length is None else self.block_length

    @property
    def num_regions(self) -> int:
        """Number of blocks; 1 in mode "full"."""
        return self.new_tokens // self.region_length

    @property
    def ends(self) -> bool:
        """Whether a text may end before its last token."""
        return self.end_id is not None or bool(self.stop)

    @property
    def keeps_log_probs(self) -> bool:
        """Whether the log-probability of each token is known to later steps."""
        return self.log_probs or (self.revision is not None and self.revision.by_confidence)

    @property
    def lockstep(self) -> bool:
        """Whether all rows fix as many tokens at every step, of their only coupling."""
        adaptive = self.quota is not None or self.stochastic or self.ends
        return self.mode == "block" and not adaptive and self.mask_ratio_limit is None

    @property
    def rule(self) -> SamplingRule:
        """What the sampler is told."""
        return SamplingRule(self.selection, self.temperature, self.top_p)

    def schedules(self) -> list[Schedule]:
        """The schedule of each region, from left to right; at most so many steps if adaptive."""
        if self.quota is not None:
            return [FixedSchedule(1)] * self.num_regions
        if self.tokens_per_step is not None:
            return [FixedSchedule(self.tokens_per_step)] * self.num_regions
        assert self.steps is not None  # one of the two is given: _check_pace
        return [self._schedule(steps) for steps in split_evenly(self.steps, self.num_regions)]

    def _schedule(self, steps: int) -> Schedule:
        own = None if self.revision is None else self.revision.schedule(steps)
        usual = StochasticSchedule if self.stochastic else EvenSchedule
        return usual(steps) if own is None else own

    def check_model(self, model: Decodable) -> None:
        """Checks that the model can decode so.

        Raises:
            DecodingError: If the block, or all new tokens in mode "full", do not fit, or a step
                shall be captured and cannot be.
        """
        name, limit, what = "new_tokens", model.max_length, "longest sequence"
        if self.mode == "block":
            name = "block_length"
            limit, what = min((model.window, "window"), (model.max_length, what))
        if self.region_length > limit:
            raise DecodingError(
                f"{name}: expected at most the model's {what}, {limit}, found {self.region_length}"
            )
        self.check_step(model)

    def check_step(self, model: Decodable) -> None:
        """Checks that the model's step can be cached and captured if it shall be.

        Raises:
            DecodingError: If it cannot be.
        """
        check_cache(self.cache, model)
        if not self.capture:
            return
        if not isinstance(model, Capturable):
            raise DecodingError(
                f"capture: expected a model whose step can be captured, found "
                f"{type(model).__name__}"
            )
        reason = model.why_not_captured(self.coupling)
        if reason is not None:
            raise DecodingError(f"capture: {reason}")

    def _check_blocks(self) -> None:
        length = self.block_length
        if self.mode == "full" and length is not None:
            raise DecodingError(f"block_length: expected none in mode 'full', found {length}")
        if self.mode == "full":
            return
        if length is None or length < 1:
            raise DecodingError(
                f"block_length: expected at least 1 in mode 'block', found {length}"
            )
        if self.new_tokens % length:
            raise DecodingError(
                f"block_length: expected a divisor of new_tokens = {self.new_tokens}, "
                f"found {length}"
            )

    def _check_pace(self) -> None:
        if self.quota is not None:
            self._check_quota()
            return
        if (self.steps is None) == (self.tokens_per_step is None):
            raise DecodingError(
                "steps, tokens_per_step: expected exactly one of them, found "
                f"{self.steps} and {self.tokens_per_step}"
            )
        if self.steps is not None and not self.num_regions <= self.steps <= self.new_tokens:
            raise DecodingError(
                f"steps: expected {self.num_regions} (one a block) to {self.new_tokens} "
                f"(one a token), found {self.steps}"
            )
        pace = self.tokens_per_step
        if pace is not None and not 1 <= pace <= self.region_length:
            raise DecodingError(
                f"tokens_per_step: expected 1 to {self.region_length}, found {pace}"
            )

    def _check_quota(self) -> None:
        if self.steps is not None or self.tokens_per_step is not None:
            raise DecodingError(
                "steps, tokens_per_step, quota: expected exactly one of them, found "
                f"{self.steps}, {self.tokens_per_step} and {self.quota}"
            )
        if isinstance(self.quota, Budget) and self.sampler != "any_order":
            raise DecodingError(
                "sampler: expected 'any_order' with a budget (it is spent while tokens are fixed "
                f"one by one), found {self.sampler!r}"
            )

    def _check_rest(self) -> None:
        if self.revision is not None and self.steps is None:
            raise DecodingError("revision: expected `steps`, which say when to stop, found none")
        if self.stochastic and self.revision is not None and self.revision.schedule(1) is not None:
            raise DecodingError(
                "stochastic: expected False with a revision that has its own schedule, found True"
            )
        if self.stochastic and self.steps is None:
            raise DecodingError("stochastic: expected `steps`, which say when to stop, found none")
        _finite("guidance", self.guidance)
        if not all(self.stop):
            raise DecodingError("stop: expected sequences of at least one token, found none in one")

    def _check_sampling(self) -> None:
        _finite("temperature", self.temperature)
        if self.sampler == "map" and self.temperature not in (0.0, 1.0):
            raise DecodingError(
                f"temperature: expected none with sampler 'map', found {self.temperature}"
            )
        if self.sampler == "exact" and self.temperature != 1.0:
            raise DecodingError(
                "temperature: expected 1 with sampler 'exact' (no sharper joint can be drawn "
                f"exactly; 'latent' and 'any_order' take one), found {self.temperature}"
            )
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise DecodingError(f"top_p: expected 0 < top_p <= 1, found {self.top_p}")
        if self.top_p is not None and self.sampler != "any_order":
            raise DecodingError(
                f"top_p: expected none with sampler {self.sampler!r} (only 'any_order' can "
                f"truncate), found {self.top_p}"
            )
        if self.capture and self.sampler == "any_order":
            raise DecodingError(
                "capture: expected sampler 'exact' or 'latent' ('any_order' conditions its window "
                "token by token), found 'any_order'"
            )
        limit = self.mask_ratio_limit
        if limit is not None and not 0.0 <= limit <= 1.0:
            raise DecodingError(f"mask_ratio_limit: expected 0 to 1, found {limit}")


def usual_block(model: Decodable, new_tokens: int, *, constrained: bool) -> int:
    """The block length where none is asked for; what is constrained is one block if it can be."""
    longest = model.window if constrained and new_tokens <= model.window else model.block
    return min(longest, new_tokens)


def _finite(name: str, found: float) -> None:
    if not math.isfinite(found) or found < 0:
        raise DecodingError(f"{name}: expected a finite number of at least 0, found {found}")


def _one_of(name: str, found: str, known: Iterable[str]) -> None:
    if found not in known:
        listed = ", ".join(repr(k) for k in known)
        raise DecodingError(f"{name}: expected one of {listed}, found {found!r}")
