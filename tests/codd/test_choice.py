"""Several circuits, of which one is chosen for each window by mask ratio or domain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import codd
import pcircuits as pc
from codd.coupling.rowwise import RowwiseDistribution
from codd.errors import ConfigError, CouplingError
from codd.training.coupling_loop import CouplingTraining, train_coupling
from codd.training.schedule import Schedule
from tests.support.coupled import TEXT, tiny_model

FAMILIES: tuple[Callable[[int], pc.Circuit], ...] = (
    lambda size: pc.families.hmm(8, 5, size),
    lambda size: pc.families.binary_tree(8, 4, size),
    lambda size: pc.families.monarch_hmm(8, 4, size),
)
BY_RATIO = codd.CircuitChoice("mask_ratio", edges=(0.3, 0.7))
BY_DOMAIN = codd.CircuitChoice("domain", domains=("prose", "code", "lists"))


def members_of(choice: codd.CircuitChoice) -> codd.CoupledModel:
    """A model with three circuits of different families and modulators."""
    one = tiny_model()
    torch.manual_seed(5)
    pairs = []
    for i, (make, kind) in enumerate(zip(FAMILIES, ("latent", "static", "latent"), strict=True)):
        circuit = pc.CircuitModel(make(one.num_categories), seed=i)
        modulator = codd.make_modulator(kind, circuit.plan, one.denoiser.hidden_size, rank=3)
        for weight in modulator.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        pairs.append((circuit, modulator))
    return codd.CoupledModel(
        one.denoiser,
        *pairs[0],
        one.vocabulary,
        block_length=4,
        alternatives=pairs[1:],
        choice=choice,
    ).eval()


def windows(model: codd.CoupledModel) -> Tensor:
    """Five windows with 1, 8, 4, 2 and 6 masked tokens of eight."""
    tokens = model.vocabulary.encode(TEXT[:8]).repeat(5, 1)
    for row, count in enumerate((1, 8, 4, 2, 6)):
        tokens[row, 8 - count :] = model.mask_id
    return tokens


def alone(model: codd.CoupledModel, member: int) -> codd.CoupledModel:
    """The same model with one of its circuits."""
    return codd.CoupledModel(
        model.denoiser, *model.members[member], model.vocabulary, block_length=4
    )


@pytest.mark.parametrize("coupling", ["factorised", "product", "local", "copula"])
@torch.no_grad()
def test_each_row_is_coupled_by_its_own_circuit(coupling: str) -> None:
    model = members_of(BY_RATIO)
    tokens = windows(model)
    joint = model.joint(tokens, coupling=coupling)
    filled = model.vocabulary.encode(TEXT[:8]).repeat(5, 1)
    for row, member in enumerate((0, 2, 1, 0, 2)):
        own = alone(model, member).joint(tokens[row : row + 1], coupling=coupling)
        at = slice(row, row + 1)
        torch.testing.assert_close(joint.log_prob(filled)[at], own.log_prob(filled[at]))
        torch.testing.assert_close(joint.marginals()[at], own.marginals())
        torch.testing.assert_close(joint.mutual_information()[at], own.mutual_information())
        torch.testing.assert_close(joint.log_partition[at], own.log_partition)
        torch.testing.assert_close(joint.marginal_error[at], own.marginal_error)
        assert torch.equal(joint.values[at], own.values)
        assert torch.equal(joint.observed[at], own.observed)
        more = own.condition(filled[at], own.observed | (torch.arange(8) == 7))
        both = joint.condition(filled, joint.observed | (torch.arange(8) == 7))
        torch.testing.assert_close(both.marginals()[at], more.marginals())
    assert (joint.batch_size, joint.length, joint.num_categories) == (5, 8, model.num_categories)
    drawn = joint.sample(3, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (5, 3, 8)
    assert torch.equal(drawn[0, :, :7], tokens[0, :7].expand(3, -1))


@torch.no_grad()
def test_tokens_are_fixed_one_by_one_in_each_row_s_own_circuit() -> None:
    model = members_of(BY_RATIO)
    tokens = windows(model)
    joint = model.joint(tokens)
    assert isinstance(joint, RowwiseDistribution)
    assert (joint.batch_size, joint.length) == (5, 8)
    drawn = joint.sample(40, generator=torch.Generator().manual_seed(1))[joint.rows[0]]
    assert torch.equal(drawn, joint.parts[0].sample(40, generator=torch.Generator().manual_seed(1)))
    conditioner = joint.conditioner()
    positions, picked = torch.tensor([7, 0, 4, 6, 3]), torch.tensor([1, 2, 3, 4, 5])
    rows = torch.tensor([True, True, True, False, True])
    conditioner.fix(positions, picked, rows)
    fixed = (torch.arange(8) == positions[:, None]) & rows[:, None]
    filled = torch.where(fixed, picked[:, None], joint.values)
    expected = joint.condition(filled, joint.observed | fixed).marginals()

    free = ~(joint.observed | fixed)
    found = conditioner.marginals(free)
    torch.testing.assert_close(found[free], expected[free])
    one = conditioner.marginal(torch.full((5,), 7), free[:, 7])
    torch.testing.assert_close(one[free[:, 7]], expected[free[:, 7], 7])


@pytest.mark.parametrize("sampler", ["exact", "any_order"])
def test_text_is_written_while_circuits_change(sampler: str) -> None:
    model = members_of(BY_RATIO)
    found = model.generate(["the cat", "on"], new_tokens=8, steps=8, sampler=sampler)

    assert [len(text) for text in found] == [15, 10]
    assert found == model.generate(["the cat", "on"], new_tokens=8, steps=8, sampler=sampler)


@torch.no_grad()
def test_a_domain_is_chosen_for_all_rows_or_for_each() -> None:
    model = members_of(BY_DOMAIN)
    tokens = windows(model)
    names = ["code", "prose", "lists", "code", "prose"]
    each = model.joint(tokens, domain=names).marginals()
    for row, name in enumerate(names):
        own = alone(model, BY_DOMAIN.domains.index(name)).joint(tokens[row : row + 1])
        torch.testing.assert_close(each[row : row + 1], own.marginals())
    single = model.for_domain("code").joint(tokens).marginals()
    torch.testing.assert_close(model.joint(tokens, domain="code").marginals(), single)
    (text,) = model.for_domain("lists").generate("the", new_tokens=4, steps=2)
    assert len(text) == 7

    for wrong in (None, "verse", ["code"]):
        with pytest.raises(ConfigError, match="domain: expected one of"):
            model.joint(tokens, domain=wrong)
    with pytest.raises(ConfigError, match="expected one of"):
        model.for_domain("verse")
    with pytest.raises(ConfigError, match="by mask ratio"):
        members_of(BY_RATIO).joint(tokens, domain="code")


def test_all_circuits_and_the_choice_come_back_from_files(tmp_path: Path) -> None:
    for choice in (BY_RATIO, BY_DOMAIN):
        model = members_of(choice)
        folder = tmp_path / choice.by
        model.save_pretrained(folder)
        again = codd.CoupledModel.from_pretrained(folder)
        tokens = windows(model)
        domain = ["code", "prose", "lists", "code", "prose"] if choice.domains else None

        assert again.choice == choice
        with torch.no_grad():
            before, after = (m.joint(tokens, domain=domain).marginals() for m in (model, again))
        torch.testing.assert_close(after, before)


def test_every_circuit_learns_from_the_windows_that_it_serves(tmp_path: Path) -> None:
    model = members_of(codd.CircuitChoice("mask_ratio", edges=(0.5, 0.9)))
    tokens = model.vocabulary.encode(TEXT * 20)
    training = CouplingTraining(batch_size=8, circuit_learning_rate=0.05, validation_windows=8)
    before = [[w.detach().clone() for w in circuit.log_weights] for circuit, _ in model.members]
    schedule = Schedule(steps=6, validate_every=6, seed=0)
    train_coupling(
        model,
        tokens,
        tokens[:64].view(4, 16),
        training,
        schedule,
        tmp_path,
        {},
        show_progress=False,
    )

    for own, (circuit, _) in zip(before, model.members, strict=True):
        pairs = zip(own, circuit.log_weights, strict=True)
        assert any(not torch.equal(was, now) for was, now in pairs)


def test_misfits_are_named() -> None:
    model = members_of(BY_RATIO)
    pair = model.members[0]
    parts = (model.denoiser, *pair, model.vocabulary)
    with pytest.raises(ConfigError, match="expected 3 circuits, found 1"):
        codd.CoupledModel(*parts, block_length=4, choice=BY_RATIO)
    with pytest.raises(ConfigError, match="expected 1 circuits, found 2"):
        codd.CoupledModel(*parts, block_length=4, alternatives=[pair])
    other = pc.CircuitModel(pc.families.hmm(7, 2, model.num_categories))
    modulator = codd.make_modulator("static", other.plan, 1)
    by_two = codd.CircuitChoice("mask_ratio", edges=(0.5,))
    with pytest.raises(ConfigError, match="one number of variables"):
        codd.CoupledModel(*parts, block_length=4, alternatives=[(other, modulator)], choice=by_two)
    with pytest.raises(CouplingError, match="each of 5 windows once"):
        joint = model.joint(windows(model))
        assert isinstance(joint, RowwiseDistribution)
        RowwiseDistribution((joint.rows[0], *joint.rows[:-1]), joint.parts)
    first, second, third = joint.rows
    for rows in ((second, first, third), (first, third, second)):
        assert [len(own) for own in rows] != [part.batch_size for part in joint.parts]
        with pytest.raises(CouplingError, match="each of 5 windows once"):
            RowwiseDistribution(rows, joint.parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "weather"}, "expected one of"),
        ({"by": "mask_ratio"}, "expected edges"),
        ({"by": "domain", "edges": (0.5,)}, "expected domains"),
        ({"by": "mask_ratio", "edges": (0.5,), "domains": ("a",)}, "nothing else"),
        ({"by": "mask_ratio", "edges": (0.7, 0.3)}, "rising"),
        ({"by": "mask_ratio", "edges": (0.5, 1.0)}, "rising"),
        ({"by": "domain", "domains": ("a", "a")}, "different names"),
    ],
)
def test_choices_are_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        codd.CircuitChoice(**arguments)  # type: ignore[arg-type]
