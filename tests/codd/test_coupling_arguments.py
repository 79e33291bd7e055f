"""What couplings are given: defaults, names from files, limits, and what is refused, in full."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.conditioner import require_possible
from codd.coupling.rowwise import RowwiseDistribution
from codd.coupling.step import coupling_step
from codd.coupling.stepper import CouplingStepper
from codd.coupling.targets import Listing, list_top
from codd.coupling.window import describe
from codd.errors import CouplingError
from tests.support.joint import Case, small_case

# Texts that a file gives are equal to the names in the code, and not the same objects.
KINDS: list[str] = json.loads(json.dumps(codd.COUPLINGS))


def case() -> Case:
    return small_case(num_categories=4)


def couple(case: Case, kind: str = "product", **options: Any) -> Any:
    own = (case.plan, case.parameters, case.log_probs, case.values, case.observed)
    return codd.couple(codd.CouplingSettings(kind), *own, **options)


def stepper(kind: str = "product", **options: Any) -> CouplingStepper:
    own = case()
    prepared = pc.prepare(own.plan, own.parameters)
    return CouplingStepper(codd.CouplingSettings(kind, **options), own.plan, prepared)


def factorised(case: Case, **options: Any) -> codd.FactorisedDistribution:
    return codd.FactorisedDistribution(case.log_probs, case.values, case.observed, **options)


def test_settings_start_from_three_sweeps_of_the_copula() -> None:
    found = codd.CouplingSettings()
    assert found == codd.CouplingSettings(
        "copula",
        step_sizes=(1.0, 0.5, 0.3),
        tolerance=0.0,
        target_temperature=1.0,
        target_top_p=1.0,
        target_floor=0.0,
        top_k=None,
        conditioned=True,
    )
    assert not found.changes_target and found.conditioned
    assert (
        *("factorised", "product", "local", "copula"),
        *("conditioned", "conditioned-product", "conditioned-local", "conditioned-copula"),
        *("static", "static-product", "static-local", "static-copula"),
    ) == codd.COUPLING_NAMES


@pytest.mark.parametrize("change", [{"target_temperature": 2.0}, {"target_temperature": 0.5}])
def test_a_tempered_target_is_a_changed_one(change: dict[str, float]) -> None:
    assert codd.CouplingSettings(**change).changes_target  # type: ignore[arg-type]
    assert codd.CouplingSettings(target_top_p=0.99).changes_target
    assert not codd.CouplingSettings(target_floor=0.5).changes_target


@pytest.mark.parametrize(
    "edge",
    [
        {"step_sizes": (1.0, 1e-9)},
        {"step_sizes": [0.5]},
        {"tolerance": 0.5},
        {"target_temperature": 1e-9},
        {"target_temperature": 1e9},
        {"target_top_p": 1e-9},
        {"target_floor": 0.999},
        {"top_k": 1},
    ],
    ids=str,
)
def test_all_up_to_the_limits_is_taken(edge: dict[str, Any]) -> None:
    found = codd.CouplingSettings(**edge)
    for name, value in edge.items():
        assert getattr(found, name) == (tuple(value) if name == "step_sizes" else value)


@pytest.mark.parametrize(
    ("beyond", "message"),
    [
        ({"step_sizes": (1.0, 1.5)}, "in (0, 1] for each sweep; found (1.0, 1.5)"),
        ({"step_sizes": (2.0,)}, "in (0, 1] for each sweep; found (2.0,)"),
        ({"step_sizes": (0.5, -0.5)}, "in (0, 1] for each sweep; found (0.5, -0.5)"),
        ({"tolerance": -0.5}, "tolerance must be at least 0; found -0.5"),
        ({"target_temperature": -1.0}, "target_temperature must be above 0 and finite; found -1"),
        ({"target_temperature": float("inf")}, "must be above 0 and finite; found inf"),
        ({"target_temperature": float("nan")}, "must be above 0 and finite; found nan"),
        ({"target_top_p": -0.5}, "target_top_p must be in (0, 1]; found -0.5"),
        ({"target_top_p": 1.5}, "target_top_p must be in (0, 1]; found 1.5"),
        ({"target_floor": -0.5}, "target_floor must be in [0, 1); found -0.5"),
        ({"top_k": -1}, "top_k must be at least 1; found -1"),
    ],
)
def test_all_beyond_the_limits_is_refused(beyond: dict[str, Any], message: str) -> None:
    with pytest.raises(CouplingError, match=re.escape(message)):
        codd.CouplingSettings(**beyond)


@pytest.mark.parametrize("kind", KINDS)
def test_a_coupling_may_be_named_by_a_text_of_a_file(kind: str) -> None:
    own, settings = case(), codd.CouplingSettings(kind)
    named = {known: known for known in codd.COUPLINGS}[kind]
    assert named == kind and named is not kind
    tokens = torch.where(own.observed, own.values, 1)
    found, expected = couple(own, kind), couple(own, named)
    assert type(found) is type(expected)
    assert torch.equal(found.log_prob(tokens), expected.log_prob(tokens))
    base = settings.named(json.loads('"conditioned-local"'))
    assert base.conditioned and base.kind == "local"
    assert settings.named("static").kind == ("copula" if named == "factorised" else kind)
    if named == "factorised":
        with pytest.raises(CouplingError, match="no circuit to step through"):
            stepper(kind).distribution(own.log_probs, own.values, own.observed)
        return
    stepped, other = (
        stepper(each).distribution(own.log_probs, own.values, own.observed)
        for each in (kind, named)
    )
    torch.testing.assert_close(stepped.marginals(), expected.marginals())
    assert torch.equal(stepped.omitted_mass, other.omitted_mass)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [[0, 0, 0, 0], [0, 3, 4, 9]]}, "visible token [1, 2] is 4; expected 0 .. 3"),
        ({"values": [[3, -1, 0, 0], [-5, 9, 0, 0]]}, "visible token [0, 1] is -1; expected 0 .. 3"),
        ({"values": [[0] * 3] * 2}, "values has shape (2, 3); log-potentials need (2, 4)"),
        ({"observed": [[True] * 4]}, "observed has shape (1, 4); log-potentials need (2, 4)"),
        ({"valid": [[True] * 4] * 3}, "valid has shape (3, 4); log-potentials need (2, 4)"),
        (
            {"valid": [[True] * 4, [True, False, True, False]]},
            "position [1, 1] is padding and observed; expected one",
        ),
        (
            {"tokens": 5},
            "the circuit has 4 variables of 4 categories; the window has 5 tokens of 4",
        ),
        (
            {"tokens": 3},
            "the circuit has 4 variables of 4 categories; the window has 3 tokens of 4",
        ),
        ({"size": 5}, "the circuit has 4 variables of 4 categories; the window has 4 tokens of 5"),
        ({"size": 3}, "the circuit has 4 variables of 4 categories; the window has 4 tokens of 3"),
    ],
)
def test_misfits_are_named_in_full(change: dict[str, Any], message: str) -> None:
    own, width = case(), change.pop("tokens", 4)
    log_probs = torch.zeros(2, width, change.pop("size", 4)).double().log_softmax(-1)
    given = {
        "values": torch.zeros(2, width).long(),
        "observed": torch.ones(2, width, dtype=torch.bool),
        **{name: torch.tensor(value) for name, value in change.items()},
    }
    plan, weights = own.plan, own.parameters
    with pytest.raises(CouplingError, match=f"{re.escape(message)}$"):
        codd.couple(codd.CouplingSettings("product"), plan, weights, log_probs, **given)


def test_lists_that_do_not_fit_are_named() -> None:
    own = case()
    listing = Listing(torch.zeros(3, 4, 2).long())
    message = (
        "the lists have shape (3, 4, 2); log-potentials of listed tokens need the same, found "
        "(3, 4, 4)"
    )
    for build in (
        lambda: couple(own, listing=listing),
        lambda: couple(own, "factorised", listing=listing),
    ):
        with pytest.raises(CouplingError, match=re.escape(message)):
            build()
    all_of = Listing(torch.arange(4).expand(3, 4, 4))
    with pytest.raises(
        CouplingError, match="vocabulary_size must be at least 1 with lists; found 0"
    ):
        factorised(own, listing=all_of)
    assert factorised(own, listing=all_of, vocabulary_size=4).num_categories == 4
    for wrong in (own.log_probs[0], own.log_probs[None]):
        with pytest.raises(CouplingError, match=r"log-potentials must be \(B, W, V\); found shape"):
            factorised(replace(own, log_probs=wrong))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_first_log_probability_that_is_no_number_is_named(value: float) -> None:
    own = case()
    for row, position, token in ((1, 2, 3), (1, 2, 2), (2, 0, 0), (2, 3, 1)):
        own.log_probs[row, position, token] = value
    own.log_probs[1, 1, 0] = -torch.inf
    message = f"the log-potential of token 2 at [1, 2] is {value}; expected one below +inf"
    with pytest.raises(CouplingError, match=f"^{re.escape(message)}$"):
        factorised(own)
    padded = torch.ones(3, 4, dtype=torch.bool)
    padded[1, 2] = padded[2, 0] = padded[2, 3] = False
    assert factorised(own, valid=padded).batch_size == 3


@pytest.mark.parametrize("kind", ["factorised", "product"])
def test_tokens_of_another_shape_are_refused(kind: str) -> None:
    message = re.escape("(3, 3); expected (3, 4)") if kind == "factorised" else "3"
    with pytest.raises((CouplingError, pc.errors.EvidenceError), match=message):
        couple(case(), kind).log_prob(torch.zeros(3, 3).long())


def test_what_is_no_token_has_no_probability() -> None:
    """Of an independent token, too; at padding anything may stand."""
    own = case()
    tokens = torch.where(own.observed, own.values, 0)[[2] * 4]
    tokens[:, 1] = torch.tensor([-1, 4, 0, 3])
    valid = torch.ones(4, 4, dtype=torch.bool)
    valid[:, 3] = False
    tokens[:, 3] = 9
    free = torch.zeros(4, 4, dtype=torch.bool)
    alone = codd.FactorisedDistribution(own.log_probs[[2] * 4], tokens, free, valid)
    found = alone.log_prob(tokens)
    each = own.log_probs[2]
    expected = each[0, 0] + each[2, 0] + each[1, [0, 3]]
    assert (found[:2] == -torch.inf).all()
    torch.testing.assert_close(found[2:], expected)


def test_impossible_windows_are_named_and_counted() -> None:
    require_possible(torch.zeros(3))
    with pytest.raises(CouplingError, match=r"visible tokens of window 1 \(of 2 such\)"):
        require_possible(torch.tensor([0.0, -torch.inf, 3.0, -torch.inf]))
    with pytest.raises(CouplingError, match="log Z of window 2 is nan;"):
        require_possible(torch.tensor([0.0, 3.0, torch.nan, -torch.inf]))


@pytest.mark.parametrize("kind", codd.COUPLINGS)
def test_a_token_may_be_fixed_again(kind: str) -> None:
    joint, every = couple(case(), kind), torch.ones(3, dtype=torch.bool)
    conditioner, place = joint.conditioner(), torch.tensor([0, 1, 2])
    for _ in range(2):
        conditioner.fix(place, torch.tensor([2, 3, 1]), every)
    rows = torch.arange(3)
    whole = conditioner.marginals(torch.ones(3, 4, dtype=torch.bool))[rows, place]
    single = conditioner.marginal(place, every)
    for found in (whole, single):
        torch.testing.assert_close(found, torch.eye(4)[[2, 3, 1]].double())


def test_no_windows_are_told_as_such() -> None:
    empty = torch.zeros(0, 4, dtype=torch.bool)
    assert describe("X", empty, 3) == "X(0 windows of 4 tokens, 3 categories, 0 masked)"


def test_windows_of_a_batch_have_one_size() -> None:
    one, two = factorised(case()), factorised(small_case(num_categories=3))
    rows = (torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5]))
    message = re.escape("windows of one batch must have one size; found [(4, 3), (4, 4)]")
    with pytest.raises(CouplingError, match=message):
        RowwiseDistribution(rows, (one, two))
    alone = RowwiseDistribution((torch.tensor([2, 0, 1]),), (one,))
    assert (alone.batch_size, alone.length, alone.num_categories) == (3, 4, 4)
    assert torch.equal(alone.values[[2, 0, 1]], one.values)
    message = re.escape("rows must name each of 3 windows once; found [0, 1, 1]")
    with pytest.raises(CouplingError, match=message):
        RowwiseDistribution((torch.tensor([1, 0, 1]),), (one,))


def objects() -> list[Any]:
    """One of each kind of object that couplings are made of, after it has been used."""
    own = case()
    _, listing = list_top(own.log_probs, 2)
    listing.place(own.values)
    stepped = stepper()
    found = stepped.distribution(own.log_probs, own.values, own.observed)
    joint, alone = couple(own), factorised(own)
    rows = RowwiseDistribution((torch.arange(3),), (joint,))
    for each in (found, joint, alone, rows):
        assert each.batch_size == 3 and "3 windows" in repr(each)
    return [codd.CouplingSettings(), listing, stepped, found.found, found, joint, alone, rows]


@pytest.mark.parametrize("number", range(8))
def test_nothing_is_changed_once_it_is_made(number: int) -> None:
    """And what holds tensors is equal to itself alone, so that it can be compared and kept."""
    own = objects()[number]
    name = next(iter(type(own).__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(own, name, getattr(own, name))
    assert own == own and isinstance(hash(own), int)
    assert number == 0 or own != replace(own, **{name: getattr(own, name)})


def test_what_comes_by_name_alone_cannot_come_by_place() -> None:
    own, joint = case(), couple(case())
    given = (own.log_probs, own.values, own.observed)
    with pytest.raises(TypeError, match="positional"):
        codd.FactorisedDistribution(*given, None, None)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        codd.CoupledDistribution(joint.plan, joint.parameters, *given, None, None, None)  # type: ignore[misc]
    stepped = stepper()
    with pytest.raises(TypeError, match="_captured"):
        CouplingStepper(stepped.settings, stepped.plan, stepped.parameters, _captured={})  # type: ignore[call-arg]
    assert "_captured" not in repr(stepped)


@pytest.mark.parametrize("kind", [*codd.COUPLINGS, "rowwise", "stepped"])
def test_samples_are_asked_for_by_number_name_and_temperature(kind: str) -> None:
    """One is drawn at temperature 1 if nothing is said."""
    own = case()
    if kind == "rowwise":
        rows = (torch.tensor([2, 0, 1]),)
        joint: Any = RowwiseDistribution(rows, (couple(own),))
    elif kind == "stepped":
        joint = stepper("copula").distribution(own.log_probs, own.values, own.observed)
    else:
        joint = couple(own, kind)

    def drawn(*given: Any, **named: Any) -> Tensor:
        found: Tensor = joint.sample(*given, generator=torch.Generator().manual_seed(1), **named)
        return found

    assert drawn().shape == (3, 1, 4)
    assert torch.equal(drawn(), drawn(num_samples=1, temperature=1.0))
    assert torch.equal(drawn(50), drawn(num_samples=50, temperature=1.0))
    for temperature in (0.0, 0.5, 2.0):
        assert not torch.equal(drawn(50), drawn(50, temperature=temperature))
    for wrong in ((0, 1.0), (-1, 0.5), (1, -0.5), (2, float("nan"))):
        message = f"num_samples >= 1 and temperature >= 0; found {wrong[0]}, {wrong[1]}"
        with pytest.raises((CouplingError, pc.errors.EvidenceError), match=message):
            joint.sample(wrong[0], temperature=wrong[1])
    with pytest.raises(TypeError, match="positional"):
        joint.sample(1, 1.0)


def test_a_coupling_takes_all_its_arguments_by_name() -> None:
    own, settings = case(), codd.CouplingSettings("product")
    window = {"log_probs": own.log_probs, "values": own.values, "observed": own.observed}
    circuit = {"plan": own.plan, "parameters": own.parameters}
    found = codd.couple(settings=settings, **circuit, **window)  # type: ignore[arg-type]
    assert torch.equal(found.marginals(), couple(own).marginals())
    stepped, uniforms = stepper(), torch.rand(3, 1, 4, 2)
    assert torch.equal(
        stepped.distribution(**window).marginals(),
        coupling_step(
            settings=settings, passes=stepped.passes, uniforms=uniforms, **window
        ).marginals,
    )
    with pytest.raises(TypeError, match="positional"):
        codd.couple(settings, *circuit.values(), *window.values(), None)  # type: ignore[misc,arg-type]
    with pytest.raises(TypeError, match="positional"):
        stepped.distribution(*window.values(), None)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        coupling_step(settings, stepped.passes, *window.values(), uniforms, None, None, None, 1.0)  # type: ignore[misc]
