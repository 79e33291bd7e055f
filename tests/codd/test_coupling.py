"""Couplings against enumeration of a small joint."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

import codd
import pcircuits as pc
from codd.errors import CouplingError
from pcircuits.errors import EvidenceError
from tests.support.joint import Case, small_case

CONVERGED = codd.CouplingSettings("copula", step_sizes=(0.5,) * 80)


def _couple(case: Case, settings: codd.CouplingSettings, **options: object) -> object:
    return codd.couple(
        settings,
        case.plan,
        case.parameters,
        case.log_probs,
        case.values,
        case.observed,
        **options,  # type: ignore[arg-type]
    )


def test_product_takes_the_denoisers_probabilities_as_potentials() -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings("product"))

    assert torch.equal(found.log_potentials, case.log_probs)


@pytest.mark.parametrize("kind", ["factorised", "product", "local", "copula"])
def test_a_coupling_says_its_sizes_and_its_error(kind: str) -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings(kind))

    assert (found.batch_size, found.length, found.num_categories) == (3, 4, 3)
    torch.testing.assert_close(
        found.marginal_error, codd.marginal_error(found, case.log_probs), check_dtype=False
    )


def test_the_error_of_marginals_is_the_largest_total_variation() -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings("product"))
    apart = (found.marginals() - case.log_probs.exp()).abs().sum(-1) * 0.5
    expected = [max(row[~seen]) for row, seen in zip(apart, case.observed, strict=True)]

    error = codd.marginal_error(found, case.log_probs)

    torch.testing.assert_close(error, torch.stack(expected))


def test_a_coupling_is_told_in_a_line() -> None:
    case = small_case()
    one = replace(
        case, log_probs=case.log_probs[:1], values=case.values[:1], observed=case.observed[:1]
    )
    told = [repr(_couple(each, codd.CouplingSettings("product"))) for each in (case, one)]

    assert "(3 windows of 4 tokens, 3 categories, 9 masked)" in told[0]
    assert "(1 window of 4 tokens, 3 categories, 3 masked)" in told[1]


def test_log_partition_is_the_sum_over_worlds() -> None:
    case = small_case()
    weights = case.circuit().expand(3, -1).clone()
    for i in range(4):
        world = case.worlds[:, i]
        agrees = (world == case.values[:, i, None]).double()
        factor = case.log_probs[:, i].exp()[:, world]
        weights = weights * torch.where(case.observed[:, i, None], agrees, factor)

    found = _couple(case, codd.CouplingSettings("product")).log_partition

    torch.testing.assert_close(found, weights.sum(1).log())


def test_copula_keeps_the_denoisers_marginals_at_convergence() -> None:
    case = small_case()
    found = _couple(case, CONVERGED)
    start = _couple(case, codd.CouplingSettings("product"))

    assert float(codd.marginal_error(found, case.log_probs).max()) < 1e-10
    assert float(codd.marginal_error(start, case.log_probs).min()) > 0.05


def test_more_sweeps_come_closer() -> None:
    case = small_case()
    errors = [
        float(
            codd.marginal_error(
                _couple(case, codd.CouplingSettings("copula", step_sizes=(0.5,) * n)),
                case.log_probs,
            ).max()
        )
        for n in (1, 3, 9)
    ]

    assert errors[0] > errors[1] > errors[2]


def test_copula_is_the_projection_that_changes_the_circuit_least() -> None:
    """Of all joints with these marginals, the I-projection keeps the circuit's odds ratios."""
    case = small_case()
    joint = case.joint(_couple(case, CONVERGED).log_potentials)[2].view(3, 3, 3, 3)
    circuit = case.circuit().view(3, 3, 3, 3)

    def odds(table: torch.Tensor) -> torch.Tensor:
        pairs = table.log()
        return pairs[0, 0] - pairs[0, 1] - pairs[1, 0] + pairs[1, 1]

    torch.testing.assert_close(odds(joint), odds(circuit), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("kind", ["copula", "product", "local"])
def test_couplings_with_a_factorised_circuit_stay_factorised(kind: str) -> None:
    case = small_case()
    plan = pc.compile_circuit(pc.families.factorized(4, 3))
    uniform = {n: torch.zeros(s).double() for n, s in plan.parameter_shapes.items()}
    if kind == "copula":  # any product distribution must do
        generator = torch.Generator().manual_seed(1)
        uniform = {
            n: torch.randn(p.shape, generator=generator).double() for n, p in uniform.items()
        }
    parameters = {n: p.log_softmax(-1) for n, p in uniform.items()}
    settings = codd.CouplingSettings(kind)
    found = codd.couple(settings, plan, parameters, case.log_probs, case.values, case.observed)

    expected = _couple(case, codd.CouplingSettings("factorised"))
    tokens = torch.where(case.observed, case.values, 1)
    torch.testing.assert_close(found.log_prob(tokens), expected.log_prob(tokens))


@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_samples_follow_the_joint(kind: str) -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings(kind))
    drawn = found.sample(20_000, generator=torch.Generator().manual_seed(3))

    assert torch.equal(
        drawn[case.observed[:, None].expand_as(drawn)],
        case.values[:, None].expand_as(drawn)[case.observed[:, None].expand_as(drawn)],
    )
    code = (drawn[2] * torch.tensor([27, 9, 3, 1])).sum(-1)
    counts = torch.bincount(code, minlength=81).double()
    log_probs = torch.stack([found.log_prob(w.expand(3, -1))[2] for w in case.worlds])
    assert chisquare(counts, 20_000 * log_probs.exp()).pvalue > 1e-4


