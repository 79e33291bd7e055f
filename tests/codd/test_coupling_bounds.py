"""What lists leave out, to the last digit: the bounds by their formulas over every latent path."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.targets import Listing, list_top, marginal_distance, target_log_probs

B, W, V, K = 3, 4, 6, 3


def parameters_of(plan: pc.Plan, *, normalised: bool) -> dict[str, Tensor]:
    """Random log-weights; a few tokens that some units rule out. Only those of tokens may differ
    from one in their sums."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, shape in plan.parameter_shapes.items():
        logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) > 1 and shape[1] == V:
            logits[0, 1] = logits[1, 4] = -torch.inf
            if not normalised:
                found[name] = logits
                continue
        found[name] = logits.log_softmax(-1)
    return found


def paths_of(name: str, own: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(N,) probability of each latent path and (N, W) the unit that it takes at each token."""
    if name == "mixture":
        return own["weights"].exp(), torch.arange(K)[:, None].expand(-1, W)
    every = torch.tensor(list(itertools.product(range(K), repeat=W)))
    start, moves = own["initial"].exp(), own["transition"].exp()
    pairs = [moves[every[:, i], every[:, i + 1]] for i in range(W - 1)]
    return start[every[:, 0]] * torch.stack(pairs).prod(0), every


def emission(name: str, own: dict[str, Tensor], place: int) -> Tensor:
    """(K, V) weights of the units of a token."""
    return own[f"input_{place}" if name == "mixture" else "emission"].exp()


class Window:
    """A coupling of listed tokens, and its bound by the formula of `codd.coupling.omitted`."""

    def __init__(
        self, circuit: str, top_k: int, *, ceiling: bool = True, normalised: bool = True
    ) -> None:
        family = {"hmm": pc.families.hmm, "mixture": pc.families.mixture}[circuit]
        self.circuit, self.plan = circuit, pc.compile_circuit(family(W, K, V))
        self.parameters = parameters_of(self.plan, normalised=normalised)
        generator = torch.Generator().manual_seed(6)
        full = 2 * torch.randn(B, W, V, generator=generator, dtype=torch.float64)
        full[0, 0, 2] = -torch.inf
        self.log_probs, listing = list_top(full.log_softmax(-1), top_k)
        self.listing = Listing(
            listing.categories, listing.log_omitted, listing.log_ceiling if ceiling else None
        )
        self.values = torch.randint(V, (B, W), generator=generator)
        self.observed, self.valid = torch.zeros(2, B, W, dtype=torch.bool)
        self.observed[0, 1] = self.observed[1, 0] = self.observed[1, 3] = True
        self.valid[:] = True
        self.valid[1, 1] = self.valid[2, 0] = False
        prefix = "state" if circuit == "hmm" else "input"
        self.latent = {
            f"{prefix}_{i}": torch.randn(B, K, generator=generator).double() for i in (0, 2)
        }

    def couple(self, kind: str) -> Any:
        own = (self.log_probs, self.values, self.observed)
        return codd.couple(
            codd.CouplingSettings(kind),
            self.plan,
            self.parameters,
            *own,
            latent=None if kind == "factorised" else self.latent,
            valid=self.valid,
            listing=self.listing,
        )

    def bound(self, kind: str) -> Tensor:
        found: Tensor = self.couple(kind).omitted_mass
        return found

    def units(self, row: int, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(K,) of the listed tokens, at least that of the others, of the visible one, of all."""
        weights = emission(self.circuit, self.parameters, place)
        listed = self.listing.categories[row, place]
        inside = (weights[:, listed] * self.log_probs[row, place].exp()).sum(1)
        assert self.listing.log_omitted is not None
        outside = self.listing.log_omitted[row, place].exp() * weights.amax(1)
        if self.listing.log_ceiling is not None:
            rest = (weights.sum(1) - weights[:, listed].sum(1)).clamp(min=0.0)
            outside = torch.minimum(outside, self.listing.log_ceiling[row, place].exp() * rest)
        return inside, outside, weights[:, self.values[row, place]], weights.sum(1)

    def expected(self, kind: str) -> Tensor:
        chances, units = paths_of(self.circuit, self.parameters)
        found = []
        for row in range(B):
            low, high = chances.clone(), chances.clone()
            for place in range(W):
                inside, outside, visible, free = self.units(row, place)
                ones = torch.ones(K).double()
                less, more = {
                    "product": (inside, inside + outside),
                    "local": (inside / (inside + outside), ones),
                }[kind]
                if self.observed[row, place]:
                    less = more = visible
                elif not self.valid[row, place]:
                    less = more = free
                tilt = torch.ones(K).double()
                for name, potentials in self.latent.items():
                    if name.endswith(str(place)):
                        tilt = potentials[row].exp()
                low, high = (
                    low * (less * tilt)[units[:, place]],
                    high * (more * tilt)[units[:, place]],
                )
            found.append(1 - low.sum() / high.sum())
        return torch.stack(found)


@pytest.mark.parametrize("circuit", ["hmm", "mixture"])
@pytest.mark.parametrize("ceiling", [True, False])
@pytest.mark.parametrize("kind", ["product", "local"])
@pytest.mark.parametrize("top_k", [1, 3, 5])
@pytest.mark.parametrize("normalised", [True, False])
def test_the_bound_is_that_of_the_formula(
    circuit: str, ceiling: bool, kind: str, top_k: int, normalised: bool
) -> None:
    window = Window(circuit, top_k, ceiling=ceiling, normalised=normalised)
    torch.testing.assert_close(window.bound(kind), window.expected(kind), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ceiling", [True, False])
@pytest.mark.parametrize("kind", ["product", "local"])
def test_the_bound_never_falls_short_by_rounding(kind: str, ceiling: bool) -> None:
    """Where all is listed, or a unit allows no token of the list."""
    for circuit in ("hmm", "mixture"):
        whole = Window(circuit, V, ceiling=ceiling).bound(kind)
        assert (whole >= 0).all() and (whole < 1e-12).all()


def test_the_copula_s_bound_sums_what_each_position_leaves_out() -> None:
    for top_k in (1, 5):
        window = Window("hmm", top_k)
        assert window.listing.log_omitted is not None
        free = ~window.observed & window.valid
        left = torch.where(free, window.listing.log_omitted.exp(), 0.0)
        torch.testing.assert_close(window.bound("copula"), left.sum(1).clamp(max=1.0))
        torch.testing.assert_close(window.bound("factorised"), 1 - (1 - left).prod(1))
        assert float(left.sum(1).max()) > 1.0 or top_k == 5


@pytest.mark.parametrize("kind", ["product", "local", "copula"])
@pytest.mark.parametrize("top_k", [2, 5])
def test_the_error_under_lists_is_that_from_the_listed_targets(kind: str, top_k: int) -> None:
    window = Window("hmm", top_k)
    joint = window.couple(kind)
    listed = window.log_probs.exp() / window.log_probs.exp().sum(2, keepdim=True)
    targets = torch.zeros(B, W, V).double().scatter(2, window.listing.categories, listed)
    apart = (joint.marginals() - targets).abs().sum(2) / 2
    free = ~window.observed & window.valid
    expected = torch.where(free, apart, 0.0).amax(1)
    torch.testing.assert_close(joint.marginal_error, expected)
    assert float(expected.max()) > 1e-3


def test_lists_by_hand() -> None:
    shares = torch.tensor([[[0.15, 0.5, 0.05, 0.3]] * 2] * 3, dtype=torch.float64)
    found, plain = list_top(shares.log(), 2)
    assert plain.categories.tolist() == [[[1, 3]] * 2] * 3
    torch.testing.assert_close(found.exp(), shares[..., [1, 3]])
    torch.testing.assert_close(plain.omitted(), torch.full((3, 2), 0.2).double())
    assert plain.log_ceiling is not None
    torch.testing.assert_close(plain.log_ceiling.exp(), torch.full((3, 2), 0.15).double())

    wanted = torch.tensor([[0, 1], [2, 3], [3, 2]])
    found, made = list_top(shares.log(), 2, include=wanted)
    expected = [[[1, 0], [1, 3]], [[1, 2], [1, 3]], [[1, 3], [1, 2]]]
    assert made.categories.tolist() == expected
    torch.testing.assert_close(found.exp(), shares.gather(2, made.categories))
    omitted = torch.tensor([[0.35, 0.2], [0.45, 0.2], [0.2, 0.45]]).double()
    torch.testing.assert_close(made.omitted(), omitted)
    assert made.log_ceiling is not None
    ceiling = torch.tensor([[0.3, 0.15], [0.3, 0.15], [0.15, 0.3]]).double()
    torch.testing.assert_close(made.log_ceiling.exp(), ceiling)

    three, four = list_top(shares.log(), 3, include=wanted)[1], list_top(shares.log(), 9)[1]
    assert three.categories[0].tolist() == [[1, 3, 0], [1, 3, 0]]
    assert three.categories[1].tolist() == [[1, 3, 2], [1, 3, 0]]
    assert four.categories[0, 0].tolist() == [1, 3, 0, 2]
    assert (four.omitted() == 0).all()
    place, there = plain.place(torch.tensor([[3, 0]] * 3))
    assert place[:, 0].tolist() == [1] * 3 and there.tolist() == [[True, False]] * 3


def test_the_nucleus_ends_where_its_share_is_reached() -> None:
    """And of equally likely tokens it has the first ones."""
    settings = codd.CouplingSettings(target_top_p=0.5)
    shares = torch.tensor([[[0.25, 0.5, 0.25]], [[0.375, 0.25, 0.375]]], dtype=torch.float64)
    found = target_log_probs(settings, shares.log()).exp()
    expected = torch.tensor([[[0, 1.0, 0]], [[0.5, 0, 0.5]]]).double()
    torch.testing.assert_close(found, expected)
    many = torch.zeros(1, 2, 400).double()
    half = target_log_probs(settings, many).exp()
    assert half.nonzero()[:, 2].tolist() == [*range(200)] * 2


def test_the_error_of_marginals_is_zero_where_nothing_is_masked() -> None:
    marginals = torch.tensor([[[0.5, 0.5], [1.0, 0.0]], [[0.0, 1.0], [0.25, 0.75]]])
    other = torch.tensor([[[0.25, 0.75], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]]).log()
    seen = torch.tensor([[[True, True], [True, True]], [[False, True], [True, False]]])
    found = [marginal_distance(marginals, other, skipped).tolist() for skipped in seen]
    assert found == [[0.0, 0.0], [0.25, 0.25]]


def drawn(alone: codd.FactorisedDistribution, **options: Any) -> Tensor:
    return alone.sample(40_000, generator=torch.Generator().manual_seed(2), **options)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("listed", [False, True])
def test_independent_tokens_are_drawn_at_a_temperature(temperature: float, listed: bool) -> None:
    shares = torch.tensor([[[0.5, 0.2, 0.25, 0.05], [0.1, 0.2, 0.3, 0.4]]]).double()
    hidden, log_probs, more = torch.zeros(1, 2, dtype=torch.bool), shares.log(), {}
    if listed:
        log_probs, listing = list_top(log_probs, 3)
        more = {"listing": listing, "vocabulary_size": 4}
        shares = listing.spread(log_probs.exp(), 4)
    alone = codd.FactorisedDistribution(log_probs, hidden.long(), hidden, **more)  # type: ignore[arg-type]
    found = drawn(alone, temperature=temperature)
    counted = torch.nn.functional.one_hot(found, 4).double().mean(0)
    powered = shares[0] ** (1 / temperature)
    torch.testing.assert_close(counted, powered / powered.sum(1, keepdim=True), atol=0.012, rtol=0)
    best = drawn(alone, temperature=0.0)
    assert torch.equal(best, shares[0].argmax(-1).expand_as(best))


def test_one_kind_of_token_is_no_choice() -> None:
    hidden = torch.zeros(2, 3, dtype=torch.bool)
    alone = codd.FactorisedDistribution(torch.zeros(2, 3, 1), hidden.long(), hidden)
    assert torch.equal(alone.marginals(), torch.ones(2, 3, 1))
    assert torch.equal(alone.mutual_information(), torch.zeros(2, 3, 3))
    listing = Listing(torch.zeros(2, 3, 1).long())
    listed = replace(alone, listing=listing, vocabulary_size=1)
    assert torch.equal(listed.marginals(), torch.ones(2, 3, 1))
