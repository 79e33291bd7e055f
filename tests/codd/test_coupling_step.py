"""One coupling step as a function of tensors: the same results as `couple`, and no waiting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pcircuits as pc
from codd.coupling import stepper as stepping
from codd.coupling.couplings import CouplingSettings, couple
from codd.coupling.step import StepResult, coupling_step
from codd.coupling.stepper import CouplingStepper
from codd.decoding.loop import generate
from codd.errors import CouplingError, DecodingError
from codd.model import CoupledModel
from tests.support.waiting import WithoutWaiting

pytest.importorskip("triton")
if not torch.cuda.is_available():
    import tests.support.triton_interpreter  # noqa: F401  (rounds products as a device does)

BATCH, WINDOW, STATES, TOKENS, LISTED = 2, 4, 5, 21, 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("product", "copula")
TOLERANCE = 0.05


@pytest.fixture
def chain() -> tuple[pc.Plan, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(0)
    plan = pc.compile_circuit(pc.families.hmm(WINDOW, STATES, TOKENS))
    return plan, {
        name: (2 * torch.randn(shape, generator=random)).log_softmax(-1).to(DEVICE)
        for name, shape in plan.parameter_shapes.items()
    }


@pytest.fixture
def window() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    log_probs = torch.randn(BATCH, WINDOW, TOKENS, generator=random)
    log_probs[:, :, 2] = -torch.inf
    valid = torch.ones(BATCH, WINDOW, dtype=torch.bool)
    valid[0, 0] = False
    observed = torch.tensor([[False, True, False, False], [False, False, False, True]])
    found = {
        "log_probs": log_probs.log_softmax(-1),
        "values": torch.randint(3, TOKENS, (BATCH, WINDOW), generator=random),
        "observed": observed,
        "valid": valid,
        "uniforms": torch.rand(BATCH, 1, WINDOW, 2, generator=random),
        "latent": torch.randn(BATCH, STATES, generator=random),
    }
    return {name: tensor.to(DEVICE) for name, tensor in found.items()}


def run(
    settings: CouplingSettings,
    chain: tuple[pc.Plan, dict[str, Tensor]],
    window: dict[str, Tensor],
    impl: str,
) -> StepResult:
    passes = pc.queries.chain_passes(*chain, impl=impl)
    states = torch.zeros(BATCH, WINDOW, STATES, device=DEVICE)
    states[:, 1] = window["latent"]
    with WithoutWaiting():
        return coupling_step(
            settings,
            passes,
            window["log_probs"],
            window["values"],
            window["observed"],
            window["uniforms"],
            missing=~window["valid"],
            latent=states,
        )


SETTINGS = {
    "product": CouplingSettings("product"),
    "local": CouplingSettings("local"),
    "copula": CouplingSettings(),
    # One window is near enough before the third of these sweeps, the other before the fourth.
    "copula that stops": CouplingSettings(step_sizes=(1.0, *[0.5] * 3), tolerance=TOLERANCE),
}


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("case", SETTINGS)
def test_a_step_is_the_coupling_and_waits_for_nothing(
    case: str, impl: str, chain: Any, window: dict[str, Tensor]
) -> None:
    found = run(SETTINGS[case], chain, window, impl)
    plan, parameters = chain
    expected = couple(
        SETTINGS[case],
        plan,
        {name: tensor.double() for name, tensor in parameters.items()},
        window["log_probs"].double(),
        window["values"],
        window["observed"],
        latent={"state_1": window["latent"].double()},
        valid=window["valid"],
    )
    torch.testing.assert_close(
        found.log_partition.double(), expected.log_partition, rtol=1e-5, atol=1e-5
    )
    valid = window["valid"]
    torch.testing.assert_close(
        found.marginals[valid].double(), expected.marginals()[valid], rtol=0, atol=1e-5
    )
    kept = window["observed"]
    assert torch.equal(found.tokens[:, 0][kept], window["values"][kept])


def test_both_implementations_draw_the_same_tokens(chain: Any, window: dict[str, Tensor]) -> None:
    drawn = [run(CouplingSettings(), chain, window, impl).tokens for impl in ("torch", "triton")]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_a_list_of_all_tokens_is_the_whole_vocabulary(
    impl: str, chain: Any, window: dict[str, Tensor]
) -> None:
    passes = pc.queries.chain_passes(*chain, impl=impl)
    known = [window[name] for name in ("log_probs", "values", "observed", "uniforms")]
    order = torch.rand(BATCH, WINDOW, TOKENS, device=DEVICE).argsort(-1)
    listed = [window["log_probs"].gather(2, order), *known[1:], order]
    whole = coupling_step(CouplingSettings(), passes, *known)
    with WithoutWaiting():
        found = coupling_step(CouplingSettings(), passes, *listed)
    torch.testing.assert_close(found.log_partition, whole.log_partition, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.marginals, whole.marginals.gather(2, order), rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", ["torch", "triton"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_some_tokens_rules_the_others_out(
    kind: str, impl: str, chain: Any, window: dict[str, Tensor]
) -> None:
    """As the whole vocabulary does with -inf for all that is not listed."""
    listed = torch.rand(BATCH, WINDOW, TOKENS, device=DEVICE).argsort(-1)[..., :LISTED]
    log_probs = window["log_probs"].gather(2, listed)
    # A token that nobody expects is listed too, and a visible one is not.
    log_probs[:, 0, 3] = -torch.inf
    unlisted = (torch.arange(TOKENS, device=DEVICE) != listed[1, 3][:, None]).all(0)
    window["values"][1, 3] = unlisted.nonzero()[-1, 0]
    dense = torch.full_like(window["log_probs"], -torch.inf).scatter(2, listed, log_probs)
    known = [window[name] for name in ("values", "observed", "uniforms")]
    states = window["latent"][:, None].repeat(1, WINDOW, 1)
    more = (~window["valid"], states)
    passes = pc.queries.chain_passes(*chain, impl=impl)
    settings = CouplingSettings(kind)
    with WithoutWaiting():
        found = coupling_step(settings, passes, log_probs, *known, listed, *more)
    whole = coupling_step(settings, passes, dense, *known, None, *more)

    torch.testing.assert_close(found.log_partition, whole.log_partition, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found.marginals, whole.marginals.gather(2, listed), rtol=0, atol=2e-5
    )
    drawn = found.tokens[:, 0]
    free = ~window["observed"] & window["valid"]
    assert bool((drawn[..., None] == listed).any(-1)[free].all())
    assert torch.equal(drawn[window["observed"]], window["values"][window["observed"]])
    plan, parameters = chain
    exact = couple(
        settings,
        plan,
        {name: tensor.double() for name, tensor in parameters.items()},
        dense.double(),
        *known[:2],
        latent={f"state_{i}": states[:, i].double() for i in range(WINDOW)},
        valid=window["valid"],
    )
    torch.testing.assert_close(
        found.log_partition.double(), exact.log_partition, rtol=1e-5, atol=1e-5
    )
    expected = exact.marginals().gather(2, listed)[window["valid"]]
    torch.testing.assert_close(
        found.marginals[window["valid"]].double(), expected, rtol=0, atol=2e-5
    )


def test_a_step_is_recorded_once_for_what_it_is_made_for(
    chain: Any, window: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For each temperature, and all shapes and types; the oldest is let go when there are many."""
    recorded: list[object] = []

    def record(function: Any, inputs: Any) -> Any:
        recorded.append(inputs)
        return function

    monkeypatch.setattr(pc.queries, "captured_step", record)
    monkeypatch.setattr(stepping, "_MOST_CAPTURED", 4)
    plan, parameters = chain
    passes = pc.queries.chain_passes(plan, parameters, impl="torch")
    stepper = CouplingStepper(CouplingSettings(), plan, pc.prepare(plan, parameters), capture=True)
    stepper.__dict__["passes"] = passes
    known = [window[name] for name in ("log_probs", "values", "observed", "uniforms")]
    one, double = [tensor[:1] for tensor in known], [known[0].double(), *known[1:]]
    for number, (given, temperature) in enumerate(
        [(known, 1.0), (known, 0.0), (one, 1.0), (double, 1.0)]
    ):
        for _ in range(2):
            found = stepper.step(*given, temperature=temperature)
            assert len(recorded) == number + 1
        expected = coupling_step(CouplingSettings(), passes, *given, temperature=temperature)
        assert torch.equal(found.tokens, expected.tokens)
    stepper.step(*one, temperature=0.0)
    assert (len(recorded), len(stepper._captured)) == (5, 4)
    stepper.step(*known, temperature=1.0)
    assert len(recorded) == 6, "it was the oldest"


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.0])
def test_a_step_draws_its_tokens_at_its_temperature(
    temperature: float, chain: Any, window: dict[str, Tensor]
) -> None:
    passes = pc.queries.chain_passes(*chain, impl="torch")
    known = [window[name] for name in ("log_probs", "values", "observed")]
    uniforms = torch.rand(BATCH, 200, WINDOW, 2, device=DEVICE)
    settings = CouplingSettings("product")
    found = coupling_step(settings, passes, *known, uniforms, temperature=temperature)
    own = pc.queries.ChainWindow(*known)
    messages = passes.messages(own)
    drawn = {t: passes.sample(own, messages, uniforms, t) for t in (1.0, 0.5, 0.0)}
    assert torch.equal(found.tokens, drawn.pop(temperature))
    assert not any(torch.equal(found.tokens, other) for other in drawn.values())