def test_temperature_zero_takes_the_likeliest_token_given_the_latent_path() -> None:
    case = small_case()
    sharp = {
        n: torch.where(p > -1.0, p, p - 3.0).log_softmax(-1) for n, p in case.parameters.items()
    }
    found = _couple(replace(case, parameters=sharp), codd.CouplingSettings("product"))
    drawn = found.sample(500, temperature=0.0, generator=torch.Generator().manual_seed(0))

    # Given its state a token is fixed, so at most K different tokens stand at a position.
    best = (sharp["emission"] + case.log_probs[2, 0]).argmax(-1)
    assert set(drawn[2, :, 0].tolist()) <= set(best.tolist())


def test_padding_is_summed_out() -> None:
    case = small_case()
    valid = torch.ones_like(case.observed)
    valid[2, 0] = False
    found = _couple(case, codd.CouplingSettings("copula"), valid=valid)

    total = sum(
        found.log_prob(world.expand(3, -1))[2].exp() for world in case.worlds[:27]
    )  # worlds with token 0 at the padding
    assert float(total) == pytest.approx(1.0)


def test_conditioning_is_bayes_rule() -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings("copula"))
    tokens = torch.where(case.observed, case.values, 2)
    more = case.observed.clone()
    more[:, 2] = True
    conditioned = found.condition(tokens, more)

    marginal = found.marginals()[torch.arange(3), 2, tokens[:, 2]].log()
    torch.testing.assert_close(found.log_prob(tokens), marginal + conditioned.log_prob(tokens))


def test_mutual_information_of_the_factorised_output_is_its_entropy_alone() -> None:
    case = small_case()
    found = _couple(case, codd.CouplingSettings("factorised")).mutual_information()
    entropy = torch.special.entr(case.log_probs[2].exp()).sum(-1)

    torch.testing.assert_close(found[2], torch.diag(entropy))


def test_gradients_flow_through_the_sweeps() -> None:
    case = small_case()
    names = list(case.parameters)

    def loss(log_probs: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        found = codd.couple(
            codd.CouplingSettings("copula", step_sizes=(0.5, 0.3)),
            case.plan,
            dict(zip(names, parameters, strict=True)),
            log_probs,
            case.values,
            case.observed,
        )
        return found.log_prob(torch.where(case.observed, case.values, 1))

    tensors = [case.log_probs, *case.parameters.values()]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(loss, leaves, fast_mode=True)


def test_a_ruled_out_token_stays_ruled_out_and_nothing_becomes_nan() -> None:
    case = small_case()
    log_probs = case.log_probs.clone()
    log_probs[2, 0, 1] = -torch.inf
    found = _couple(replace(case, log_probs=log_probs), codd.CouplingSettings("copula"))

    assert float(found.marginals()[2, 0, 1]) == 0.0
    assert torch.isfinite(found.log_prob(torch.where(case.observed, case.values, 2))).all()


def test_a_visible_token_of_probability_zero_is_named() -> None:
    case = small_case()
    emission = case.parameters["emission"].clone()
    emission[:, int(case.values[0, 1])] = -torch.inf
    impossible = replace(case, parameters={**case.parameters, "emission": emission})

    for kind in ("product", "copula"):
        with pytest.raises(CouplingError, match="visible tokens"):
            _couple(impossible, codd.CouplingSettings(kind)).marginals()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, values=c.values + 3), "visible token .* expected 0 .. 2"),
        (lambda c: replace(c, observed=c.observed[:, :2]), r"observed has shape \(3, 2\)"),
        (lambda c: replace(c, log_probs=c.log_probs[..., :2]), "expected 0 .. 1|3 categories"),
        (lambda c: replace(c, log_probs=c.log_probs[0]), r"must be \(B, W, V\)"),
        (lambda c: replace(c, log_probs=c.log_probs[None]), r"must be \(B, W, V\); found"),
    ],
)
def test_what_does_not_fit_is_named(change: object, message: str) -> None:
    with pytest.raises(CouplingError, match=message):
        _couple(change(small_case()), codd.CouplingSettings("product"))  # type: ignore[operator]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", ["factorised", "product", "local", "copula"])
def test_a_denoiser_that_gives_no_number_is_named_by_position(kind: str, value: float) -> None:
    case = small_case()
    row, position = (~case.observed).nonzero()[-1].tolist()
    case.log_probs[row, position, 1] = value

    with pytest.raises(
        (CouplingError, EvidenceError), match=rf"\[{row}, {position}.* is (nan|inf)"
    ):
        _couple(case, codd.CouplingSettings(kind)).marginals()


def test_what_a_denoiser_says_of_visible_tokens_and_padding_does_not_count() -> None:
    case = small_case()
    case.log_probs[case.observed] = torch.nan
    hidden = ~case.observed
    valid = torch.ones_like(hidden)
    valid[0, hidden[0].nonzero()[0]] = False
    case.log_probs[~valid] = torch.nan

    found = codd.FactorisedDistribution(case.log_probs, case.values, case.observed, valid)

    assert bool(found.log_prob(case.values).isfinite().all())


def test_padding_that_is_observed_is_named_by_its_position() -> None:
    case = small_case()
    observed, valid = torch.zeros_like(case.observed), torch.ones_like(case.observed)
    observed[1, 2], valid[1, 2], valid[2, 0] = True, False, False
    message = r"position \[1, 2\] is padding and observed"
    with pytest.raises(CouplingError, match=message):
        codd.couple(
            codd.CouplingSettings("product"),
            case.plan,
            case.parameters,
            case.log_probs,
            case.values,
            observed,
            valid=valid,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "glue"}, "glue"),
        ({"step_sizes": ()}, "step_sizes"),
        ({"step_sizes": (0.0,)}, "step_sizes"),
    ],
)
def test_settings_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CouplingError, match=message):
        codd.CouplingSettings(**arguments)  # type: ignore[arg-type]
