"""One step of decoding: call the denoiser, choose positions, draw them jointly, take some back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from codd.coupling.couplings import CouplingSettings
from codd.coupling.distribution import FactorisedDistribution, TokenDistribution
from codd.coupling.settings import FACTORISED
from codd.coupling.stepper import SteppedDistribution
from codd.decoding.base import Capturable, Decodable
from codd.decoding.budgets import Budget, spend
from codd.decoding.calls import DenoiserCalls, View
from codd.decoding.clock import Clock
from codd.decoding.options import DecodingOptions
from codd.decoding.quotas import AdaptiveQuota, Klass, QuotaView
from codd.decoding.revision import shared_out, take_back
from codd.decoding.rules import Quota
from codd.decoding.samplers import SAMPLERS, Commitment
from codd.decoding.scene import Draft, Memory, Scene
from codd.decoding.selection import score, select
from codd.decoding.windows import minimum_cover
from codd.decoding.wrapped import WrappedModel
from codd.denoisers.base import DenoiserOutput


@dataclass(frozen=True)
class Stepper:
    """Carries out single steps.

    Attributes:
        model: The denoiser and its coupling.
        options: How to decode.
        generator: Source of everything random.
        clock: Where time is added up.
        memory: Marginals of the step before.
        calls: Calls of the denoiser.
    """

    model: Decodable
    options: DecodingOptions
    generator: torch.Generator
    clock: Clock
    calls: DenoiserCalls
    memory: Memory

    def step(self, scene: Scene) -> tuple[Tensor, Tensor | None]:
        """Fixes some tokens of the region at the end of what is in view.

        Returns:
            (B, L) ids with more tokens fixed, and (B, L) their log-probabilities or None.
        """
        with self.clock.measure("denoiser"):
            output = self._denoise(scene)
        with self.clock.measure("coupling"):
            region, valid = self.options.region_length, scene.valid
            masked = (scene.tokens == self.model.mask_id) & valid
            masked[:, :-region] = False
            count = masked.sum(dim=1)
            ratio = count / valid[:, -region:].sum(dim=1)
            log_probs = torch.zeros_like(masked, dtype=output.logits.dtype)
            draft = Draft(
                output,
                scene,
                self._coupled(ratio),
                scene.tokens,
                log_probs if self.options.keeps_log_probs else None,
            )
            counts = scene.schedule.quota(count, scene.steps_left, self.generator)
            revised = self._revised(scene, count - counts)
            counts = torch.minimum(counts + revised.sum(dim=1), count)
            if self.options.mode == "block":
                start = torch.full_like(counts, scene.tokens.shape[1] - self.model.window)
                draft = self._commit(draft, start, masked, counts, self.options.quota)
            else:
                draft = self._commit_anywhere(draft, masked, counts)
            return draft.tokens.masked_fill(revised, self.model.mask_id), draft.log_probs

    def _denoise(self, scene: Scene) -> DenoiserOutput:
        """One call; with guidance both with and without what was given."""
        weight = self.options.guidance
        view = View(
            scene.rows,
            scene.tokens,
            scene.valid if scene.padded else None,
            region_length=self.options.region_length,
            first=scene.first,
            ahead=scene.ahead,
            begins=scene.steps_left == scene.steps,
        )
        if weight == 0.0:
            return self.calls(view)
        blind = scene.tokens.masked_fill(scene.given, self.model.mask_id)
        both = self.calls(view.beside(blind))
        given, free = both.logits.log_softmax(dim=-1).chunk(2)
        gap = given - free
        # Of a token that is impossible with or without there is nothing to weigh: no inf, no NaN.
        stronger = given + weight * gap.masked_fill(~gap.isfinite(), 0.0)
        return replace(both, logits=stronger, hidden=both.hidden.chunk(2)[0])

    def _coupled(self, mask_ratio: Tensor) -> Tensor:
        limit = self.options.mask_ratio_limit
        return mask_ratio < (float("inf") if limit is None else limit)

    def _revised(self, scene: Scene, room: Tensor) -> Tensor:
        """(B, L) bool, the tokens to mask again; (B,) as many more can be committed for them."""
        committed = ~scene.given & scene.valid & (scene.tokens != self.model.mask_id)
        committed[:, : -self.options.region_length] = False
        revision = self.options.revision
        if revision is None:
            return torch.zeros_like(committed)
        probability = revision.probability(scene.steps_left, scene.steps)
        if not revision.by_confidence:
            return take_back(committed, room, probability, self.generator)
        assert scene.log_probs is not None  # the options keep them for such a revision
        shares = shared_out(probability, scene.log_probs, committed)
        return take_back(committed, room, shares, self.generator)

    def _commit_anywhere(self, draft: Draft, masked: Tensor, counts: Tensor) -> Draft:
        """Chooses among all masked positions and draws the windows that cover the chosen."""
        region = self.options.region_length
        logits, candidates = draft.output.logits[:, -region:], masked[:, -region:]
        visible, valid = draft.tokens[:, -region:], draft.scene.valid[:, -region:]
        log_probs = logits.log_softmax(dim=-1)
        if isinstance(self.model, WrappedModel):
            log_probs = self.model.alone(log_probs, visible)
        single = FactorisedDistribution(log_probs, visible, valid & ~candidates, valid)
        quota, selected = self.options.quota, torch.zeros_like(masked)
        if quota is None or isinstance(quota, Budget):
            scores = self._scores(single.marginals, candidates)
            selected[:, -region:] = select(scores, candidates, counts)
        else:
            selected[:, -region:], _ = self._chosen(
                draft.scene.rows, single, candidates, counts, quota
            )
        if isinstance(quota, Budget):
            # A joint is needed to spend it: of the window around the best position.
            (window,) = minimum_cover(selected, self.model.window)
            return self._commit(draft, window.start, masked, counts, quota)
        for window in minimum_cover(selected, self.model.window):
            draft = self._commit(
                draft, window.start, window.covered, window.covered.sum(dim=1), None
            )
        return draft

    def _scores(self, marginals: Callable[[], Tensor], candidates: Tensor) -> Tensor:
        return score(self.options.selection, marginals, candidates, self.generator)

    def _chosen(
        self,
        rows: Tensor,
        distribution: TokenDistribution,
        candidates: Tensor,
        counts: Tensor,
        quota: AdaptiveQuota | None,
    ) -> tuple[Tensor, Tensor]:
        """(B, W) positions that may be fixed and (B,) how many of them are to be."""
        if quota is None:
            return candidates, counts
        marginals = cache(distribution.marginals)
        scores = self._scores(marginals, candidates)
        before = self.memory.exchange(rows, marginals()) if isinstance(quota, Klass) else None
        chosen = quota.choose(QuotaView(distribution, marginals, candidates, scores, before))
        return chosen, chosen.sum(dim=1)

    def _commit(
        self,
        draft: Draft,
        start: Tensor,
        candidates: Tensor,
        counts: Tensor,
        quota: Quota | None,
    ) -> Draft:
        """Draws `counts` (B,) of the candidates (B, L) of each row's window at `start` (B,)."""
        if self.options.lockstep:  # every row has its tokens to fix: nothing to wait for
            rows = torch.arange(len(counts), device=counts.device)
            coupling = self.options.coupling
            return self._commit_rows(draft, rows, start, candidates, counts, quota, coupling)
        for coupling, group in ((self.options.coupling, True), (FACTORISED, False)):
            rows = torch.nonzero((draft.coupled == group) & (counts > 0)).squeeze(1)
            if len(rows):
                draft = self._commit_rows(draft, rows, start, candidates, counts, quota, coupling)
        return draft

    def _commit_rows(
        self,
        draft: Draft,
        rows: Tensor,
        start: Tensor,
        candidates: Tensor,
        counts: Tensor,
        quota: Quota | None,
        coupling: str | CouplingSettings | None,
    ) -> Draft:
        """The same for some of the rows, all of one coupling."""
        offsets = torch.arange(self.model.window, device=rows.device)
        within = start[rows].unsqueeze(1) + offsets  # (b, W)
        current, valid = draft.tokens[rows], draft.scene.valid[rows]
        distribution = self._distribution(
            draft.output.take(rows),
            current,
            start[rows],
            coupling,
            valid if draft.scene.padded else None,
        )
        whole = draft.scene.rows[rows]
        if isinstance(distribution, SteppedDistribution):
            self.memory.keep_partition(whole, distribution.log_partition)
        drawn = self._drawn(
            whole,
            distribution,
            candidates[rows].gather(1, within),
            counts[rows],
            quota,
        )
        window = torch.where(drawn.chosen, drawn.tokens, current.gather(1, within))
        tokens = draft.tokens.index_copy(0, rows, current.scatter(1, within, window))
        log_probs = draft.log_probs
        if log_probs is not None:
            inside = drawn.tokens.masked_fill(~drawn.chosen, 0).unsqueeze(2)
            taken = distribution.marginals().gather(2, inside).squeeze(2).log()
            taken = taken.to(log_probs.dtype).masked_fill(~drawn.chosen, 0.0)
            own = log_probs[rows]
            added = own.scatter(1, within, own.gather(1, within) + taken)
            log_probs = log_probs.index_copy(0, rows, added)
        return replace(draft, tokens=tokens, log_probs=log_probs)

    def _drawn(
        self,
        rows: Tensor,
        distribution: TokenDistribution,
        candidates: Tensor,
        counts: Tensor,
        quota: Quota | None,
    ) -> Commitment:
        """What is fixed of the candidates (B, W) of one window of each row."""
        if isinstance(quota, Budget):
            return spend(quota, distribution, candidates, self.options.rule, self.generator)
        allowed, number = self._chosen(rows, distribution, candidates, counts, quota)
        sampler = SAMPLERS[self.options.sampler]
        return sampler(distribution, allowed, number, self.options.rule, self.generator)

    def _distribution(
        self,
        output: DenoiserOutput,
        tokens: Tensor,
        start: Tensor,
        coupling: str | CouplingSettings | None,
        valid: Tensor | None,
    ) -> TokenDistribution:
        """The window's distribution, by a captured step where that was asked for."""
        if not self.options.capture or coupling == FACTORISED:
            return self.model.distribution(output, tokens, start, coupling=coupling, valid=valid)
        assert isinstance(self.model, Capturable)  # as the options' check of the model found
        return self.model.captured_distribution(
            output,
            tokens,
            start,
            coupling=coupling,
            valid=valid,
            temperature=self.options.temperature,
            generator=self.generator,
        )