def test_what_cannot_be_stepped_is_refused(chain: Any, window: dict[str, Tensor]) -> None:
    plan, parameters = chain
    passes = pc.queries.chain_passes(plan, parameters)
    known = [window[name] for name in ("log_probs", "values", "observed", "uniforms")]
    with pytest.raises(CouplingError, match="no circuit to step through"):
        coupling_step(CouplingSettings("factorised"), passes, *known)
    parameters["emission"][:, int(window["values"][0, 1])] = -torch.inf
    stepper = CouplingStepper(CouplingSettings(), plan, pc.prepare(plan, parameters))
    found = stepper.distribution(*known[:3])
    assert found.log_partition.isneginf().tolist() == [True, False]
    with pytest.raises(CouplingError, match="window 0"):
        found.log_prob(found.sample()[:, 0])


def test_a_stepped_distribution_answers_like_any_other(
    chain: Any, window: dict[str, Tensor]
) -> None:
    plan, parameters = chain
    prepared = pc.prepare(plan, parameters)
    known = [window[name] for name in ("log_probs", "values", "observed")]
    own = CouplingStepper(CouplingSettings(), plan, prepared).distribution(*known)
    other = couple(CouplingSettings(), plan, prepared, *known)
    tokens = own.sample()[:, 0]
    assert torch.equal(own.sample(temperature=1.0)[:, 0], tokens)  # the step's, drawn at 1
    torch.testing.assert_close(own.log_prob(tokens), other.log_prob(tokens), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        own.condition(tokens, ~window["observed"]).marginals(),
        other.condition(tokens, ~window["observed"]).marginals(),
        rtol=0,
        atol=1e-5,
    )
    assert own.sample(3).shape == (BATCH, 3, WINDOW)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_counts_for_nothing_in_a_stepped_distribution(
    kind: str, chain: Any, window: dict[str, Tensor]
) -> None:
    plan, parameters = chain
    prepared = pc.prepare(plan, parameters)
    known = [window[name] for name in ("log_probs", "values", "observed")]
    settings, valid = CouplingSettings(kind), window["valid"]
    own = CouplingStepper(settings, plan, prepared).distribution(*known, valid=valid)
    other = couple(settings, plan, prepared, *known, valid=valid)
    torch.testing.assert_close(own.log_partition, other.log_partition, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(own.marginals()[valid], other.marginals()[valid], rtol=0, atol=1e-5)


def test_the_model_steps_as_it_couples() -> None:
    model = CoupledModel.from_pretrained("demo").to(DEVICE)
    tokens = torch.full((2, model.window), model.mask_id, device=DEVICE)
    tokens[:, :5] = model.vocabulary.encode("def f").to(DEVICE)
    start = torch.zeros(2, dtype=torch.long, device=DEVICE)
    with torch.no_grad():
        output = model.denoise(tokens)
        expected = model.distribution(output, tokens, start)
        found = model.captured_distribution(output, tokens, start)
    torch.testing.assert_close(found.log_partition, expected.log_partition, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.marginals(), expected.marginals(), rtol=0, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_capture_without_a_device_says_so_before_any_work() -> None:
    model = CoupledModel.from_pretrained("demo")
    with pytest.raises(DecodingError, match="capture: expected the model on a CUDA device"):
        model.generate("def", capture=True)
    with pytest.raises(DecodingError, match="capture: expected sampler 'exact' or 'latent'"):
        model.generate("def", capture=True, sampler="any_order")


@pytest.mark.gpu
def test_captured_decoding_runs_and_repeats() -> None:
    model = CoupledModel.from_pretrained("demo").to("cuda")
    prompts = [model.vocabulary.encode(text).to("cuda") for text in ("def f", "return ")]
    found = [
        generate(model, prompts, model.block, 4, capture=True, seed=3).completions for _ in range(2)
    ]
    assert torch.equal(*found)
    assert (found[0] != model.mask_id).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_step_is_the_step(kind: str, chain: Any, window: dict[str, Tensor]) -> None:
    plan, parameters = chain
    known = [window[name] for name in ("log_probs", "values", "observed", "uniforms")]
    captured, plain = (
        CouplingStepper(CouplingSettings(kind), plan, pc.prepare(plan, parameters), capture=own)
        for own in (True, False)
    )
    for _ in range(3):
        known[0] = torch.randn_like(known[0]).log_softmax(-1)
        found, expected = captured.step(*known), plain.step(*known)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.marginals, expected.marginals, rtol=0, atol=1e-6)
